"""Tools in the hands of a model that wants out: out of the folder, out of the sandbox, out of its limits."""

import asyncio
import contextlib
import os
import shutil
import socket
import threading
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.tools import search_glob
from amplifier_app_api.modules.tools.bash_sandbox import setting
from amplifier_app_api.modules.tools.folders import SessionFolders
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.sandbox import FileRefused, Place, Sandbox
from tool_programs import need_bubblewrap, path_without, processes_with

SECRET = "the secret"


class Room:
    """A session's folder with something beside it that must stay out of reach."""

    def __init__(self, folder: Path, coordinator: MockCoordinator) -> None:
        self.folder = folder
        self.secret = folder.parent / "secret.txt"
        self._coordinator = coordinator

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self._coordinator.get("tools", tool).execute(arguments)

    async def bash(self, command: str, **arguments: Any) -> dict[str, Any]:
        return (await self.call("bash", command=command, **arguments)).output


@pytest.fixture
def bash_options() -> dict[str, Any]:
    return {}


@pytest.fixture
async def room(tmp_path: Path, bash_options: dict[str, Any]) -> AsyncIterator[Room]:
    folder = tmp_path / "session"
    folder.mkdir()
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("tool-filesystem")(coordinator, {})
    await load_mount("tool-search")(coordinator, {})
    close = await load_mount("tool-bash")(coordinator, bash_options)
    made = Room(folder, coordinator)
    made.secret.write_text(SECRET)
    yield made
    await close()


@pytest.fixture
def sandbox() -> None:
    need_bubblewrap()


in_sandbox = pytest.mark.usefixtures("sandbox")

WAYS_OUT = [
    "../secret.txt",
    "./../secret.txt",
    "a/../../secret.txt",
    "..//secret.txt",
    "link",
    "up/secret.txt",
    "up/session/../secret.txt",
    "chain/secret.txt",
    "/proc/self/cwd/../secret.txt",
    "/proc/self/root/etc/passwd",
    "/dev/stdin",
    "/etc/passwd",
    "~/../etc/passwd/../../secret.txt/../../../../../etc/passwd",
]


@pytest.mark.parametrize("path", WAYS_OUT)
@pytest.mark.parametrize("tool", ["read_file", "write_file", "edit_file", "list_directory", "glob", "grep"])
async def test_no_path_leads_out(room: Room, tool: str, path: str) -> None:
    (room.folder / "link").symlink_to(room.secret)
    (room.folder / "up").symlink_to("..")
    (room.folder / "chain").symlink_to("up")
    given = {"content": "x", "old_string": SECRET, "new_string": "x", "pattern": "secret"}

    result = await room.call(tool, path=path, **given)

    assert (result.success, result.output) == (False, f"{path} lies outside the folders this session may use")
    assert room.secret.read_text() == SECRET


@pytest.mark.parametrize(
    "path",
    [
        "．．/secret.txt",
        "‥/secret.txt",
        "..\u2215secret.txt",
        "..\\secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "..\u0000/secret.txt",
        "\u202e/../../secret.txt"[:1] + "/secret.txt",
        "\ud800/secret.txt",
        "x" * 300,
        "x/" * 3000,
    ],
)
async def test_what_only_looks_like_a_way_out_is_a_name(room: Room, path: str) -> None:
    result = await room.call("read_file", file_path=path)

    assert not result.success
    assert SECRET not in result.output
    assert str(room.folder) not in result.output
    result.output.encode()  # a text that can be stored and sent


async def test_names_that_differ_in_case_or_form_are_different_files(room: Room) -> None:
    composed, parted = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    for name in (composed, parted, "A.txt", "a.txt"):
        await room.call("write_file", file_path=name, content=ascii(name))

    assert sorted(path.name for path in room.folder.iterdir()) == sorted([composed, parted, "A.txt", "a.txt"])
    assert (await room.call("read_file", file_path=parted)).output == ascii(parted)


async def test_a_name_that_is_no_text_is_listed_as_text(room: Room) -> None:
    (room.folder / os.fsdecode(b"caf\xe9 needle.txt")).write_text("needle")

    for tool in ("list_directory", "glob"):
        result = await room.call(tool, pattern="*.txt")
        assert result.output.endswith("needle.txt")
        result.output.encode()
    assert (await room.call("grep", pattern="needle")).success


async def test_a_race_with_links_never_reads_or_writes_outside(room: Room) -> None:
    """One thread keeps exchanging a folder for a link out, while files in it are read and written."""
    inside, outside = room.folder / "folder", room.folder.parent / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text(SECRET)
    (outside / "only-outside").write_text("")
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            with contextlib.suppress(FileExistsError):
                inside.symlink_to(outside)
                inside.unlink()
            inside.mkdir(exist_ok=True)
            shutil.rmtree(inside, ignore_errors=True)

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    try:
        for _ in range(300):
            read = await room.call("read_file", file_path="folder/a.txt")
            assert SECRET not in str(read.output)
            await room.call("write_file", file_path="folder/a.txt", content="mine")
            found = await room.call("glob", pattern="*", path="folder", include_ignored=True)
            assert "only-outside" not in str(found.output)
    finally:
        done.set()
        exchanging.join()

    assert (outside / "a.txt").read_text() == SECRET
    assert sorted(path.name for path in outside.iterdir()) == ["a.txt", "only-outside"]


async def test_what_is_no_file_is_neither_read_nor_replaced_nor_waited_for(room: Room) -> None:
    os.mkfifo(room.folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(room.folder / "socket"))
        for name in ("pipe", "socket"):
            for tool in ("read_file", "write_file", "edit_file"):
                given = {"content": "x", "old_string": "a", "new_string": "b"}
                assert not (await room.call(tool, file_path=name, **given)).success
    assert (await room.call("grep", pattern="anything")).output == "[nothing found]"


async def test_a_huge_file_is_refused_without_being_read(room: Room) -> None:
    with (room.folder / "huge").open("wb") as file:
        file.truncate(2**40)

    assert (await room.call("read_file", file_path="huge")).output == "huge is larger than 10,000,000 bytes"
    assert (await room.call("grep", pattern="anything")).output == "[nothing found]"


@pytest.mark.parametrize("tool", ["glob", "list_directory"])
async def test_a_search_for_names_ends_when_its_time_is_up(
    room: Room, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    for number in range(3):
        (room.folder / f"{number}.txt").touch()
    monkeypatch.setattr(search_glob, "MAX_SECONDS", -1.0)

    result = await room.call(tool, pattern="*.txt")

    assert result.output == "[the time was up after 0 entries; give a narrower path or pattern]"


async def test_patterns_to_leave_out_are_not_without_number(room: Room) -> None:
    result = await room.call("glob", pattern="*.py", exclude=["x"] * 33)

    assert (result.success, result.output) == (False, "exclude has at most 32 patterns")


async def test_searches_at_the_same_time_take_turns(room: Room) -> None:
    """Each would take a thread that other sessions need, or a process with all its memory."""
    for number in range(3):
        (room.folder / f"{number}.txt").write_text("needle")
    given = {"pattern": "needle", "output_mode": "count"}

    async with asyncio.timeout(30):
        counted = await asyncio.gather(*(room.call("grep", **given) for _ in range(12)))
        named = await asyncio.gather(*(room.call("glob", pattern="*.txt") for _ in range(12)))

    assert {result.output for result in counted} == {"0.txt:1\n1.txt:1\n2.txt:1"}
    assert {result.output for result in named} == {"0.txt\n1.txt\n2.txt"}


async def test_a_folder_without_a_bottom_is_listed_to_a_bound(room: Room) -> None:
    deep = room.folder
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "end.txt").write_text("needle")

    assert (await room.call("glob", pattern="end.txt")).output.endswith("/end.txt")
    assert (await room.call("grep", pattern="needle")).output.endswith("/end.txt")


@in_sandbox
@pytest.mark.parametrize(
    "command",
    [
        "cat ../secret.txt",
        "cat {secret}",
        "ln -s {secret} link; cat link",
        "ln {secret} hard; cat hard",
        "cat /proc/1/root{secret}; cat /proc/self/root{secret}",
        "cat /etc/shadow ~root/.ssh/id_rsa ~root/.bash_history",
        "find / -name secret.txt 2>/dev/null",
        "mount --bind / /tmp/x; unshare -r cat {secret}; chroot / cat {secret}",
        "cd ../..; cat */secret.txt",
    ],
)
async def test_a_command_does_not_see_what_is_outside(room: Room, command: str) -> None:
    said = await room.bash(command.format(secret=room.secret))

    assert SECRET not in said["stdout"]
    assert "secret.txt" not in said["stdout"]


@in_sandbox
async def test_a_command_changes_nothing_outside(room: Room) -> None:
    beside = room.folder.parent / "beside"
    beside.mkdir()

    said = await room.bash(
        f"echo x > {room.secret}; rm -rf {beside}; touch /usr/x /x /etc/x; mkdir {room.folder.parent}/new; ls /"
    )

    assert room.secret.read_text() == SECRET
    assert sorted(path.name for path in room.folder.parent.iterdir()) == ["beside", "secret.txt", "session"]
    for place in ("/usr/x", "/x", "/etc/x"):
        assert f"cannot touch '{place}': Read-only file system" in said["stderr"]


@in_sandbox
async def test_a_link_that_a_command_leaves_leads_no_tool_out(room: Room) -> None:
    await room.bash(f"ln -s {room.secret} link; ln -s / root; mkfifo pipe")

    assert not (await room.call("read_file", file_path="link")).success
    assert not (await room.call("read_file", file_path=f"root{room.secret}")).success
    assert (await room.call("grep", pattern=SECRET)).output == "[nothing found]"


@in_sandbox
@pytest.mark.parametrize("option", ["allowed_read_paths", "allowed_write_paths"])
@pytest.mark.parametrize("further", ["shared", "../beside/shared"])
@pytest.mark.parametrize("limited", [True, False])
async def test_a_further_folder_that_becomes_a_link_leads_nobody_out(
    tmp_path: Path, option: str, further: str, limited: bool
) -> None:
    """Whoever may write what holds a further folder may put a link in its place: a command here, or another session."""
    own, outside = tmp_path / "sessions" / "own", tmp_path / "outside"
    for folder in (own, outside, own / further):
        folder.mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(own))
    if limited:
        everywhere = [str(tmp_path / "sessions")]
        coordinator.register_capability("host.file_limits", {"readable": everywhere, "writable": everywhere})
    options = {option: [further]}
    await load_mount("tool-filesystem")(coordinator, options)
    await load_mount("tool-search")(coordinator, {"allowed_read_paths": [further]})
    close = await load_mount("tool-bash")(coordinator, options)
    room = Room(own, coordinator)
    (own / further).rmdir()
    (own / further).symlink_to(outside)

    said = [
        await room.call("read_file", file_path=f"{further}/secret.txt"),
        await room.call("read_file", file_path=str(outside / "secret.txt")),
        await room.call("write_file", file_path=f"{further}/new.txt", content="x"),
        await room.call("grep", pattern="secret", path=further),
        await room.call("glob", pattern="*", path=further),
        await room.call("bash", command=f"cat {outside}/secret.txt"),
        await room.call("bash", command=f"echo x > {outside}/new.txt"),
    ]
    await close()

    assert [result.success for result in said] == [False] * 7
    assert SECRET not in str([result.output for result in said])
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]


@in_sandbox
async def test_what_a_config_sets_for_commands_is_not_for_the_sandbox_itself(tmp_path: Path) -> None:
    """The sandbox is a program outside of it: a library named here would be loaded there."""
    (tmp_path / "session").mkdir()
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(tmp_path / "session"))
    environment = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(tmp_path / "loaded"), "SAID": "in\nthere"}
    close = await load_mount("tool-bash")(coordinator, {"environment": environment})
    room = Room(tmp_path / "session", coordinator)
    result = await room.call("bash", command='unset LD_DEBUG; echo "$SAID"')
    await close()

    assert result.output["stdout"] == "in\nthere\n"
    assert [path.name for path in room.folder.parent.iterdir()] == ["session"]


async def test_an_environment_cannot_end_an_argument_of_the_sandbox(tmp_path: Path) -> None:
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(tmp_path))

    with pytest.raises(ConfigurationError, match="option 'environment' holds a NUL character"):
        await load_mount("tool-bash")(coordinator, {"environment": {"A": "x\0--bind\0/\0/host"}})
    with pytest.raises(Refused):
        setting({"A": "x\0--bind\0/\0/host"})


async def test_a_command_is_not_given_a_folder_that_another_session_could_replace(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for folder in (own, tmp_path / "common" / "deep"):
        folder.mkdir(parents=True)
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(own))
    coordinator.register_capability("host.file_limits", {"readable": [str(tmp_path)], "writable": [str(tmp_path)]})
    folders = SessionFolders(coordinator, "m", read={"r": ["../common"]}, write={"w": ["../common/deep"]})
    folders.check_limits()

    assert (folders.further_read(), folders.further_write()) == ([tmp_path / "common"], [])
    assert folders.writable().roots == [str(own), str(tmp_path / "common" / "deep")]


async def test_the_folders_of_other_sessions_cannot_all_be_written(tmp_path: Path) -> None:
    """A session that may could replace the folder of another one by a link."""
    own = tmp_path / "sessions" / "own"
    own.mkdir(parents=True)
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(own))
    everywhere = [str(tmp_path / "sessions")]
    coordinator.register_capability("host.file_limits", {"readable": everywhere, "writable": everywhere})

    for module in ("tool-filesystem", "tool-bash"):
        with pytest.raises(ConfigurationError, match=r"names \.\., which holds the session's own folder"):
            await load_mount(module)(coordinator, {"allowed_write_paths": [".."]})


async def test_a_root_that_is_reached_through_a_new_link_is_not_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "a" / "root", tmp_path / "outside"
    (outside / "root").mkdir(parents=True)
    (outside / "root" / "secret.txt").write_text(SECRET)
    root.mkdir(parents=True)
    sandbox = Sandbox([root], resolved=True)
    place = Place(root, ("secret.txt",))
    root.rmdir()
    root.parent.rmdir()
    root.parent.symlink_to(outside)

    with pytest.raises(FileRefused):
        sandbox.read(place, 100)
    with pytest.raises(FileRefused):
        list(sandbox.walk(Place(root, ()), most=10))
    with pytest.raises(FileRefused):
        sandbox.write(place, b"x")
    assert (outside / "root" / "secret.txt").read_text() == SECRET


@in_sandbox
async def test_a_command_has_no_key_and_no_process_of_the_server(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")

    said = await room.bash(
        f"env; cat /proc/*/environ; cat /proc/*/cmdline | tr '\\0' ' '; kill -0 {os.getpid()} && echo reached"
    )

    assert "sk-secret" not in str(said)
    assert "pytest" not in said["stdout"].replace(str(room.folder), "")
    assert "\nreached" not in said["stdout"]
    assert "No such process" in said["stderr"]


@in_sandbox
async def test_a_command_has_no_network(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        said = await room.bash(f"echo hello > /dev/tcp/127.0.0.1/{port}; echo $?")
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert said["stdout"] == "1\n"


FORK_BOMBS = [
    ":(){ :|:& };:; sleep 1000",
    "f() { sleep 1000 & f & }; f; sleep 1000",
    "b() { b & b & wait; }; b",
    "f() { setsid sleep 1000 & f; }; f",
    'echo \'"$0" & "$0" & wait\' > bomb; chmod +x bomb; ./bomb; sleep 1000',
]


@in_sandbox
@pytest.mark.parametrize("bomb", FORK_BOMBS)
async def test_a_fork_bomb_ends(room: Room, bomb: str) -> None:
    await room.bash(bomb, timeout=10)

    assert processes_with("sleep 1000") == []
    assert (await room.bash("echo alive"))["stdout"] == "alive\n"


@pytest.mark.parametrize("bash_options", [{"unsandboxed": "allow", "max_processes": 64}])
@pytest.mark.parametrize("bomb", FORK_BOMBS[:4])
async def test_a_fork_bomb_without_a_sandbox_ends(
    room: Room, bomb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path_without(monkeypatch, tmp_path)

    said = await room.bash(bomb.replace("1000", "1001"), timeout=10)

    assert said["state"] == "ended: it started more processes than it may"
    assert processes_with("sleep 1001") == []
    assert (await room.bash("echo alive"))["stdout"] == "alive\n"


@in_sandbox
@pytest.mark.parametrize(
    "command", ["yes", "cat /dev/zero", "cat /dev/urandom", "yes >&2", "while :; do echo x; done", "sh -c 'yes & yes'"]
)
async def test_output_without_an_end_is_kept_in_bounds(room: Room, command: str) -> None:
    said = await room.bash(command, timeout=2)

    assert said["state"] in ("ended: it said more than it may", "ended: it ran longer than it may")
    assert len(said["stdout"]) + len(said["stderr"]) < 200_000


@in_sandbox
@pytest.mark.parametrize("bash_options", [{"max_memory_bytes": 200_000_000, "max_file_bytes": 1_000_000}])
async def test_memory_and_files_are_kept_in_bounds(room: Room) -> None:
    said = await room.bash(
        "python3 -c 'bytearray(10**9)'; tail /dev/zero; head -c 5000000 /dev/zero > big; echo x > /dev/fill"
    )

    assert "MemoryError" in said["stderr"]
    assert (room.folder / "big").stat().st_size == 1_000_000
    assert "/dev/fill: Read-only file system" in said["stderr"]


@in_sandbox
async def test_nothing_is_left_of_a_cancelled_command_however_it_hides(room: Room) -> None:
    os.mkfifo(room.folder / "ready")
    mark = f"sleep 93{os.getpid()}"
    hiding = (
        f"trap '' TERM INT HUP PIPE; (setsid nohup {mark} >/dev/null 2>&1 &); setsid sh -c '({mark} &) ; {mark}' & "
        f"python3 -c 'import os; os.fork() or (os.setsid(), os.fork() or os.execvp(\"sleep\", {mark.split()}))'; "
        f"exec -a innocent {mark} & {mark} & echo > ready; wait; {mark}"
    )
    running = asyncio.create_task(room.bash(hiding))
    await asyncio.to_thread((room.folder / "ready").read_text)
    assert processes_with(mark) != []

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert processes_with(mark) == []


@in_sandbox
async def test_arguments_are_never_read_by_a_shell(room: Room) -> None:
    """Names and patterns with everything that means something to a shell are only names and patterns."""
    odd = "$(touch owned) `touch owned`; touch owned & | > owned \n' \" -rf --pre=touch"
    await room.call("write_file", file_path=odd, content=odd)

    assert (await room.call("read_file", file_path=odd)).output == odd
    assert (await room.call("grep", pattern="touch owned")).success
    assert (await room.call("grep", pattern="--pre=touch owned", glob="--pre=x")).output == "[nothing found]"
    assert (await room.call("grep", pattern="xyz", path="-rf")).output == "-rf does not exist"
    assert (await room.call("bash_jobs", action="read", job_id="job-1; touch owned")).output.startswith(
        "There is no job"
    )
    assert [path.name for path in room.folder.iterdir()] == [odd]
