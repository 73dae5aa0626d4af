"""From the text of a source to its files on this machine."""

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.folders import AllowedFolders, NotAllowed, first_with_marker, upwards
from amplifier_app_api.bundles.locating import locate_path
from amplifier_app_api.bundles.uris import SourceUri
from amplifier_app_api.bundles.values import quoted

from .addresses import AddressBook, Resolver, resolve
from .cache import SourceCache
from .contents import Contents, file_name
from .git import COMMIT, GitClient
from .holds import Hold
from .http import Downloader
from .limits import FetchLimits, Patience, failed, refused
from .policy import SourcePolicy
from .remote import SHA256, Remote, read_remote
from .repositories import Repositories


class SourceFetcher:
    """Fetches sources into a cache that several processes may share.

    `ca_file` holds the certificates that servers are checked against, in place of the system's; `resolver` finds
    the addresses of hosts.
    """

    def __init__(
        self,
        cache_dir: Path,
        policy: SourcePolicy,
        limits: FetchLimits = FetchLimits(),  # noqa: B008  it is frozen
        *,
        ca_file: Path | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._policy = policy
        self._limits = limits
        addresses = AddressBook(private_addresses=policy.private_addresses, resolver=resolver)
        cache = SourceCache(cache_dir, limits.cache_bytes)
        self._repositories = Repositories(cache, GitClient(limits, addresses, ca_file))
        self._contents = Contents(cache, Downloader(policy, limits, addresses, ca_file), limits)
        self._threads = ThreadPoolExecutor(limits.concurrent, thread_name_prefix="fetch")
        self._for_good = Hold()
        self._waiting: set[Patience] = set()
        self._changing = threading.Lock()
        self._closed = False

    def fetch(
        self, uri: str, pin: str | None = None, *, deadline: float | None = None, hold: Hold | None = None
    ) -> Fetched:
        """The source on disk. It blocks: not for the event loop.

        `pin` is the `resolved` of an earlier fetch, a commit or a sha256: exactly that content is given. `deadline`
        is on the clock of `time.monotonic`. The files stay until `hold` is closed, without one until the fetcher is.
        Raises `Unresolved`: `source_not_allowed`, `module_fetch_failed`, `bundle_not_found` for a path within it.
        """
        with self._waited_for(self._patience(deadline)) as patience:
            return self._fetch(uri, pin, patience, hold or self._for_good)

    async def fetch_async(
        self, uri: str, pin: str | None = None, *, deadline: float | None = None, hold: Hold | None = None
    ) -> Fetched:
        """The same, in a thread of the fetcher's own. Cancelled, the fetch is given up."""
        with self._waited_for(self._patience(deadline)) as patience:
            if self._closed:
                patience.left()  # says so: the threads take nothing more
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(
                    self._threads, self._fetch, uri, pin, patience, hold or self._for_good
                )
            except asyncio.CancelledError:
                patience.lose()
                raise

    def close(self) -> None:
        """Give up what is under way, wait until it has ended, and let every source go. It blocks."""
        with self._changing:
            self._closed = True
            for patience in self._waiting:
                patience.lose()
        self._threads.shutdown()  # those that have not begun find their patience lost
        self._for_good.close()

    def _patience(self, deadline: float | None) -> Patience:
        latest = time.monotonic() + self._limits.timeout.total_seconds()
        return Patience(latest if deadline is None else min(deadline, latest))

    @contextmanager
    def _waited_for(self, patience: Patience) -> Generator[Patience]:
        with self._changing:
            if self._closed:
                patience.lose()
            self._waiting.add(patience)
        try:
            yield patience
        finally:
            with self._changing:
                self._waiting.discard(patience)

    def _fetch(self, uri: str, pin: str | None, patience: Patience, hold: Hold) -> Fetched:
        if SourceUri.parse(uri).is_file:
            return _local(uri, self._policy.folders())
        remote = read_remote(uri)
        self._policy.check(remote)
        wanted = _pinned(remote, pin)
        try:
            patience.left()
            kept = (self._repositories if remote.is_git else self._contents).fetch(remote, wanted, patience)
        except Unresolved as problem:
            raise _about(remote, problem) from None
        except OSError as error:
            raise failed(f"The cache of sources cannot be used: {error.strerror}.") from error
        path = kept.tree if remote.is_git or remote.is_archive else kept.tree / file_name(remote)
        try:
            inner = _inner_path(uri, remote.subpath, path, kept.tree)
        except Unresolved:
            kept.lock.release()
            raise
        hold.add(kept.key, kept.lock)
        commit = kept.version if remote.is_git else None
        resolved = remote.pinned(commit=kept.version) if commit else remote.pinned(sha256=kept.version)
        return Fetched(uri=uri, resolved=resolved, path=inner, source_root=kept.tree, commit=commit)


def _local(uri: str, allowed: AllowedFolders) -> Fetched:
    """A file or folder below an allowed root, where it is: nothing is copied."""
    path, outer = locate_path(uri, None, allowed)
    folder = path if path.is_dir() else path.parent
    marker = first_with_marker(upwards(folder, allowed.holding(path) or folder))
    root = outer or (marker.parent if marker else folder)
    # After `file://` a # would begin a fragment; in a plain path it is part of the name.
    resolved = str(path) if "#" in str(path) else f"file://{path}"
    return Fetched(uri=uri, resolved=resolved, path=path, source_root=root if root.is_dir() else root.parent)


def _about(remote: Remote, problem: Unresolved) -> Unresolved:
    """The same problem, in words that name the source."""
    named = remote.url in problem.detail
    return problem if named else Unresolved(problem.code, f"{remote.url}: {problem.detail}")


def _pinned(remote: Remote, pin: str | None) -> str:
    """The commit or sha256 that must be given; empty when it is whatever is there now."""
    shape = COMMIT if remote.is_git else SHA256
    if not pin:
        return (remote.ref if COMMIT.fullmatch(remote.ref) else "") if remote.is_git else remote.sha256
    if shape.fullmatch(pin):
        return pin
    earlier = read_remote(pin)
    version = earlier.ref if remote.is_git else earlier.sha256
    if (earlier.kind, earlier.url) != (remote.kind, remote.url) or not shape.fullmatch(version):
        raise failed(f"{quoted(pin)} is no pin of {remote.url}.")
    return version


def _inner_path(uri: str, subpath: str, path: Path, tree: Path) -> Path:
    """The file or folder a subdirectory names, which stays within what was fetched."""
    if not subpath:
        return path
    try:
        inner = AllowedFolders.of(tree).resolve(path / subpath)
    except (NotAllowed, ValueError):
        raise refused(f"The subdirectory of {quoted(uri)} leads out of the source.") from None
    if not inner.exists():
        raise Unresolved("bundle_not_found", f"{quoted(uri)} does not exist: the source has no such subdirectory.")
    return inner
