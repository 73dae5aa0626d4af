"""Archives and single files in the cache: an entry is one content of an address, by its sha256.

An address is asked each time, since what it holds may change, and answers "unchanged" where the server knows how.
A fetch that had to wait for another one of the same address takes what that one got.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from amplifier_app_api.bundles.locating import SUFFIXES
from amplifier_app_api.bundles.values import quoted

from .archive import unpack
from .cache import CacheName, Kept, SourceCache, key_of
from .http import Downloaded, Downloader
from .limits import FetchLimits, Patience, failed
from .remote import Remote
from .tree import TreeWriter, checked_name

_CHUNK = 2**16


class Contents:
    """Fetches contents, each once."""

    def __init__(self, cache: SourceCache, downloader: Downloader, limits: FetchLimits) -> None:
        self._cache = cache
        self._downloader = downloader
        self._limits = limits

    def fetch(self, remote: Remote, wanted: str, patience: Patience) -> Kept:
        """The content with the sha256 `wanted`, or the one that the address holds now."""
        if not remote.is_archive:
            file_name(remote)  # known before anybody is asked
        if wanted and (kept := self._use(remote, wanted, patience)):
            return kept
        began = time.time_ns()
        address = key_of("name", remote.kind, remote.url)
        with self._cache.fetching(address, patience), self._cache.scratch(patience) as scratch:
            known = self._cache.name(address)
            before = self._use(remote, known.sha256, patience) if known else None
            if before and known and known.noted_ns >= began and wanted in ("", before.version):
                return before
            try:
                now, etag = self._ask(remote, wanted, before, known.etag if known else "", scratch, patience)
            except BaseException:
                if before:
                    before.lock.release()
                raise
            if before and now is not before:
                before.lock.release()
            try:
                self._cache.set_name(address, CacheName(now.version, etag, time.time_ns()), scratch)
            except OSError:
                now.lock.release()
                raise
            return now

    def _ask(
        self, remote: Remote, wanted: str, before: Kept | None, etag: str, scratch: Path, patience: Patience
    ) -> tuple[Kept, str]:
        """What the address holds now, and the server's name for it. `before` is what it held, if that is here."""
        content = scratch / "content"
        got = self._download(remote, content, patience, etag if before else "")
        sha256 = before.version if got is None and before else got.sha256 if got else ""
        if not sha256 or (wanted and sha256 != wanted):
            raise failed(f"{remote.url} no longer holds the content with the sha256 {wanted}.")
        if before and before.version == sha256:
            return before, got.etag if got else etag
        kept = self._use(remote, sha256, patience) or self._publish(remote, sha256, content, patience)
        return kept, got.etag if got else ""

    def _use(self, remote: Remote, sha256: str, patience: Patience) -> Kept | None:
        return self._cache.use(_key(remote, sha256), sha256, patience)

    def _publish(self, remote: Remote, sha256: str, content: Path, patience: Patience) -> Kept:
        key = _key(remote, sha256)
        tree = content.with_name("tree")
        tree.mkdir(mode=0o700)
        # Two addresses may hold one content, but the address is part of the key: only one fetch has it in hand.
        if remote.is_archive:
            unpack(content, tree, self._limits, patience)
        else:
            writer = TreeWriter(tree, self._limits, patience)
            with content.open("rb") as file:
                writer.file(file_name(remote), _chunks(file))
            writer.close()
        return self._cache.publish(key, sha256, tree, patience)

    def _download(self, remote: Remote, into: Path, patience: Patience, etag: str) -> Downloaded | None:
        if remote.transport != "file":
            return self._downloader.download(remote, into, patience, etag=etag)
        return _copy(remote, into, self._limits, patience)


def file_name(remote: Remote) -> str:
    """What a single file is called here: the end of its address, whose suffix says how it is read."""
    name = unquote(remote.path.rpartition("/")[2])
    if not name.endswith(SUFFIXES):
        raise failed(
            f"{remote.url} is no bundle: a single file ends in .md, .yaml or .yml, and an archive is written zip+https://…"
        )
    if "/" in name:
        raise failed(f"{remote.url} has an impossible name.")
    return str(checked_name(name))


def _key(remote: Remote, sha256: str) -> str:
    return key_of("zip" if remote.is_archive else "file", remote.url, sha256)


def _copy(remote: Remote, into: Path, limits: FetchLimits, patience: Patience) -> Downloaded:
    """A local archive, read like one that is downloaded."""
    digest, size = hashlib.sha256(), 0
    try:
        source = os.open(remote.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise failed(f"{quoted(remote.path)} cannot be read: {error.strerror}.") from None
    with os.fdopen(source, "rb") as file, into.open("wb") as copy:
        for chunk in _chunks(file):
            patience.left()
            size += len(chunk)
            if size > limits.download_bytes:
                raise failed(f"{quoted(remote.path)} is larger than {limits.download_bytes} bytes.")
            digest.update(chunk)
            copy.write(chunk)
    return Downloaded(digest.hexdigest(), size, "")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
