"""Following a session: the rows first, then live, without a gap or a repeat."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.models.event import TERMINAL_TYPES
from amplifier_app_api.storage.events import StoredEvent

__all__ = ["Follower", "SessionFollower", "StreamItem", "TurnFollower", "items_of"]

READ_PAGE = 500

ReadAfter = Callable[[int, int], Awaitable[list[StoredEvent]]]
"""Reads at most so many events after a number: `(after, limit)`."""


class Follower(Protocol):
    """A place in a stream."""

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        """What comes next. None: nothing came within `timeout` seconds. Empty: the stream is over."""
        ...

    async def close(self) -> None:
        """Stop following."""
        ...


class SessionFollower:
    """Follows a session from a number on, for as long as the reader stays.

    The subscription begins before the first row is read, so that nothing falls between the two. When nothing
    comes for a while the rows are read again: what another process wrote, or a lost hint, costs a moment and
    no event.
    """

    def __init__(self, hub: EventHub, session_id: str, read: ReadAfter, *, after: int) -> None:
        self._session_id = session_id
        self._subscription = hub.subscribe(session_id)
        self._read = read
        self._last = after
        self._behind = True

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        if self._behind:
            rows = await self._read(self._last, READ_PAGE)
            self._behind = len(rows) == READ_PAGE
            if rows:
                self._last = rows[-1].seq
                return [StreamItem.of_event(row) for row in rows]
        items = await self._subscription.take(timeout)
        if items is None:
            self._behind = True
            return None
        if self._subscription.lagged:
            return await self._lagged()
        return await self._new(items, timeout)

    async def _new(self, items: list[StreamItem], timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109
        fresh: list[StreamItem] = []
        for item in items:
            if item.seq is not None:
                if item.seq <= self._last:
                    continue
                if item.seq > self._last + 1:  # a hint was lost: the rows have what is between
                    self._behind = True
                    break
                self._last = item.seq
            elif item.delta is not None and item.delta.seq < self._last:
                continue
            fresh.append(item)
        if fresh or not items:
            return fresh
        return await self.next_batch(timeout)

    async def _lagged(self) -> list[StreamItem]:
        if self._subscription.closed:
            return []
        self._subscription.end()
        return [StreamItem.framing("stream.lagged", session_id=self._session_id)]

    async def close(self) -> None:
        self._subscription.leave()


class TurnFollower:
    """Follows one turn to its end, framed for `POST …/stream`: `connected` first, `done` or `error` last."""

    def __init__(self, subscription: Subscription, session_id: str, turn_id: str) -> None:
        self._subscription = subscription
        self._session_id = session_id
        self._turn_id = turn_id
        self._begun = False
        self._over = False

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        if self._over:
            return []
        if not self._begun:
            self._begun = True
            return [StreamItem.framing("connected", session_id=self._session_id)]
        items = await self._subscription.take(timeout)
        if items is None:
            return None
        batch: list[StreamItem] = []
        for item in items:
            if item.turn_id != self._turn_id:
                continue
            batch.append(item)
            if item.type in TERMINAL_TYPES:
                batch.extend(self._closing(item))
                self._over = True
                break
        if self._subscription.lagged:
            self._over = True
            batch.append(StreamItem.framing("stream.lagged", session_id=self._session_id))
        elif self._subscription.closed:
            self._over = True
        if batch or self._over:
            return batch
        return await self.next_batch(timeout)

    def _closing(self, terminal: StreamItem) -> list[StreamItem]:
        fields = terminal.payload()
        common: dict[str, Any] = {"session_id": self._session_id, "turn_id": self._turn_id}
        if terminal.type == "turn.failed":
            return [StreamItem.framing("error", **common, code=fields["code"], message=fields["error"])]
        return [
            StreamItem.framing("response", **common, content=fields["response"] or ""),
            StreamItem.framing(
                "done",
                **common,
                status=terminal.type.removeprefix("turn."),
                stop_reason=fields["stop_reason"],
                usage=fields["usage"],
            ),
        ]

    async def close(self) -> None:
        self._subscription.leave()


async def items_of(follower: Follower) -> AsyncGenerator[StreamItem]:
    """Every item of a follower, until the stream is over."""
    try:
        while (batch := await follower.next_batch(60.0)) != []:
            for item in batch or ():
                yield item
    finally:
        await follower.close()
