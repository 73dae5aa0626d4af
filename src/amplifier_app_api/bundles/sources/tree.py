"""Writing a folder whose names and contents somebody else chose.

Every name is checked before anything is written, files are created new, and links come last: nothing can be
written through one. Whatever goes over a limit ends the fetch.
"""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.values import quoted

from .limits import FetchLimits, Patience, failed

BLOCK = 4096
_LONGEST_NAME = 255
_LONGEST_PATH = 1024
# What Python compiled elsewhere, and what a git that somebody runs in the folder would obey.
_LEFT_OUT = frozenset(("__pycache__", ".git"))


class TreeWriter:
    """Fills an empty folder. `size` is what the files take on disk, in whole blocks."""

    def __init__(self, root: Path, limits: FetchLimits, patience: Patience) -> None:
        self._root = root
        self._limits = limits
        self._patience = patience
        self._known: dict[str, str] = {}
        self._folders: set[PurePosixPath] = {PurePosixPath()}
        self._links: list[tuple[PurePosixPath, str]] = []
        self.files = 0
        self.size = 0

    def file(self, name: str, chunks: Iterable[bytes], *, executable: bool = False) -> None:
        """A file from its content."""
        path = self._enter(name)
        if path is None:
            return
        self._folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        size = 0
        try:
            descriptor = os.open(self._root / path, flags, 0o700 if executable else 0o600)
        except FileExistsError:
            raise _twice(path) from None
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                self._patience.left()
                size += len(chunk)
                self._check_size(name, size)
                file.write(chunk)
        self.size += -(-size // BLOCK) * BLOCK

    def link(self, name: str, target: str) -> None:
        """A symbolic link; `close` makes it if it leads to something in the folder."""
        path = self._enter(name)
        if path is not None:
            self._links.append((path, target))

    def close(self) -> int:
        """Make the links, and make everything read-only. The number of links that were left out."""
        made: list[Path] = []
        for path, target in self._links:
            if "\0" in target or not target or PurePosixPath(target).is_absolute():
                continue
            self._folder(path.parent)
            try:
                (self._root / path).symlink_to(target)
            except FileExistsError:
                raise _twice(path) from None
            made.append(self._root / path)
        kept = _without_those_leading_out(self._root, made)
        for folder, _, files in os.walk(self._root, topdown=False):
            for name in files:
                file = Path(folder, name)
                if not file.is_symlink():
                    file.chmod(0o555 if file.stat().st_mode & 0o100 else 0o444)
            Path(folder).chmod(0o555)
        return len(self._links) - kept

    def _enter(self, name: str) -> PurePosixPath | None:
        path = checked_name(name)
        if any(part.casefold() in _LEFT_OUT for part in path.parts):
            return None
        self.files += 1
        if self.files > self._limits.files:
            raise failed(f"The source has more than {self._limits.files} files.")
        for part in (path, *path.parents):
            self._claim(part)
        return path

    def _claim(self, path: PurePosixPath) -> None:
        """Two spellings that some file systems take for one name are refused, as there is no saying which is meant."""
        text = str(path)
        known = self._known.setdefault(unicodedata.normalize("NFC", text).casefold(), text)
        if known != text:
            raise failed(f"The source has two names that some systems take for one: {quoted(known)}, {quoted(text)}.")

    def _folder(self, path: PurePosixPath) -> None:
        if path in self._folders:
            return
        self._folder(path.parent)
        try:
            (self._root / path).mkdir(mode=0o700)
        except FileExistsError:
            raise _twice(path) from None
        self._folders.add(path)
        self.size += BLOCK
        if len(self._folders) > self._limits.files:
            raise failed(f"The source has more than {self._limits.files} folders.")

    def _check_size(self, name: str, size: int) -> None:
        if size > self._limits.file_bytes:
            raise failed(f"{quoted(name)} in the source is larger than {self._limits.file_bytes} bytes.")
        if self.size + size > self._limits.tree_bytes:
            raise failed(f"The source is larger than {self._limits.tree_bytes} bytes.")


def _twice(path: PurePosixPath) -> Unresolved:
    return failed(f"The source has {quoted(str(path))} twice.")


def checked_name(name: str) -> PurePosixPath:
    """A relative path that stays below its folder on every system; `Unresolved` for anything else."""
    path = PurePosixPath(name)
    parts = name.split("/")
    fine = (
        not any("\ud800" <= char <= "\udfff" for char in name)  # no UTF-8
        and len(name.encode()) <= _LONGEST_PATH
        and not any(part in {"", ".", ".."} or len(os.fsencode(part)) > _LONGEST_NAME for part in parts)
        and not any(ord(char) < 0x20 or ord(char) == 0x7F or char == "\\" for char in name)
        and not (len(parts[0]) > 1 and parts[0][1] == ":")
    )
    if not fine:
        raise failed(f"The source has a file with an impossible name: {quoted(name)}.")
    return path


def _without_those_leading_out(root: Path, links: list[Path]) -> int:
    """Remove links that lead nowhere or out of the folder until none does; the number that is left."""
    real_root = Path(os.path.realpath(root))
    left = links
    while True:
        inside = {link: _stays_inside(link, real_root) for link in left}
        if all(inside.values()):
            return len(left)
        for link, stays in inside.items():
            if not stays:
                link.unlink()
        left = [link for link, stays in inside.items() if stays]


def _stays_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False
