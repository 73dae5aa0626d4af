import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.approval import ApprovalTimeoutError
from amplifier_core.llm_errors import ConfigurationError
from amplifier_core.models import ToolResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from tool_programs import need_bubblewrap, path_without, processes_with

NO_SANDBOX = "Commands are not run here: there is no sandbox for them (bubblewrap (bwrap) is not installed)"


class Terminal:
    def __init__(self, folder: Path, coordinator: MockCoordinator, close: Callable[[], Any]) -> None:
        self.folder = folder
        self.coordinator = coordinator
        self.close = close

    async def run(self, command: Any, **arguments: Any) -> ToolResult:
        return await self.coordinator.get("tools", "bash").execute({"command": command, **arguments})

    async def say(self, command: str, **arguments: Any) -> str:
        result = await self.run(command, **arguments)
        assert result.success, result.output
        return result.output["stdout"]

    async def jobs(self, **arguments: Any) -> ToolResult:
        return await self.coordinator.get("tools", "bash_jobs").execute(arguments)

    def signal(self) -> Path:
        """A pipe that a command tells something through."""
        pipe = self.folder / "ready"
        os.mkfifo(pipe)
        return pipe


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
def capabilities() -> dict[str, Any]:
    return {}


@pytest.fixture
async def terminal(tmp_path: Path, options: dict[str, Any], capabilities: dict[str, Any]) -> AsyncIterator[Terminal]:
    folder = tmp_path / "session"
    folder.mkdir()
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(folder))
    for name, value in capabilities.items():
        coordinator.register_capability(name, value)
    close = await load_mount("tool-bash")(coordinator, options)
    yield Terminal(folder, coordinator, close)
    await close()


@pytest.fixture
def sandbox() -> None:
    need_bubblewrap()


@pytest.fixture
def no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path_without(monkeypatch, tmp_path)


in_sandbox = pytest.mark.usefixtures("sandbox")
without_sandbox = pytest.mark.usefixtures("no_sandbox")


@in_sandbox
async def test_a_command_works_in_the_sessions_folder(terminal: Terminal) -> None:
    result = await terminal.run("echo hello > a.txt; cat a.txt; pwd; echo wrong >&2")

    assert result == ToolResult(output={"stdout": f"hello\n{terminal.folder}\n", "stderr": "wrong\n", "returncode": 0})
    assert (terminal.folder / "a.txt").read_text() == "hello\n"


@in_sandbox
async def test_a_command_that_fails_says_how(terminal: Terminal) -> None:
    result = await terminal.run("exit 3")

    assert result == ToolResult(
        success=False,
        output={"stdout": "", "stderr": "", "returncode": 3, "state": "ended with exit code 3"},
        error={"message": "The command ended with exit code 3"},
    )


@in_sandbox
async def test_temporary_files_stay_between_commands_and_go_with_the_session(terminal: Terminal) -> None:
    await terminal.run("echo kept > /tmp/a; mkdir -p /tmp/b; echo x > $HOME/c; echo y > /dev/shm/d")

    assert await terminal.say("cat /tmp/a ~/c /dev/shm/d; ls -d /tmp/?") == "kept\nx\ny\n/tmp/a\n/tmp/b\n/tmp/c\n"
    scratch = terminal.coordinator.get("tools", "bash")._shell._scratch.folder
    await terminal.close()
    assert not scratch.exists()


@in_sandbox
async def test_a_command_takes_its_time_and_no_longer(terminal: Terminal) -> None:
    result = await terminal.run("sleep 1000", timeout=0.3)

    assert result.output == {
        "stdout": "",
        "stderr": "",
        "returncode": 137,
        "state": "ended: it ran longer than it may",
    }


@in_sandbox
@pytest.mark.parametrize("options", [{"environment": {"GREETING": "hello"}, "max_output_bytes": 100}])
async def test_the_environment_is_what_the_options_say(terminal: Terminal) -> None:
    assert await terminal.say("echo $GREETING") == "hello\n"
    assert await terminal.say("seq 1000") == (
        "".join(f"{number}\n" for number in range(1, 21))[:50]
        + "\n[3,793 bytes left out]\n"
        + "".join(f"{number}\n" for number in range(980, 1001))[-50:]
    )


@in_sandbox
async def test_jobs_run_in_the_background_until_they_are_stopped(terminal: Terminal) -> None:
    pipe = terminal.signal()
    started = await terminal.run("echo begun; echo > ready; sleep 1000", run_in_background=True)
    await asyncio.to_thread(pipe.read_text)

    assert started == ToolResult(output={"job_id": "job-1", "state": "running"})
    assert (await terminal.jobs(action="list")).output == [
        {"job_id": "job-1", "command": "echo begun; echo > ready; sleep 1000", "state": "running"}
    ]
    stopped = await terminal.jobs(action="stop", job_id="job-1")
    assert stopped.output == {
        "job_id": "job-1",
        "state": "ended: it was stopped",
        "stdout": "begun\n",
        "stderr": "",
    }
    assert (await terminal.jobs(action="read", job_id="job-1")).output == stopped.output
    assert (await terminal.jobs(action="read", job_id="job-2")).output == "There is no job 'job-2'. Jobs: job-1"


@in_sandbox
@pytest.mark.parametrize("options", [{"max_jobs": 1}])
async def test_jobs_have_a_bound(terminal: Terminal) -> None:
    await terminal.run("sleep 1000", run_in_background=True)

    assert (await terminal.run("sleep 1000", run_in_background=True)).output == (
        "1 jobs are running, and no more may; stop one or wait for its end"
    )


@in_sandbox
async def test_all_jobs_end_with_the_session(terminal: Terminal) -> None:
    pipe = terminal.signal()
    mark = f"sleep 96{os.getpid()}"
    await terminal.run(f"{mark} & setsid {mark} & echo > ready; wait", run_in_background=True)
    await asyncio.to_thread(pipe.read_text)
    assert processes_with(mark) != []

    await terminal.close()

    assert processes_with(mark) == []


@in_sandbox
async def test_a_cancelled_command_is_gone_with_all_it_started(terminal: Terminal) -> None:
    pipe = terminal.signal()
    mark = f"sleep 95{os.getpid()}"
    running = asyncio.create_task(terminal.run(f"{mark} & (setsid nohup {mark} &); echo > ready; {mark}"))
    await asyncio.to_thread(pipe.read_text)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert processes_with(mark) == []


@in_sandbox
async def test_a_loop_that_is_cancelled_leaves_no_process(open_chat: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    mark = f"sleep 92{os.getpid()}"
    call = json.dumps({"command": f"{mark} & echo > ready; wait"})
    chat = await open_chat(replies=[f"[[tool: bash {call}]]"])
    chat.coordinator.register_capability("session.working_dir", str(tmp_path))
    close = await load_mount("tool-bash")(chat.coordinator, {})
    turn = await chat.start("go")
    await asyncio.to_thread((tmp_path / "ready").read_text)

    turn.cancel()
    await asyncio.wait([turn])

    assert processes_with(mark) == []
    await close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"command": 5}, "command is missing: it must be a text"),
        ({"command": "  "}, "The command is empty or holds a NUL character"),
        ({"command": "echo \0"}, "The command is empty or holds a NUL character"),
        ({"command": "echo \ud800"}, "The command is no text: it holds half a character"),
        ({"command": "x" * 100_001}, "A command has at most 100,000 bytes; write a file and run that"),
        ({"command": "ls", "timeout": 601}, "timeout must be a number of seconds, 600 at most"),
        ({"command": "ls", "timeout": float("nan")}, "timeout must be a number of seconds, 600 at most"),
    ],
)
async def test_wrong_arguments_are_answered(terminal: Terminal, arguments: dict[str, Any], problem: str) -> None:
    assert (await terminal.run(**arguments)).output == problem


@without_sandbox
async def test_without_a_sandbox_nothing_runs(terminal: Terminal) -> None:
    assert (await terminal.run("touch a")).output == NO_SANDBOX
    assert (await terminal.run("touch a", run_in_background=True)).output == NO_SANDBOX
    assert list(terminal.folder.iterdir()) == []


@without_sandbox
@pytest.mark.parametrize("options", [{"unsandboxed": "allow"}])
async def test_without_a_sandbox_commands_run_where_the_options_allow_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    mark = f"sleep 94{os.getpid()}"

    assert await terminal.say("pwd") == f"{terminal.folder}\n"
    assert "sk-secret" not in await terminal.say(f"env; (setsid {mark} &); setsid {mark} &")
    assert processes_with(mark) == []


@without_sandbox
@pytest.mark.parametrize("options", [{"unsandboxed": "allow"}])
@pytest.mark.parametrize("capabilities", [{"host.command_limits": {"unsandboxed": "refuse"}}])
async def test_the_host_may_forbid_what_the_options_allow(terminal: Terminal) -> None:
    assert (await terminal.run("touch a")).output == NO_SANDBOX


class Person:
    """An approval system with one answer."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    async def request_approval(self, *asked: Any) -> str:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@without_sandbox
@pytest.mark.parametrize("options", [{"unsandboxed": "ask", "approval_timeout": 60}])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("allow", "hello\n"),
        ("Allow once", "hello\n"),
        ("deny", "The command was not allowed"),
        ("whatever", "The command was not allowed"),
        (ApprovalTimeoutError("late"), "Nobody allowed the command in time"),
    ],
)
async def test_without_a_sandbox_a_person_can_be_asked(terminal: Terminal, answer: Any, said: str) -> None:
    person = Person(answer)
    terminal.coordinator.approval_system = person

    result = await terminal.run("echo hello")

    assert (result.output["stdout"] if result.success else result.output) == said
    assert person.asked == [
        (
            "Run this command without a sandbox (bubblewrap (bwrap) is not installed)?\necho hello",
            ["allow", "deny"],
            60,
            "deny",
        )
    ]


@without_sandbox
@pytest.mark.parametrize("options", [{"unsandboxed": "ask"}])
async def test_where_nobody_can_be_asked_nothing_runs(terminal: Terminal) -> None:
    terminal.coordinator.approval_system = None

    assert (await terminal.run("echo hello")).output == NO_SANDBOX


@in_sandbox
@pytest.mark.parametrize("options", [{"allowed_read_paths": ["../common"], "allowed_write_paths": ["../out"]}])
async def test_further_folders_are_there_for_reading_or_for_both(terminal: Terminal, tmp_path: Path) -> None:
    for name in ("common", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)

    assert await terminal.say("cat ../common/a.txt ../out/a.txt; echo b > ../out/b.txt") == "commonout"
    assert not (await terminal.run("echo b > ../common/b.txt")).success
    assert (tmp_path / "out/b.txt").read_text() == "b\n"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"unsandboxed": "sometimes"}, "option 'unsandboxed' must be one of: refuse, ask, allow"),
        ({"environment": ["A=b"]}, "option 'environment' must be a mapping of names to texts"),
        ({"environment": {"A B": "c"}}, "option 'environment' must be a mapping of names to texts"),
        ({"timeout": 0}, "option 'timeout' must be at least 1"),
        ({"allowed_write_paths": ["/etc"]}, "option 'allowed_write_paths' names /etc, outside the folders"),
    ],
)
async def test_options_that_are_wrong_are_told(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    coordinator = MockCoordinator()
    coordinator.register_capability("host.file_limits", {"readable": [], "writable": [str(tmp_path)]})

    with pytest.raises(ConfigurationError, match=problem):
        await load_mount("tool-bash")(coordinator, options)


def test_a_tool_says_whether_it_may_be_repeated(terminal: Terminal) -> None:
    tools = terminal.coordinator.get("tools")

    assert {name: (tool.read_only, tool.idempotent) for name, tool in tools.items()} == {
        "bash": (False, False),
        "bash_jobs": (False, True),
    }
