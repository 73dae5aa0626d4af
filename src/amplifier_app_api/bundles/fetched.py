"""What a remote source is once it has been fetched, and fetching each one only once for a preparation."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path


class Unresolved(Exception):
    """A reference that leads nowhere it may; `code` is that of the problem it becomes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A remote source on this machine.

    `uri` is the text that named it and `resolved` the same source pinned to what it was: a git commit, or the
    sha256 of an archive or file. `path` is the file or folder it means, a subdirectory applied; `source_root`
    is the folder around it that counts as the same source. `commit` is there when the source is git. A source
    whose text holds variables is told of with them: `uri` as it was written, and `resolved` only the commit or sha256.
    """

    uri: str
    resolved: str
    path: Path
    source_root: Path
    commit: str | None = None


Fetch = Callable[[str, str | None], Fetched]
"""From the text of a source, and the `resolved` it had before or nothing, to the source on disk.

It blocks and raises `Unresolved`. It is called in threads, for different sources in several at once.
"""

MAX_SOURCES = 200
_AT_ONCE = 8


class FetchOnce:
    """A `Fetch` that asks another one once for each text, and knows in which order the sources were needed.

    It belongs to one preparation and is called by its one thread; only the fetching is spread over several.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._asked: dict[str, Future[Fetched]] = {}
        self._met: dict[str, Fetched] = {}

    def __call__(self, uri: str, pin: str | None) -> Fetched:
        if uri not in self._met:
            self._ask(uri, pin, None)
            self._met[uri] = self._asked[uri].result()
        return self._met[uri]

    def ahead(self, wanted: Iterable[tuple[str, str | None]]) -> None:
        """Fetch several sources, texts with their pins, side by side; whatever comes of it is kept for the asking."""
        room = MAX_SOURCES - len(self._asked)
        new = dict(islice(((uri, pin) for uri, pin in wanted if uri not in self._asked), max(0, room)))
        # Of one repository the first goes ahead; the others follow at the commit it was found at.
        first = {_whole(uri): uri for uri in reversed(new) if not self._sibling(uri)}
        if len(first) < 2:
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(first)), thread_name_prefix="fetch") as threads:
            for uri in first.values():
                self._ask(uri, new[uri], threads)

    def show_as(self, uri: str, written: str) -> None:
        """Let a source that was met be told of as it was written, with its variables: their values are secrets."""
        found = self._met[uri]
        version = found.commit or found.resolved.rpartition("sha256=")[2]
        self._met[uri] = replace(found, uri=written, resolved=version)

    @property
    def met(self) -> tuple[Fetched, ...]:
        """Everything that was needed so far and could be had, in the order it was first asked for."""
        return tuple(self._met.values())

    def _ask(self, uri: str, pin: str | None, threads: ThreadPoolExecutor | None) -> None:
        if uri in self._asked:
            return
        if len(self._asked) >= MAX_SOURCES:
            raise Unresolved("document_too_complex", f"more than {MAX_SOURCES} remote sources are named.")
        pin = pin or self._sibling(uri)
        if threads is not None:
            self._asked[uri] = threads.submit(self._fetch, uri, pin)
            return
        self._asked[uri] = future = Future[Fetched]()
        try:
            future.set_result(self._fetch(uri, pin))
        except Exception as error:  # kept for whoever asks again
            future.set_exception(error)

    def _sibling(self, uri: str) -> str | None:
        """A pin from another part of the same repository: a branch must not move within one preparation."""
        for known, asked in self._asked.items():
            if _whole(known) != _whole(uri) or not asked.done() or asked.exception():
                continue
            found = asked.result()
            _, mark, fragment = uri.partition("#")
            return f"{_whole(found.resolved)}{mark}{fragment}" if found.commit else None
        return None


def _whole(uri: str) -> str:
    """A source without the part of it that is meant."""
    return uri.partition("#")[0]
