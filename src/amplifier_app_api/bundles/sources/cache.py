"""Fetched sources on disk.

    entries/<key>/tree/…        the files, read-only
    entries/<key>/entry.json    how many there are and how large; written before the entry gets its name
    names/<key>.json            what the content of an address was when it was last asked for
    tmp/<name>/                 a fetch under way; <name>.lock is held by its owner
    locks/<key>.fetch|.use      one fetch at a time; whoever uses an entry holds the second one shared

An entry gets its name by one rename, so under its name it is complete. What a killed process leaves is in `tmp`,
and is removed once nobody holds its lock. The least recently used entries make room, never those in use.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.folders import make_private
from amplifier_app_api.bundles.values import is_mapping

from .limits import Patience, failed
from .locks import FileLock, locked
from .tree import BLOCK

_FORMAT = 1
_MOST_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class CacheName:
    """What an address held: the sha256 of its content, the server's name for it, and when this was noted, in ns."""

    sha256: str
    etag: str
    noted_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A complete entry that stays until `lock` is released. `version` is the commit or the sha256 it holds."""

    key: str
    version: str
    tree: Path
    lock: FileLock


def key_of(*parts: str) -> str:
    """The name of an entry: of what kind it is, from where, and what exactly."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]


class SourceCache:
    """A folder of sources that several processes may share."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._verified: set[str] = set()
        self._swept = False
        self._sweeping = threading.Lock()

    def fetching(self, key: str, patience: Patience) -> "contextlib.AbstractContextManager[None]":
        """Be the only one who fetches `key`."""
        self._prepare()
        return locked(self._folder / "locks" / f"{key}.fetch", patience)

    def use(self, key: str, version: str, patience: Patience) -> Kept | None:
        """The complete entry of a key, or `None` when there is none."""
        self._prepare()
        if not self._entry(key).exists():
            return None
        lock = FileLock.take(self._use_lock(key), patience, shared=True)
        try:
            complete = self._is_complete(key)
        except BaseException:
            lock.release()
            raise
        if complete:
            return self._kept(key, version, lock)
        lock.release()
        return None

    @contextlib.contextmanager
    def scratch(self, patience: Patience) -> Generator[Path]:
        """A folder for one fetch, gone at the end."""
        self._prepare()
        name = uuid.uuid4().hex
        folder = self._folder / "tmp" / name
        lock = FileLock.take(self._folder / "tmp" / f"{name}.lock", patience)
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            _remove(folder)
            lock.remove()

    def publish(self, key: str, version: str, tree: Path, patience: Patience) -> Kept:
        """Make the folder `tree`, which lies in a scratch folder, the entry `key`, and use it.

        Only for the one who is `fetching` it. Makes room first; `Unresolved` when there is none.
        """
        files, size = _measure(tree)
        prepared = tree.parent / "entry"
        prepared.mkdir(mode=0o700)
        tree.chmod(0o755)  # moving a folder writes to it
        tree.rename(prepared / "tree")
        (prepared / "tree").chmod(0o555)
        _write_json(prepared / "entry.json", {"format": _FORMAT, "files": files, "bytes": size})
        self.discard(key)  # one that is there was found to be incomplete
        lock = FileLock.take(self._use_lock(key), patience, shared=True)
        try:
            with locked(self._folder / "locks" / "room", patience):
                self._make_room(size)
                prepared.rename(self._entry(key))
            _sync(self._folder / "entries")
        except BaseException:
            lock.release()
            raise
        self._verified.add(key)
        return self._kept(key, version, lock)

    def name(self, key: str) -> CacheName | None:
        """What was noted about an address."""
        found = _read_json(self._folder / "names" / f"{key}.json")
        match found:
            case {"sha256": str(sha256), "etag": str(etag), "noted_ns": int(noted_ns)}:
                return CacheName(sha256, etag, noted_ns)
            case _:
                return None

    def set_name(self, key: str, name: CacheName, scratch: Path) -> None:
        """Note what an address held."""
        written = scratch / "name.json"
        _write_json(written, {"sha256": name.sha256, "etag": name.etag, "noted_ns": name.noted_ns})
        written.replace(self._folder / "names" / f"{key}.json")

    def size(self) -> int:
        """The bytes that complete entries take."""
        return sum(size for _, _, size in self._entries())

    def sweep(self) -> None:
        """Remove what fetches that died left behind. Those under way, of any process, are left alone."""
        for folder in ("entries", "names", "tmp", "locks"):
            make_private(self._folder / folder)
        temporary = self._folder / "tmp"
        for name in {path.name.removesuffix(".lock") for path in temporary.iterdir()}:
            lock = FileLock.try_take(temporary / f"{name}.lock")
            if lock is not None:
                _remove(temporary / name)
                lock.remove()
        by_age = sorted((self._folder / "names").iterdir(), key=lambda path: path.lstat().st_mtime)
        for path in by_age[:-_MOST_NAMES]:
            path.unlink(missing_ok=True)

    def _prepare(self) -> None:
        with self._sweeping:
            if not self._swept:
                self.sweep()
                self._swept = True

    def _kept(self, key: str, version: str, lock: FileLock) -> Kept:
        lock.touch()
        return Kept(key, version, self._tree(key), lock)

    def _entry(self, key: str) -> Path:
        return self._folder / "entries" / key

    def _tree(self, key: str) -> Path:
        return self._entry(key) / "tree"

    def _use_lock(self, key: str) -> Path:
        return self._folder / "locks" / f"{key}.use"

    def _is_complete(self, key: str) -> bool:
        """Whether the entry is there with all its bytes; looked at once, since a power cut may lose some."""
        if key in self._verified:
            return self._entry(key).exists()
        marker = _read_json(self._entry(key) / "entry.json")
        if marker.get("format") != _FORMAT or _measure(self._tree(key)) != (marker.get("files"), marker.get("bytes")):
            return False
        self._verified.add(key)
        return True

    def _entries(self) -> list[tuple[float, str, int]]:
        """When each entry was last used, its key, and its bytes."""
        found: list[tuple[float, str, int]] = []
        for entry in (self._folder / "entries").iterdir():
            size = _read_json(entry / "entry.json").get("bytes")
            try:
                used = self._use_lock(entry.name).stat().st_mtime
            except FileNotFoundError:
                used = 0.0
            found.append((used, entry.name, size if isinstance(size, int) else 0))
        return found

    def _make_room(self, size: int) -> None:
        """Remove the least recently used until `size` more bytes fit; only with the lock `room`."""
        entries = sorted(self._entries())
        total = sum(size for _, _, size in entries)
        for _, key, entry_size in entries:
            if total + size <= self._most_bytes:
                return
            if self.discard(key):
                total -= entry_size
        if total + size > self._most_bytes:
            raise failed(
                f"The source has {size} bytes and does not fit into AMPLIFIER_SOURCE_CACHE_BYTES: "
                f"{total} bytes of other sources are in use."
            )

    def discard(self, key: str) -> bool:
        """Remove an entry, unless somebody uses it."""
        lock = FileLock.try_take(self._use_lock(key))
        if lock is None:
            return False
        # Away from its name first: an entry that is half removed must not look like one.
        doomed = self._folder / "tmp" / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            self._entry(key).rename(doomed)
        self._verified.discard(key)
        lock.remove()
        _remove(doomed)
        return True


def _measure(tree: Path) -> tuple[int, int]:
    """Files, links included, and bytes of a folder in whole blocks, without what Python compiled there."""
    files = size = 0
    for folder, inner, names in os.walk(tree):
        inner[:] = [name for name in inner if name != "__pycache__"]
        links = [name for name in inner if Path(folder, name).is_symlink()]
        size += BLOCK * (len(inner) - len(links))
        for name in names:
            path = Path(folder, name)
            files += 1
            if not path.is_symlink():
                size += -(-path.lstat().st_size // BLOCK) * BLOCK
        files += len(links)
    return files, size


def _remove(folder: Path) -> None:
    """Remove a folder whose files are read-only; what is in the way of that stays for the next sweep."""
    for inner, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(inner).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if is_mapping(found) else {}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
