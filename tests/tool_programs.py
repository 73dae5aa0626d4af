"""Programs that some tools use where they are installed.

Where one is missing, or does not work, what needs it is skipped by name on a developer's machine; with
`AMPLIFIER_TEST_REQUIRE_SERVICES` set, as in `.ci/run`, it fails.
"""

import asyncio
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from amplifier_app_api.modules.tools.bash_sandbox import Bubblewrap, find_bubblewrap
from services import REQUIRED

LONGEST_WAIT = 30.0


def need_bubblewrap() -> Bubblewrap:
    found = find_bubblewrap()
    if isinstance(found, Bubblewrap):
        return found
    return _missing(found)


def need_ripgrep() -> str:
    found = shutil.which("rg")
    if found:
        return found
    return _missing("ripgrep (rg) is not installed")


def path_without(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on no program is found."""
    monkeypatch.setenv("PATH", str(folder))


def processes_with(mark: str) -> list[str]:
    """The command lines of all processes of this machine that hold `mark`."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mark in line:
            found.append(line)
    return found


async def until_running(mark: str) -> None:
    """Wait until a process of this machine has `mark` in its command line."""
    async with asyncio.timeout(LONGEST_WAIT):
        # The process table tells nobody that it changed.
        while not processes_with(mark):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _missing(sentence: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)
