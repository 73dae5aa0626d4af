"""Following a session together with its children.

What happens in a child, and in children of it, comes as `child.event` without an id: a place in the parent's log says
nothing about the logs of its children. A child is told from the beginning of its log when its `child.started` comes,
and when it is running while the reader joins.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import orjson

from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.stream import POLL_SECONDS, Follower
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.log import Child

WAIT_SECONDS = 60.0
"""How long one log is waited for at a time."""
AT_ONCE = 100
"""How many children are followed at once; further ones wait until one has ended."""


@dataclass(eq=False)
class _Source:
    """One of the logs that are told. `child` is None for the parent's own; `follower` once its turn has come.

    `ending` counts down, once the child's end was told, how often nothing more came: the first time is not sure.
    """

    child: Child | None
    follower: Follower | None = None
    ending: int | None = None


class ChildrenFollower:
    """Follows a session and all its descendants. `types` chooses among the events of the children.

    `running` finds the children that are at work when the reader joins, `follow` begins to follow one of them after
    a number of its log.
    """

    def __init__(
        self,
        follower: Follower,
        running: Callable[[], Awaitable[list[Child]]],
        follow: Callable[[str, int], Follower],
        *,
        types: Collection[str] | None = None,
    ) -> None:
        self._running = running
        self._follow = follow
        self._types = None if types is None else frozenset(types)
        self._parent = _Source(None, follower)
        self._children: dict[str, _Source] = {}
        self._waiting: deque[_Source] = deque()
        self._last: dict[str, int] = {}
        self._reading: dict[asyncio.Task[list[StreamItem] | None], _Source] = {}
        self._joined = False
        self._over = False

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        until = asyncio.get_running_loop().time() + timeout
        if not self._joined and not await self._join():
            return None
        while not self._over:
            left = max(0.0, until - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait(self._reading, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return None
            out: list[StreamItem] = []
            for task in done:
                await self._take(self._reading.pop(task), task.result(), out)
            if out:
                return out
        return []

    async def _join(self) -> bool:
        """Begin to read. False: the database is away."""
        try:
            running = await self._running()
        except DatabaseUnavailable:
            await asyncio.sleep(POLL_SECONDS)
            return False
        self._joined = True
        for child in running:
            self._begin(child)
        self._read(self._parent)
        return True

    async def _take(self, source: _Source, batch: list[StreamItem] | None, out: list[StreamItem]) -> None:
        for item in batch or ():
            self._tell(source, item, out)
            self._look_for_children(item)
        if source.child is None:
            self._over = self._over or batch == []
        elif batch == [] or (batch is None and _has_ended(source)):
            await self._close(source, source.child)
            return
        self._read(source)

    def _tell(self, source: _Source, item: StreamItem, out: list[StreamItem]) -> None:
        if source.child is None:
            out.append(item)
        elif item.type == "stream.lagged":  # the reader is too slow for this child: it comes back as for itself
            out.append(item)
            self._over = True
        else:
            if item.seq is not None:
                self._last[source.child.session_id] = item.seq
            if self._types is None or item.type in self._types or item.type == "stream.gap":
                out.append(_of_child(source.child, item))

    def _look_for_children(self, item: StreamItem) -> None:
        if item.type not in ("child.started", "child.ended"):
            return
        fields = item.fields
        child = Child(fields["child_id"], fields["external_id"], fields["agent"])
        source = self._children.get(child.session_id)
        if item.type == "child.ended":
            if source is not None:
                source.ending = 2
        elif source is not None:
            source.ending = None
        else:
            self._begin(child)

    def _begin(self, child: Child) -> None:
        source = self._children[child.session_id] = _Source(child)
        self._waiting.append(source)
        self._follow_more()

    def _follow_more(self) -> None:
        while self._waiting and len(self._children) - len(self._waiting) < AT_ONCE:
            source = self._waiting.popleft()
            if source.child is not None:
                child_id = source.child.session_id
                source.follower = self._follow(child_id, self._last.get(child_id, 0))
                self._read(source)

    def _read(self, source: _Source) -> None:
        if source.follower is not None and not self._over:
            wait = WAIT_SECONDS if source.ending is None else 0.0
            self._reading[asyncio.create_task(source.follower.next_batch(wait), name="read a log")] = source

    async def _close(self, source: _Source, child: Child) -> None:
        self._children.pop(child.session_id, None)
        if source.follower is not None:
            await source.follower.close()
        self._follow_more()

    async def close(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        self._reading.clear()
        for source in (self._parent, *self._children.values()):
            if source.follower is not None:
                await source.follower.close()


def _has_ended(source: _Source) -> bool:
    """Nothing came. A child whose end was told has no more once its rows were read after that."""
    if source.ending is None:
        return False
    source.ending -= 1
    return source.ending == 0


def _of_child(child: Child, item: StreamItem) -> StreamItem:
    fields: dict[str, Any] = {
        "child_id": child.session_id,
        "external_id": child.external_id,
        "agent": child.agent,
        "event": orjson.Fragment(item.data),
    }
    return StreamItem.framing("child.event", **fields)
