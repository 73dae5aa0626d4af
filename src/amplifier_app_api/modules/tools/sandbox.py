"""Files below allowed folders, and nothing else.

A path is resolved first, links and all, and then has to lie below a root. Between that look and the open
somebody may put a link in its place; so the resolved path is walked again from the root, one component at
a time, following no link. Where the system cannot open relative to a folder (Windows), the look alone counts.

All functions block; call them in a thread. Paths in errors and results are relative to the root.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .refusals import Refused  # relative: the search worker loads this package without the server around it

_WALKS = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_FOLLOW
_TRAVERSE = getattr(os, "O_PATH", 0) and os.O_PATH | os.O_DIRECTORY | _NO_FOLLOW  # passes without reading
_READ = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)


class FileRefused(Refused):
    """A file that may not or cannot be used."""


@dataclass(frozen=True, slots=True)
class Place:
    """A path below a root, free of links when it was looked at."""

    root: Path
    parts: tuple[str, ...]

    @property
    def shown(self) -> str:
        return printable("/".join(self.parts)) or "."

    @property
    def path(self) -> Path:
        return self.root.joinpath(*self.parts)


@dataclass(frozen=True, slots=True)
class Found:
    """One thing below a folder. `name` is its path from there; a link is no folder and no file, wherever it leads."""

    name: str
    is_folder: bool
    is_file: bool
    size: int


class Sandbox:
    """Relative paths start at the first root; absolute ones may lie below any.

    `resolved` roots are taken as they are: no link in them is followed, not even one that is put there later.
    """

    def __init__(self, roots: Sequence[str | Path], *, resolved: bool = False) -> None:
        self._roots = [Path(root if resolved else os.path.realpath(root)) for root in roots]

    @property
    def roots(self) -> list[str]:
        """The folders, the first one first; empty when there is none."""
        return [str(root) for root in self._roots]

    def locate(self, path: str) -> Place:
        """Where `path` leads; `FileRefused` when that is outside."""
        if not path or "\0" in path:
            raise FileRefused("The path is empty or holds a NUL character")
        if not self._roots:
            raise FileRefused("This session has no folder for files")
        try:
            real = Path(os.path.realpath(self._roots[0] / path))
        except OSError as error:
            raise FileRefused(f"{path}: {error.strerror}") from error
        except ValueError as error:  # half a character, which no file system has
            raise FileRefused(f"{printable(path)} is no path") from error
        for root in self._roots:
            if real.is_relative_to(root):
                return Place(root, real.relative_to(root).parts)
        raise FileRefused(f"{path} lies outside the folders this session may use")

    def told(self, place: Place) -> str:
        """A place by the path that leads there: relative below the first root, absolute below others."""
        return place.shown if place.root == self._roots[0] else printable(str(place.path))

    def read(self, place: Place, limit: int) -> bytes:
        """The whole file; `FileRefused` when it is no ordinary file or larger than `limit` bytes."""
        with _told(place), _parent_of(place) as folder:
            descriptor = _open(place, _READ, folder)
            try:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode):
                    raise FileRefused(f"{place.shown} is not a file")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    content = file.read(limit + 1)  # it may grow while it is read
                if len(content) > limit:
                    raise FileRefused(f"{place.shown} is larger than {limit:,} bytes")
                return content
            finally:
                os.close(descriptor)

    def write(self, place: Place, content: bytes) -> None:
        """Put `content` in place of the file at once, making folders on the way; keeps an old file's mode."""
        if not place.parts:
            raise FileRefused(f"{place.shown} is a folder")
        with _told(place), _parent_of(place, create=True) as folder:
            mode = _mode_of(place, folder)
            draft = Place(place.root, (*place.parts[:-1], f".{uuid.uuid4().hex}.tmp"))
            descriptor = _open(draft, _CREATE, folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if mode is not None and hasattr(os, "fchmod"):
                        os.fchmod(descriptor, mode)
                    file.write(content)
                _replace(draft, place, folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    _unlink(draft, folder)
                raise

    def walk(self, place: Place, *, most: int, skip: frozenset[str] = frozenset()) -> Iterator[Found]:
        """Everything below a folder, each folder's own entries sorted and before what lies deeper.

        Links are named, not followed. Folders called as in `skip` are left out with all that is in them. Ends
        after `most` entries.
        """
        left = most
        pending: list[tuple[str, ...]] = [()]
        while pending:
            below = pending.pop()
            try:
                listed = _list(Place(place.root, place.parts + below), place)
            except FileRefused:
                if not below:
                    raise
                continue  # gone since it was seen, or a link by now, or not ours to read
            deeper: list[tuple[str, ...]] = []
            for found in listed:
                if found.is_folder and found.name in skip:
                    continue
                if not left:
                    return
                left -= 1
                yield Found("/".join((*below, found.name)), found.is_folder, found.is_file, found.size)
                if found.is_folder:
                    deeper.append((*below, found.name))
            pending += reversed(deeper)


def printable(name: str) -> str:
    """A name of the file system as text that can be stored and sent; bytes that are no text become a mark."""
    return name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _list(folder: Place, told_of: Place) -> list[Found]:
    """The entries of a folder, sorted by name."""
    with _told(told_of), _folder_of(folder) as descriptor:
        if descriptor is None and not folder.path.is_dir():
            raise FileRefused(f"{told_of.shown} is not a folder")
        with os.scandir(folder.path if descriptor is None else descriptor) as entries:
            return sorted(map(_found, entries), key=lambda found: found.name)


def _found(entry: os.DirEntry[str]) -> Found:
    is_file = entry.is_file(follow_symlinks=False)
    size = 0
    if is_file:
        with contextlib.suppress(OSError):
            size = entry.stat(follow_symlinks=False).st_size
    return Found(entry.name, entry.is_dir(follow_symlinks=False), is_file, size)


@contextlib.contextmanager
def _folder_of(place: Place) -> Generator[int | None]:
    """A descriptor of the folder `place` itself, reached without following links."""
    with _parent_of(place) as parent:
        if parent is None:
            yield None
            return
        descriptor = os.open(place.parts[-1] if place.parts else ".", _FOLDER, dir_fd=parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _told(place: Place) -> Generator[None]:
    """The system's refusals as sentences without the server's own paths."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileRefused(f"{place.shown} does not exist") from error
    except IsADirectoryError as error:
        raise FileRefused(f"{place.shown} is a folder") from error
    except NotADirectoryError as error:
        raise FileRefused(f"{place.shown} is not a folder, or below something that is none") from error
    except OSError as error:
        raise FileRefused(f"{place.shown}: {error.strerror or 'cannot be used'}") from error


@contextlib.contextmanager
def _parent_of(place: Place, *, create: bool = False) -> Generator[int | None]:
    """A descriptor of the folder that holds `place`, reached without following links."""
    if create:
        place.root.mkdir(parents=True, exist_ok=True)
    if not _WALKS:
        if create:
            place.path.parent.mkdir(parents=True, exist_ok=True)
        yield None
        return
    folder = _open_root(place.root)
    try:
        for part in place.parts[:-1]:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            deeper = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = deeper
        yield folder
    finally:
        os.close(folder)


def _open_root(root: Path) -> int:
    """A descriptor of a root, whose path has no link in it: one that is there now is not followed."""
    if not _TRAVERSE:
        return os.open(root, _FOLDER)
    folder = os.open(root.anchor, _TRAVERSE)
    try:
        for part in root.parts[1:]:
            deeper = os.open(part, _TRAVERSE, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(".", _FOLDER, dir_fd=folder)
    finally:
        os.close(folder)


def _open(place: Place, flags: int, folder: int | None) -> int:
    if folder is None:
        return os.open(place.path, flags, 0o666)
    return os.open(place.parts[-1] if place.parts else ".", flags, 0o666, dir_fd=folder)


def _mode_of(place: Place, folder: int | None) -> int | None:
    """The mode of the file to replace; None when there is none yet."""
    try:
        if folder is None:
            facts = os.lstat(place.path)
        else:
            facts = os.stat(place.parts[-1], dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(place.shown)
    if not stat.S_ISREG(facts.st_mode):
        raise FileRefused(f"{place.shown} is not a file")
    return stat.S_IMODE(facts.st_mode)


def _replace(draft: Place, place: Place, folder: int | None) -> None:
    if folder is None:
        draft.path.replace(place.path)
    else:
        os.replace(draft.parts[-1], place.parts[-1], src_dir_fd=folder, dst_dir_fd=folder)


def _unlink(draft: Place, folder: int | None) -> None:
    if folder is None:
        draft.path.unlink()
    else:
        os.unlink(draft.parts[-1], dir_fd=folder)
