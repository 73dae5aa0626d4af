"""Following a page of the documentation: its blocks, and a shell to run them in."""

import re
import socket
import subprocess
from pathlib import Path
from typing import Self

ADDRESS = "http://127.0.0.1:8765"

_RUN = re.compile(r"^<!-- (\w+): (\w+) -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Terminal:
    """A shell that keeps its variables from one block of commands to the next."""

    def __init__(self, folder: Path) -> None:
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()

    def run(self, commands: str) -> tuple[int, str]:
        """The status of the last command, and all that was printed."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{commands}\nprintf '\\nended: %s\\n' $?\n")
        self._shell.stdin.flush()
        printed: list[str] = []
        for line in self._shell.stdout:
            if line.startswith("ended: "):
                return int(line.removeprefix("ended: ")), "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell is gone: {printed}")


def blocks_to_run(page: str, part: str) -> dict[str, str]:
    """The commands of a page that a comment `<!-- part: name -->` above them marks, by name."""
    return {name: text for kind, name, text in _RUN.findall(page) if kind == part}


def code_of(page: str, language: str) -> str:
    """The only block of a page in this language."""
    (code,) = [text for kind, text in _CODE.findall(page) if kind == language]
    return code


def at(port: int, text: str) -> str:
    """The same for a server on another port: all that a test changes."""
    assert ADDRESS in text
    return text.replace(ADDRESS, f"http://127.0.0.1:{port}")


def not_in_order(printed: str, expected: list[str]) -> list[str]:
    """What of the expected is not there, each searched behind the one before."""
    missing: list[str] = []
    place = 0
    for text in expected:
        found = printed.find(text, place)
        if found < 0:
            missing.append(text)
        else:
            place = found + len(text)
    return missing


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
