"""`@mentions`: names of files inside a text, and reading what they name inside a sandbox.

`@namespace:path` is a file of a bundle, `@path` one of the session's working directory. Nothing else can be
reached: absolute paths, `~` and `..` name nothing, and links count where they lead. A mention that names
nothing is left as it stands. Files mention further files, from the same working directory, three levels deep.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from .folders import AllowedFolders, NotAllowed, open_resolved, read_file

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(?<!`)`(?!`)[^`]+`(?!`)")
_MENTION = re.compile(r"@(?![A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,})([A-Za-z0-9_:./~-]+)")

MAX_DEPTH = 3
MAX_FILES = 200
MAX_TOTAL_BYTES = 8 << 20
MAX_LISTED = 1000

Failure = Literal["not_found", "unreadable", "too_much"]


def mentions_in(text: str) -> tuple[str, ...]:
    """The mentions of a text, each once, in order, with their `@`. Code, fenced or in backticks, mentions nothing."""
    if "@" not in text:
        return ()
    prose = _INLINE_CODE.sub("", _FENCE.sub("", text))
    return tuple(dict.fromkeys(f"@{match[1]}" for match in _MENTION.finditer(prose)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MentionScope:
    """What mentions may lead to.

    `namespaces` are the folders of bundles by name, `context` their named files, by `namespace:key`. Both are read
    only below `folders`. `working_dir` is where everything else lies; without one only bundles are reached.
    """

    folders: AllowedFolders
    namespaces: Mapping[str, Path] = field(default_factory=dict[str, Path])
    context: Mapping[str, Path] = field(default_factory=dict[str, Path])
    working_dir: Path | None = None
    max_file_bytes: int = 1 << 20

    def resolve(self, mention: str) -> Path | None:
        """The file or folder a mention names, or nothing. A named context file need not exist."""
        if not mention.startswith("@"):
            return None
        namespace, colon, path = mention[1:].partition(":")
        try:
            return self._in_namespace(namespace, path) if colon else self._in_working_dir(namespace)
        except (OSError, ValueError):
            return None

    def readable(self, path: Path) -> Path | None:
        """Where a resolved path really is, when that may be read."""
        real = Path(os.path.realpath(path))
        if self.working_dir is not None and real.is_relative_to(os.path.realpath(self.working_dir)):
            return real
        try:
            return self.folders.resolve(real)
        except NotAllowed:
            return None

    def _in_namespace(self, namespace: str, path: str) -> Path | None:
        folder = self.namespaces.get(namespace)
        if folder is None:
            return None
        named = self.context.get(f"{namespace}:{path}")
        return named or self._inside(folder, path.lstrip("/"))

    def _in_working_dir(self, path: str) -> Path | None:
        if self.working_dir is None or path.startswith(("/", "~")):
            return None
        return self._inside(self.working_dir, path) or self._inside(self.working_dir, f"{path}.md")

    def _inside(self, folder: Path, path: str) -> Path | None:
        """An existing path below a folder, links followed."""
        if ".." in path.split("/"):
            return None
        target = folder / path
        real = Path(os.path.realpath(target))
        inside = real.is_relative_to(os.path.realpath(folder)) and self.readable(real) is not None
        return target if inside and real.exists() else None


@dataclass(frozen=True, slots=True)
class Mentioned:
    """What became of one mention of the text itself."""

    mention: str
    path: Path | None
    is_directory: bool = False
    failure: Failure | None = None


@dataclass(slots=True)
class Block:
    """One content, with every path it was found at and every name each path was called by."""

    content: str
    digest: str
    names: dict[Path, list[str]] = field(default_factory=dict[Path, list[str]])

    def __str__(self) -> str:
        labels = (label for path, names in self.names.items() for label in _labels(path, names))
        return f'<context_file paths="{", ".join(labels)}">\n{self.content}\n</context_file>'


def _labels(path: Path, names: list[str]) -> list[str]:
    return [f"{name} → {path}" for name in names] or [str(path)]


class Collector:
    """Gathers files for one text: equal content once, where it was first met, within bounds for all of it."""

    def __init__(self, scope: MentionScope) -> None:
        self._scope = scope
        self._blocks: dict[str, Block] = {}
        self._files_left = MAX_FILES
        self._bytes_left = MAX_TOTAL_BYTES

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(self._blocks.values())

    def add_file(self, name: str, path: Path) -> bool:
        """Take a file in under a name, without looking for mentions in it. Whether it could be read."""
        try:
            content = self._read(self._scope.folders.resolve(path))
        except (NotAllowed, ValueError):
            return False
        if content is not None:
            self._add(content, path, name)
        return content is not None

    def add_mentions(self, text: str) -> tuple[Mentioned, ...]:
        """Take in what a text mentions, and what that mentions."""
        return tuple(self._follow(mention, 0, named=True) for mention in mentions_in(text))

    def _follow(self, mention: str, depth: int, *, named: bool) -> Mentioned:
        path = self._scope.resolve(mention)
        if path is None:
            return Mentioned(mention, None, failure="not_found")
        real = self._scope.readable(path)
        if real is None or not real.exists():
            return Mentioned(mention, None, failure="not_found")
        is_directory = real.is_dir()
        if self._files_left <= 0:
            return Mentioned(mention, path, is_directory, "too_much")
        self._files_left -= 1
        content = _listing(path, real) if is_directory else self._read(real)
        if content is None:
            return Mentioned(mention, path, is_directory, "unreadable")
        is_new = self._add(content, path, mention if named else None)
        if is_new and not is_directory and depth < MAX_DEPTH:
            for further in mentions_in(content):
                self._follow(further, depth + 1, named=False)
        return Mentioned(mention, path, is_directory)

    def _add(self, content: str, path: Path, name: str | None) -> bool:
        digest = hashlib.sha256(content.encode()).hexdigest()
        is_new = digest not in self._blocks
        block = self._blocks.setdefault(digest, Block(content, digest))
        names = block.names.setdefault(path, [])
        if name is not None and name not in names:
            names.append(name)
        return is_new

    def _read(self, real: Path) -> str | None:
        try:
            content, _ = read_file(real, min(self._scope.max_file_bytes, self._bytes_left))
            text = content.decode().replace("\r\n", "\n")
        except (OSError, ValueError):
            return None
        self._bytes_left -= len(content)
        return text


def _listing(path: Path, real: Path) -> str | None:
    """What a folder holds: folders first, then by name."""
    try:
        descriptor = open_resolved(real, os.O_DIRECTORY)
    except OSError:
        return None
    try:
        with os.scandir(descriptor) as entries:
            found = [(not entry.is_dir(), entry.name.lower(), entry.name) for entry in islice(entries, MAX_LISTED + 1)]
    finally:
        os.close(descriptor)
    lines = list(_listed(sorted(found[:MAX_LISTED]))) or ["  (empty directory)"]
    more = ["  (and more)"] if len(found) > MAX_LISTED else []
    return "\n".join([f"Directory: {path}", "", *lines, *more])


def _listed(entries: list[tuple[bool, str, str]]) -> Iterator[str]:
    for is_file, _, name in entries:
        # A name may hold bytes that are no text; they cannot be sent to anybody.
        yield f"  {'FILE' if is_file else 'DIR '} {name.encode('utf-8', 'replace').decode()}"


@dataclass(frozen=True, slots=True)
class Expansion:
    """A text with what it mentions in front of it; the text alone when that is nothing."""

    text: str
    mentioned: tuple[Mentioned, ...]
    blocks: tuple[Block, ...] = field(repr=False)


def expand_mentions(text: str, scope: MentionScope) -> Expansion:
    """A text that somebody sends, the files it mentions in front of it. Reads files."""
    collector = Collector(scope)
    mentioned = collector.add_mentions(text)
    blocks = collector.blocks
    return Expansion("\n\n".join([*map(str, blocks), text]), mentioned, blocks)
