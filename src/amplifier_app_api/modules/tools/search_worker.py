"""A search through files, in a process of its own: a regular expression can take for ever, and cannot be interrupted.

Reads one `Search` as JSON, writes one `Answer` as JSON. The process is started by `search.py` with this package
alone on its path, so nothing here imports the rest of the server, nor what is not needed: a search starts in 20
milliseconds. Files are opened as `sandbox.py` does; ripgrep, when there, only tells which files are worth opening.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TypedDict

from .patterns import Pattern
from .refusals import Refused
from .sandbox import FileRefused, Place, Sandbox
from .search_literals import needed_text

MAX_VISITED = 50_000
LINE_SHOWN = 500
_MEMORY = 2 * 2**30


class Search(TypedDict):
    """`before` and `after` are lines around a match; `most_files_bytes` is the largest file that is looked into."""

    roots: list[str]
    path: str
    pattern: str
    mode: str  # content, files_with_matches or count
    ignore_case: bool
    multiline: bool
    numbers: bool
    before: int
    after: int
    glob: str | None
    suffixes: list[str]
    skip: list[str]
    limit: int  # 0 is no limit
    offset: int
    seconds: float
    max_file_bytes: int
    max_output_bytes: int
    ripgrep: str | None


class Answer(TypedDict):
    text: str | None
    refused: str | None


def main() -> None:
    search: Search = json.loads(sys.stdin.buffer.read())
    seconds = int(search["seconds"]) + 2
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, _MEMORY)):
        resource.setrlimit(kind, (most, most))
    answer: Answer = {"text": None, "refused": None}
    try:
        answer["text"] = _Searching(search).text()
    except Refused as refusal:
        answer["refused"] = str(refusal)
    sys.stdout.write(json.dumps(answer))


class _Searching:
    def __init__(self, search: Search) -> None:
        self._search = search
        flags = re.IGNORECASE if search["ignore_case"] else 0
        if search["multiline"]:
            flags |= re.MULTILINE | re.DOTALL
        try:
            self._expression = re.compile(search["pattern"], flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise Refused(f"The pattern is no regular expression: {error}") from None
        self._glob = Pattern(search["glob"]) if search["glob"] else None
        self._deadline = time.monotonic() + search["seconds"] * 0.8
        self._notes: list[str] = []

    def text(self) -> str:
        mode = self._search["mode"]
        hits = 0
        entries: list[str] = []
        size = 0
        for shown, content in self._texts():
            found = self._found(content)
            if not found:
                continue
            made = [shown] if mode == "files_with_matches" else [f"{shown}:{len(found)}"]
            if mode == "content":
                made = self._blocks(shown, content, found)
            for entry in made:
                hits += 1
                if self._wanted(hits) and size <= self._search["max_output_bytes"]:
                    size += len(entry.encode("utf-8", "replace")) + 1
                    if size <= self._search["max_output_bytes"]:
                        entries.append(entry)
        return self._told(entries, hits)

    def _wanted(self, number: int) -> bool:
        first, limit = self._search["offset"], self._search["limit"]
        return number > first and (not limit or number <= first + limit)

    def _told(self, entries: list[str], hits: int) -> str:
        lines = list(entries)
        first = self._search["offset"]
        if hits > first + len(entries):
            lines.append(f"[{len(entries)} of {hits} shown; read on with offset {first + len(entries)}]")
        elif hits and not entries:
            lines.append(f"[there are {hits}]")
        lines += self._notes
        return "\n".join(lines) or "[nothing found]"

    def _texts(self) -> Iterator[tuple[str, str]]:
        """The path and text of each file to search, sorted by path."""
        sandbox = Sandbox(self._search["roots"], resolved=True)
        place = sandbox.locate(self._search["path"])
        for file in self._files(sandbox, place):
            if time.monotonic() > self._deadline:
                self._notes.append("[the time was up before all files were searched; give a narrower path]")
                return
            try:
                content = sandbox.read(file, self._search["max_file_bytes"])
            except FileRefused:
                continue
            if b"\0" not in content:
                yield sandbox.told(file), content.decode("utf-8", "replace")

    def _files(self, sandbox: Sandbox, place: Place) -> list[Place]:
        if not place.path.is_dir():
            sandbox.read(place, self._search["max_file_bytes"])  # says what is wrong with it
            return [place]
        candidates = self._candidates(place)
        names: list[str] = []
        visited = 0
        for entry in sandbox.walk(place, most=MAX_VISITED + 1, skip=frozenset(self._search["skip"])):
            visited += 1
            if visited <= MAX_VISITED and entry.is_file and self._named_right(entry.name):
                names.append(entry.name)
        if visited > MAX_VISITED:
            self._notes.append(f"[only the first {MAX_VISITED:,} entries were looked at; give a narrower path]")
        return [
            Place(place.root, (*place.parts, *name.split("/")))
            for name in sorted(names)
            if candidates is None or name in candidates
        ]

    def _named_right(self, name: str) -> bool:
        suffixes = self._search["suffixes"]
        if suffixes and not name.endswith(tuple(suffixes)):
            return False
        return self._glob is None or self._glob.matches(name)

    def _candidates(self, place: Place) -> set[str] | None:
        """The files that hold what every match needs; None when that is not known."""
        program = self._search["ripgrep"]
        literal = needed_text(self._search["pattern"], ignore_case=self._search["ignore_case"])
        if program is None or literal is None:
            return None
        line = [program, "--no-config", "-uu", "-a", "--encoding", "none", "--no-messages", "-l", "-0", "-F"]
        line += ["--max-filesize", str(self._search["max_file_bytes"])]
        if self._search["ignore_case"]:
            line.append("-i")
        for name in self._search["skip"]:
            line += ["--glob", f"!{_literal_glob(name)}/"]
        done = subprocess.run(
            [*line, "-e", literal, "./"], cwd=place.path, capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode > 1:
            return None  # some file could not be read, or ripgrep is another version: then all are looked at
        return {os.fsdecode(name).removeprefix("./") for name in done.stdout.split(b"\0") if name}

    def _found(self, content: str) -> list[tuple[int, int]]:
        """The first and last line of each match, counted from 0."""
        if not self._search["multiline"]:
            lines = _lines(content)
            return [(number, number) for number, line in enumerate(lines) if self._expression.search(line)]
        found: list[tuple[int, int]] = []
        line, at = 0, 0
        for match in self._expression.finditer(content):
            line += content.count("\n", at, match.start())
            at = match.start()
            last = max(match.start(), match.end() - 1)
            found.append((line, line + content.count("\n", match.start(), last)))
        return found

    def _blocks(self, shown: str, content: str, found: list[tuple[int, int]]) -> list[str]:
        """One text for each match, with the lines around it that no other match shows."""
        lines = _lines(content)
        hit = {number for first, last in found for number in range(first, last + 1)}
        around = self._search["before"] or self._search["after"]
        blocks: list[str] = []
        upto = 0
        for at, (first, last) in enumerate(found):
            following = found[at + 1][0] if at + 1 < len(found) else len(lines)
            begin = max(upto, first - self._search["before"])
            end = min(last + self._search["after"] + 1, max(following, last + 1), len(lines))
            parted = ["--"] if around and begin > upto and blocks else []
            shown_lines = [self._line(shown, number, lines[number], number in hit) for number in range(begin, end)]
            blocks.append("\n".join([*parted, *shown_lines]))
            upto = max(upto, end)
        return [block for block in blocks if block]

    def _line(self, shown: str, number: int, line: str, hit: bool) -> str:
        mark = ":" if hit else "-"
        cut = line if len(line) <= LINE_SHOWN else f"{line[:LINE_SHOWN]} […]"
        return f"{shown}{mark}{number + 1}{mark}{cut}" if self._search["numbers"] else f"{shown}{mark}{cut}"


def _lines(content: str) -> list[str]:
    lines = content.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _literal_glob(name: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]{}!\\" else char for char in name)
