"""Commands that hang, say too much, or leave others behind."""

import os
import select
import time
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources.limits import Patience, failed
from amplifier_app_api.bundles.sources.process import CommandFailed, run

PATH = {"PATH": os.environ["PATH"]}


def shell(folder: Path, script: str, seconds: float = 30, **given: Any) -> bytes:
    patience = Patience(time.monotonic() + seconds)
    return run(["sh", "-c", script], environment=PATH, cwd=folder, patience=patience, file_bytes=2**20, **given)


def test_what_a_command_says_is_given(tmp_path: Path) -> None:
    assert shell(tmp_path, "echo out; echo err >&2; pwd") == f"out\n{tmp_path}\n".encode()


def test_a_command_reads_and_writes_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text")

    assert shell(tmp_path, "cat", reads=tmp_path / "in", writes=tmp_path / "out") == b""
    assert (tmp_path / "out").read_text() == "text"


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert shell(tmp_path, "cat") == b""


def test_a_command_that_fails_tells_the_end_of_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"^it is broken$"):
        shell(tmp_path, "echo it is >&2; echo broken >&2; exit 3")


def test_the_whole_group_ends_with_a_command_that_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Both hold the pipe; the first one also ignores being asked to end.
        script = "exec 9>alive; (trap '' TERM HUP; sleep 600) & echo started >&9; sleep 600"
        with pytest.raises(Unresolved, match="longer than it may"):
            shell(tmp_path, script, seconds=0.5)

        assert _read_to_the_end(reader) == b"started\n"
    finally:
        os.close(reader)


def test_the_group_ends_when_the_watch_says_so(tmp_path: Path) -> None:
    def watch() -> None:
        if (tmp_path / "large").exists():
            raise failed("It is too large.")

    with pytest.raises(Unresolved, match="too large"):
        shell(tmp_path, "touch large; sleep 600", watch=watch)


def test_a_command_that_says_too_much_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Unresolved, match="more than can be read"):
        shell(tmp_path, "yes")


def test_a_file_does_not_grow_over_its_limit(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        shell(tmp_path, "head -c 2000000 /dev/zero > large")

    assert (tmp_path / "large").stat().st_size <= 2**20 + 512


def _read_to_the_end(descriptor: int) -> bytes:
    """Everything until nobody holds the other end; each wait ends."""
    content = b""
    while select.select([descriptor], [], [], 30)[0]:
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return content
        content += chunk
    raise AssertionError("somebody is still alive")
