"""Which files may be read, and reading them.

Everything a document can name is checked after symbolic links have been followed: what counts is where a
file is, not how it was spelled.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARKERS = ("bundle.md", "bundle.yaml")


class NotAllowed(Exception):
    """The path leads to a place that may not be read from."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as it was when it was read: enough to notice cheaply that it has changed."""

    path: Path
    modified_ns: int
    size: int
    inode: int
    sha256: str

    def is_current(self) -> bool:
        """Whether the file still looks as it did."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return (now.st_mtime_ns, now.st_size, now.st_ino) == (self.modified_ns, self.size, self.inode)


@dataclass(frozen=True, slots=True)
class AllowedFolders:
    """The folders below which files may be read, resolved once."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, *folders: Path) -> "AllowedFolders":
        return cls(tuple(Path(os.path.realpath(folder)) for folder in folders))

    def holding(self, path: Path) -> Path | None:
        """The innermost allowed folder a resolved path lies in, or is."""
        holding = [folder for folder in self.folders if path.is_relative_to(folder)]
        return max(holding, key=lambda folder: len(folder.parts), default=None)

    def resolve(self, path: Path) -> Path:
        """Where a path really is; `NotAllowed` outside the folders, also when nothing is there."""
        real = Path(os.path.realpath(path))
        if self.holding(real) is None:
            raise NotAllowed(str(path))
        return real


def open_resolved(path: Path, flags: int = 0) -> int:
    """Open an absolute path for reading without following a link anywhere in it; `OSError` where one is.

    What was checked is then what is read, even if somebody puts a link in its place in between.
    """
    folder = os.open(path.anchor, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *around, name = path.parts[1:] or (".",)
    try:
        for part in around:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    finally:
        os.close(folder)


def read_file(path: Path, max_bytes: int) -> tuple[bytes, FileStamp]:
    """A regular file's bytes and its stamp; `OSError` for anything that is not one or is too large.

    The path is one whose links were followed before it was checked.
    """
    # Non-blocking, so that opening a pipe somebody left there does not wait for a writer for ever.
    descriptor = open_resolved(path, os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"it has more than {max_bytes} bytes")
    digest = hashlib.sha256(content).hexdigest()
    return content, FileStamp(path, status.st_mtime_ns, status.st_size, status.st_ino, digest)


def make_private(folder: Path) -> None:
    """Make a folder and what is missing above it for nobody but their owner. One that is there stays as it is."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def marker_in(folder: Path) -> Path | None:
    """The bundle file of a folder."""
    return next((folder / name for name in MARKERS if (folder / name).is_file()), None)


def upwards(folder: Path, stop: Path) -> Iterator[Path]:
    """The folder and the ones around it, up to and including `stop`."""
    yield folder
    for parent in folder.parents:
        if folder == stop or not parent.is_relative_to(stop):
            return
        yield parent


def first_with_marker(folders: Iterable[Path]) -> Path | None:
    """The bundle file of the first folder that has one."""
    return next((marker for folder in folders if (marker := marker_in(folder))), None)
