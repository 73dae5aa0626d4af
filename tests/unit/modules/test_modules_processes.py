import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from amplifier_app_api.modules.tools.processes import BoundedOutput, Command, CommandLimits, Ending, answer_of
from amplifier_app_api.modules.tools.refusals import Refused
from tool_programs import processes_with

LIMITS = CommandLimits(
    seconds=20,
    cpu_seconds=20,
    memory=2**30,
    file=10**7,
    processes=64,
    output=1000,
    said=10**6,
)


async def start(line: str, folder: Path, limits: CommandLimits = LIMITS) -> Command:
    return await Command.start(
        ["/bin/sh", "-c", line], environment={"PATH": "/usr/bin:/bin"}, folder=folder, limits=limits
    )


async def test_a_command_says_what_it_has_to_and_ends(tmp_path: Path) -> None:
    command = await start("echo out; echo wrong >&2; pwd; exit 3", tmp_path)

    assert await command.wait() == Ending(3, None, None)
    assert (command.output.text(), command.errors.text()) == (f"out\n{tmp_path}\n", "wrong\n")


async def test_a_command_that_kills_itself_ends_by_that_signal(tmp_path: Path) -> None:
    command = await start("kill -TERM $$", tmp_path)

    assert await command.wait() == Ending(None, signal.SIGTERM, None)


async def test_a_command_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    command = await Command.start(["/no/such/program"], environment={}, folder=tmp_path, limits=LIMITS)

    assert await command.wait() == Ending(127, None, None)
    assert command.errors.text() == "/no/such/program cannot be started: No such file or directory\n"


async def test_nothing_of_the_servers_environment_reaches_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    command = await start("env; cat /proc/$PPID/environ", tmp_path)
    await command.wait()

    assert "sk-secret" not in command.output.text()


async def test_a_command_reads_nothing_and_has_no_files_of_the_server(tmp_path: Path) -> None:
    with (tmp_path / "open.txt").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        command = await start("cat; ls /proc/self/fd", tmp_path)
        assert await command.wait() == Ending(0, None, None)

    assert command.output.text() == "0\n1\n2\n3\n"  # 3 is the folder that ls reads


@pytest.mark.parametrize(
    ("line", "limits", "ended_by"),
    [
        ("sleep 1000", replace(LIMITS, seconds=0.2), "time"),
        ("yes", LIMITS, "output"),
        ("while :; do sleep 1000 & done", LIMITS, "processes"),
        (
            "python3 -c 'x = bytearray(80_000_000); import os, time; os.fork(); x[::4096] = x[::4096]; time.sleep(99)'",
            replace(LIMITS, memory=120_000_000),
            "memory",
        ),
    ],
    ids=["time", "output", "processes", "memory"],
)
async def test_a_command_that_uses_too_much_is_ended(
    tmp_path: Path, line: str, limits: CommandLimits, ended_by: str
) -> None:
    command = await start(line, tmp_path, limits)

    assert await command.wait() == Ending(None, signal.SIGKILL, ended_by)


async def test_one_process_has_no_more_memory_and_no_larger_file_than_it_may(tmp_path: Path) -> None:
    limits = replace(LIMITS, memory=200_000_000, file=1000)
    command = await start("python3 -c 'bytearray(400_000_000)'; head -c 2000 /dev/zero > big", tmp_path, limits)
    await command.wait()

    assert "MemoryError" in command.errors.text()
    assert (tmp_path / "big").stat().st_size == 1000


async def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    left = f"sleep 98{os.getpid()}"
    line = f"{left} & setsid {left} & (setsid nohup {left} &) ; setsid sh -c '({left} &)' & echo done"
    command = await start(line, tmp_path)

    assert await command.wait() == Ending(0, None, None)
    assert processes_with(left) == []


async def test_a_stopped_command_is_gone_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    left = f"sleep 97{os.getpid()}"
    command = await start(f"trap '' TERM INT HUP; setsid {left} & {left} & echo > ready; wait", tmp_path)
    await asyncio.to_thread((tmp_path / "ready").read_text)

    assert command.ending is None
    assert await command.stop() == Ending(None, signal.SIGKILL, "stopped")
    assert processes_with(left) == []
    assert await command.stop() == command.ending


async def test_a_command_dies_with_its_supervisor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    left = f"sleep 91{os.getpid()}"
    command = await start(f"echo $PPID > ready; exec {left}", tmp_path)
    supervisor = int(await asyncio.to_thread((tmp_path / "ready").read_text))
    os.kill(supervisor, signal.SIGKILL)

    assert await command.wait() == Ending(None, signal.SIGKILL, "stopped")
    assert processes_with(left) == []


def test_output_keeps_its_beginning_and_its_end() -> None:
    output = BoundedOutput(10)
    for chunk in (b"abc", b"def", b"ghi", b"jkl", b"mno"):
        output.add(chunk)

    assert output.text() == "abcde\n[5 bytes left out]\nklmno"
    assert output.total == 15


@pytest.mark.parametrize("size", range(12))
def test_output_that_fits_is_whole(size: int) -> None:
    output = BoundedOutput(11)
    for letter in "abcdefghijk"[:size]:
        output.add(letter.encode())

    assert output.text() == "abcdefghijk"[:size]


async def test_a_helper_that_fails_hangs_or_says_too_much_is_refused() -> None:
    assert await answer_of(["/bin/cat"], b"hello", seconds=10, most=100) == b"hello"
    with pytest.raises(Refused, match="failed"):
        await answer_of(["/bin/sh", "-c", "exit 1"], b"", seconds=10, most=100)
    with pytest.raises(Refused, match=r"longer than 0\.1 seconds"):
        await answer_of(["/bin/sleep", "1000"], b"", seconds=0.1, most=100)
    with pytest.raises(Refused, match="more than can be told"):
        await answer_of(["/usr/bin/yes"], b"", seconds=10, most=100)
