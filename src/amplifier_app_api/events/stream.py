"""Following a session: the rows first, then live, without a gap or a repeat, down to the code point.

A follower subscribes before it reads the first row, so that nothing falls between the two. What it reads and what
comes are put together by `Seen`; when something does not follow on what the reader has, and when nothing came for a
while, the rows and the running turn's tail are read again: a lost hint costs a moment and no event. While the database
is away a follower that needs the rows waits for it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, Protocol

from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.seen import Behind, PieceOfText, Seen
from amplifier_app_api.models.event import TERMINAL_TYPES
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.log import LogPart

__all__ = ["FilteredFollower", "Follower", "SessionFollower", "SessionLog", "StreamItem", "TurnFollower", "items_of"]

READ_PAGE = 500
POLL_SECONDS = 1.0
"""How often the rows of a session are read that another process may be running."""


class SessionLog(Protocol):
    """The rows of one session."""

    async def read(self, after: int, *, limit: int, deltas: bool) -> LogPart:
        """What follows a number, at most `limit` events; with the pieces that are rows when `deltas` says so."""
        ...

    async def turn_at(self, seq: int) -> str | None:
        """The turn that ran when the event with this number was the last."""
        ...


class Follower(Protocol):
    """A place in a stream."""

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        """What comes next. None: nothing came within `timeout` seconds. Empty: the stream is over."""
        ...

    async def close(self) -> None:
        """Stop following."""
        ...


class SessionFollower:
    """Follows a session from a place on, for as long as the reader stays.

    `runs_here` says whether everything that happens in the session is told in this process; while it does not, the
    rows are read every second. `subscription` is one that began before, say before a message was accepted: with it
    nothing is read until something is missing, and without a place the first that comes is where it begins.
    """

    def __init__(
        self,
        hub: EventHub,
        session_id: str,
        log: SessionLog,
        *,
        after: Place | None,
        runs_here: Callable[[], bool],
        subscription: Subscription | None = None,
    ) -> None:
        self._hub = hub
        self._session_id = session_id
        self._subscription = subscription or hub.subscribe(session_id)
        self._log = log
        self._after = after
        self._runs_here = runs_here
        self._seen: Seen | None = None
        self._behind = subscription is None
        self._has_read = False

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        until = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                return await self._next_batch(until)
            except DatabaseUnavailable:
                self._behind = True
                await asyncio.sleep(POLL_SECONDS)
                if asyncio.get_running_loop().time() >= until:
                    return None

    async def _next_batch(self, until: float) -> list[StreamItem] | None:
        while True:
            if self._behind and (batch := await self._from_rows()):
                return batch
            if self._behind:  # one page of the log had nothing new for this reader
                continue
            left = max(0.0, until - asyncio.get_running_loop().time())
            items = await self._subscription.take(left if self._runs_here() else min(left, POLL_SECONDS))
            if items is None:
                self._behind = True
                if asyncio.get_running_loop().time() >= until:
                    return None
                continue
            if self._subscription.lagged:
                return self._lagged()
            if not items:
                return []
            if batch := await self._from_feed(items):
                return batch

    async def _place(self, first: StreamItem | None = None) -> Seen | None:
        if self._seen is None:
            after, turn_id = self._after, None
            if after is None and first is not None:
                after = Place(first.delta.seq if first.delta is not None else (first.seq or 1) - 1)
            if after is None:
                return None
            if after.inside is not None:
                turn_id = await self._log.turn_at(after.seq)
            self._seen = Seen(self._session_id, after, turn_id)
        return self._seen

    async def _from_feed(self, items: Sequence[StreamItem]) -> list[StreamItem]:
        seen = self._seen or await self._place(items[0])
        out: list[StreamItem] = []
        if seen is None:
            return out
        try:
            for item in items:
                if item.delta is not None:
                    seen.delta(item, item.delta, out)
                else:
                    seen.event(item, out)
        except Behind:
            # What is left of the batch is in the rows and the tail as well.
            self._behind = True
        seen.caught_up()
        return out

    async def _from_rows(self) -> list[StreamItem]:
        seen = await self._place()
        self._behind = False
        if seen is None:
            return []
        # A turn that runs here has its whole answer in memory; of any other the rows have what there is.
        part = await self._log.read(seen.seq, limit=READ_PAGE, deltas=self._hub.tail(self._session_id) is None)
        if part.gone:  # deleted, maybe through another process
            self._subscription.end()
            return []
        if part.last is not None and not self._has_read:
            seen.begin_at_most(part.last)
        self._has_read = True
        tail = self._hub.tail(self._session_id)
        pieces: Sequence[PieceOfText] = part.deltas if tail is None else tail.pieces
        out: list[StreamItem] = []
        seen.place_among(pieces)
        for event in part.events:
            if tail is not None and event.seq > tail.seq:
                # Committed, and about to be told: followers get it in its place among the pieces.
                tail.writer.look()
                break
            self._skip_to(event.seq - 1, seen, out)
            seen.pieces(pieces, out, before=event.seq)
            seen.event(StreamItem.of_event(event), out)
        else:
            self._skip_to(part.pruned, seen, out)
            self._behind = part.more
        if not self._behind:
            seen.pieces(pieces, out, before=seen.seq + 1)
        return out

    def _skip_to(self, seq: int, seen: Seen, out: list[StreamItem]) -> None:
        """Tell that the events up to this number are gone, if the reader has not seen them."""
        if seq > seen.seq:
            fields = {"session_id": self._session_id, "requested": seen.seq, "oldest": seq + 1}
            out.append(StreamItem.framing("stream.gap", **fields))
            seen.skip_to(seq)

    def _lagged(self) -> list[StreamItem]:
        if self._subscription.closed:
            return []
        self._subscription.end()
        return [StreamItem.framing("stream.lagged", session_id=self._session_id)]

    async def close(self) -> None:
        self._subscription.leave()


class FilteredFollower:
    """Shows of another follower's items only those of some types, and what tells of the stream itself."""

    def __init__(self, follower: Follower, types: Collection[str]) -> None:
        self._follower = follower
        self._types = frozenset(types) | {"stream.gap", "stream.lagged", "child.event"}

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        until = asyncio.get_running_loop().time() + timeout
        while True:
            left = max(0.0, until - asyncio.get_running_loop().time())
            batch = await self._follower.next_batch(left)
            if not batch:
                return batch
            if shown := [item for item in batch if item.type in self._types]:
                return shown
            if asyncio.get_running_loop().time() >= until:
                return None
            await asyncio.sleep(0)  # a log that is read to its end without a match must let others run

    async def close(self) -> None:
        await self._follower.close()


class TurnFollower:
    """Follows one turn to its end, framed for `POST …/stream`: `connected` first, `done` or `error` last.

    The turn may not have begun yet. What else happens in the session is left out. `ended` is the terminal event of a
    turn of which the log has nothing any more.
    """

    def __init__(self, follower: Follower, session_id: str, turn_id: str, *, ended: StreamItem | None = None) -> None:
        self._follower = follower
        self._session_id = session_id
        self._turn_id = turn_id
        self._ended = ended
        self._begun = False
        self._over = False

    async def next_batch(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        if self._over:
            return []
        if not self._begun:
            self._begun = True
            connected = StreamItem.framing("connected", session_id=self._session_id)
            if self._ended is None:
                return [connected]
            self._over = True
            return [connected, *self._closing(self._ended)]
        until = asyncio.get_running_loop().time() + timeout
        while True:
            left = max(0.0, until - asyncio.get_running_loop().time())
            batch = await self._follower.next_batch(left)
            if batch is None:
                return None
            if not batch:
                self._over = True
                return []
            if shown := self._of_turn(batch):
                return shown
            if asyncio.get_running_loop().time() >= until:
                return None

    def _of_turn(self, batch: Sequence[StreamItem]) -> list[StreamItem]:
        shown: list[StreamItem] = []
        for item in batch:
            if item.turn_id == self._turn_id:
                shown.append(item)
                if item.type in TERMINAL_TYPES:
                    self._over = True
                    return shown + self._closing(item)
            elif item.type.startswith("stream."):
                shown.append(item)
        return shown

    def _closing(self, terminal: StreamItem) -> list[StreamItem]:
        fields = terminal.fields
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
        await self._follower.close()


async def items_of(follower: Follower) -> AsyncGenerator[StreamItem]:
    """Every item of a follower, until the stream is over."""
    try:
        while (batch := await follower.next_batch(60.0)) != []:
            for item in batch or ():
                yield item
    finally:
        await follower.close()
