"""What happens in a turn, written down in order.

Durable events and message rows go to the database in transactions of this turn's epoch and reach followers after
the commit. A delta is handed on at once, unless something durable that came before it is not committed yet: then
it waits, so that order never inverts and its id is final. What need not be safe before the turn goes on (the last
message, the usage) is deferred and shares the next transaction: a plain turn has two.

Others may write to the log of the session meanwhile: somebody whose message waits, another server. While a turn
runs its recorder alone tells followers what the log gets, in the order of the numbers.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.models.event import SETTLING_TYPES, Delta, DeltaType, Event
from amplifier_app_api.runtime.units import Ending, TurnKey, Unit, write_unit
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.deltas import delete_deltas
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.messages import has_message
from amplifier_app_api.storage.sessions import Advanced, advance, advance_to_idle, counters_of
from amplifier_app_api.storage.turns import end_turn, keep_tally
from amplifier_app_api.storage.usage import book

T = TypeVar("T")

CATCH_UP_PAGE = 500

OUTAGE_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 10.0, 10.0)
"""Seconds between the attempts of a turn to write while the database is away. It waits where it is meanwhile."""

logger = logging.getLogger(__name__)


class TurnOver(Exception):
    """The turn has ended, or another writer has the session: nothing more may be written for it."""


class _EndedBefore(Exception):
    """Rolls the transaction back: the turn's row says that it has ended."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What a transaction made of a unit: its events with their numbers, and where the transcript ends now."""

    events: Sequence[StoredEvent]
    last_position: int


class Recorder:
    """The writer of one turn. `recovered` says that an earlier attempt at the turn may have left rows of deltas."""

    def __init__(
        self,
        db: Database,
        hub: EventHub,
        key: TurnKey,
        *,
        epoch: int,
        last_seq: int,
        last_position: int,
        recovered: bool = False,
    ) -> None:
        self._db = db
        self._hub = hub
        self._key = key
        self._epoch = epoch
        self._lock = asyncio.Lock()
        self._deferred = Unit()
        self._in_doubt: Unit | None = None
        # How many events were handed over, and how many of them are committed: a delta waits for those before it.
        self._told = 0
        self._committed = 0
        self._held: deque[tuple[int, Delta]] = deque()
        # What somebody else wrote, until everything before it is told.
        self._foreign: dict[int, StoredEvent] = {}
        self._flush: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovered = recovered
        self._tail = hub.open_tail(
            tenant_id=key.tenant_id,
            session_id=key.session_id,
            turn_id=key.turn_id,
            epoch=epoch,
            seq=last_seq,
            writer=self,
        )
        self._no_more = asyncio.Event()
        self.last_position = last_position
        self.sealed = False
        self.over = False

    @property
    def last_seq(self) -> int:
        """The number of the last event that followers were told."""
        return self._tail.seq

    def defer(self, unit: Unit) -> None:
        """Write this with whatever is written next."""
        if not self.sealed:
            self._take(unit)

    def _take(self, unit: Unit) -> None:
        self._deferred.add(unit)
        self._told += len(unit.events)

    async def write(self, unit: Unit | None = None) -> None:
        """Write this, and all that was deferred before it, and return when it is committed.

        While the database is away this waits, for as long as `OUTAGE_PAUSES` say and the turn is not ended; then it
        raises `DatabaseUnavailable`. A caller that is cancelled stops waiting; what it handed over is written all the
        same.
        """
        if self.sealed:
            raise TurnOver
        if unit is not None:
            self._take(unit)
        await self._in_order(self._commit())

    def seal(self) -> None:
        """Take nothing more but the end of the turn. What is on its way is still written, and told."""
        self.sealed = True
        self._no_more.set()

    @property
    def epoch(self) -> int:
        """The number that every write of the turn carries."""
        return self._epoch

    def fence(self) -> None:
        """Somebody else has the session: write nothing any more."""
        self.over = True
        self.seal()
        self._held.clear()
        self._hub.close_tail(self._tail)

    async def end(self, ending: Ending, *, alone: bool = False) -> bool:
        """Write the end of the turn. False: it had ended before, or somebody else has the session.

        `alone` leaves out what was deferred before it: for a unit that no database takes.
        """
        self.seal()
        return await self._in_order(self._close(ending, alone=alone))

    def saw(self, events: Sequence[StoredEvent]) -> None:
        """Tell events that somebody else wrote, each when all before it are told."""
        for event in events:
            if event.seq <= self.last_seq:  # those the turn began with; who has them already leaves them out
                self._hub.publish(self._key.session_id, (StreamItem.of_event(event),))
            else:
                self._foreign[event.seq] = event
        self._tell_foreign()

    def look(self) -> None:
        """Look into the log for what somebody else wrote, and tell it. Nobody waits for it."""
        task = asyncio.create_task(self._look(), name="look into the log")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        try:
            async with self._lock:
                await self._settle_doubt()
                await self.catch_up()
        except DatabaseUnavailable:
            logger.info("the log could not be looked into yet")

    async def catch_up(self) -> list[StoredEvent]:
        """Hand on what somebody else wrote since, and give it back."""
        key = self._key
        stored: list[StoredEvent] = []
        while page := await self._db.read(
            events_after, key.session_id, self.last_seq, limit=CATCH_UP_PAGE, within=key.tenant_id
        ):
            for event in page:
                self._tell(event)
            stored += page
        return stored

    async def _in_order(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a write as a task of this recorder, so that nobody's cancellation tears a transaction in two."""
        task = asyncio.create_task(work, name="write a turn")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waited may have left; the unit is kept, and what writes next meets the same trouble

    async def _commit(self) -> None:
        async with self._lock:
            pauses = iter(OUTAGE_PAUSES)
            while not self.over:
                try:
                    return await self._commit_once()
                except DatabaseUnavailable:
                    pause = next(pauses, None)
                    if pause is None or self.sealed:
                        raise
                logger.warning("the database is away; a turn waits for it", extra={"turn_id": self._key.turn_id})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._no_more.wait(), pause)
            raise TurnOver

    async def _commit_once(self) -> None:
        await self._settle_doubt()
        unit, self._deferred = self._deferred, Unit()
        if not unit:
            return
        self._tail.settling(unit.settles())
        try:
            written = await self._db.write(self._append, unit)
        except Exception:
            self._in_doubt = unit
            raise
        if written is None:
            self.fence()
            raise TurnOver
        await self._written(written)

    async def _close(self, ending: Ending, *, alone: bool) -> bool:
        async with self._lock:
            if self.over:
                return False
            unit = Unit()
            if not alone:
                await self._settle_doubt()
                unit.add(self._deferred)
            unit.add(ending.unit)
            self._tail.settling(unit.settles())
            try:
                written = await self._db.write(self._end, unit, ending)
            except _EndedBefore:
                written = None
            if written is not None:
                await self._written(written)
            self.fence()
            return written is not None

    async def _settle_doubt(self) -> None:
        """Find out what became of a unit whose write failed: its commit may have held and only the answer been lost.

        It is found by what it says. What others wrote to the log meanwhile is told with it.
        """
        unit = self._in_doubt
        if unit is None:
            return
        found = await self._db.read(self._find, unit)
        if found is None:
            unit.add(self._deferred)
            self._deferred = unit
        else:
            await self._written(found)
        self._in_doubt = None

    async def _written(self, written: _Written) -> None:
        self.last_position = written.last_position
        if written.events:
            await self._tell_before(written.events[0].seq)
        for event in written.events:
            self._release()
            self._tell(event)
            self._committed += 1
        self._tell_foreign()
        self._release()
        if self._held and not self.sealed:
            self._flush_soon()

    async def _tell_before(self, seq: int) -> None:
        """Tell what others wrote in front of an event of ours."""
        self._tell_foreign()
        if self.last_seq + 1 >= seq:
            return
        key = self._key
        try:
            while page := await self._db.read(
                events_after, key.session_id, self.last_seq, limit=CATCH_UP_PAGE, within=key.tenant_id
            ):
                for event in page:
                    if event.seq < seq:
                        self._tell(event)
                if page[-1].seq >= seq:
                    return
        except DatabaseUnavailable:
            logger.info("what others wrote to the log could not be read; followers read it themselves")

    def _tell_foreign(self) -> None:
        while (event := self._foreign.pop(self.last_seq + 1, None)) is not None:
            self._tell(event)

    def _tell(self, event: StoredEvent) -> None:
        if event.seq <= self.last_seq:
            return
        item = StreamItem.of_event(event)
        self._tail.seq = event.seq
        if event.type in SETTLING_TYPES and event.turn_id == self._key.turn_id:
            self._tail.settle({int(item.fields["request"])})
        self._hub.publish(self._key.session_id, (item,))

    def _release(self) -> None:
        """Hand on the deltas that nothing uncommitted comes before."""
        while self._held and self._held[0][0] <= self._committed:
            _, delta = self._held.popleft()
            self._say(delta.type, delta.request, delta.block, delta.offset, delta.text, delta.at)

    def delta(self, type: DeltaType, request: int, block: int, offset: int, text: str) -> None:  # noqa: A002
        """Hand on a piece of an answer, after everything durable that came before it."""
        if self.sealed:
            return
        if self._told <= self._committed:
            self._say(type, request, block, offset, text)
            return
        held = self._held[-1] if self._held else None
        if held is not None and held[0] == self._told and _continues(held[1], type, request, block, offset):
            held[1].text += text
        else:
            self._held.append((self._told, self._delta(type, request, block, offset, text)))
        self._flush_soon()

    def _say(
        self,
        type: DeltaType,  # noqa: A002
        request: int,
        block: int,
        offset: int,
        text: str,
        at: datetime | None = None,
    ) -> None:
        self._tail.append(type, request, block, offset, text)
        feed = self._hub.feed(self._key.session_id)
        if feed is not None:
            feed.publish_one(StreamItem.of_delta(self._delta(type, request, block, offset, text, at)))

    def _delta(
        self,
        type: DeltaType,  # noqa: A002
        request: int,
        block: int,
        offset: int,
        text: str,
        at: datetime | None = None,
    ) -> Delta:
        return Delta(
            type=type,
            session_id=self._key.session_id,
            turn_id=self._key.turn_id,
            seq=self.last_seq,
            request=request,
            block=block,
            offset=offset,
            text=text,
            at=at or datetime.now(UTC),
        )

    def _flush_soon(self) -> None:
        if self._flush is not None and not self._flush.done():
            return
        self._flush = asyncio.create_task(self._flushed(), name="write deferred events")

    async def _flushed(self) -> None:
        try:
            while self._held and not self.sealed:
                await self.write()
        except TurnOver:
            return
        except Exception:
            # The unit is kept: the next awaited write of the turn meets the same trouble and tells it.
            logger.warning("deferred events could not be written yet", exc_info=True)

    # Units of work.

    def _append(self, conn: Connection, unit: Unit) -> _Written | None:
        key = self._key
        counters = advance(
            conn, key.session_id, epoch=self._epoch, events=len(unit.events), messages=len(unit.messages)
        )
        if counters is None:
            return None
        if unit.tally is not None:
            keep_tally(conn, key.turn_id, unit.tally)
        settled = unit.settles()
        if settled and (self._recovered or self._tail.may_have_rows(settled)):
            delete_deltas(conn, key.session_id, key.turn_id, settled)
        return self._stored(conn, unit, counters)

    def _end(self, conn: Connection, unit: Unit, ending: Ending) -> _Written | None:
        key = self._key
        now = utc_now()
        counters = advance_to_idle(
            conn,
            key.session_id,
            epoch=self._epoch,
            events=len(unit.events),
            messages=len(unit.messages),
            before=ending.before,
            spent=ending.whole,
            now=now,
            new_epoch=ending.new_epoch,
        )
        if counters is None:
            return None
        book(conn, ending.own, now=now, within=key.tenant_id)
        ended = end_turn(
            conn,
            key.turn_id,
            status=ending.status,
            stop_reason=ending.stop_reason,
            ended_at=now,
            usage=ending.whole.usage.model_dump(),
            **ending.values,
        )
        if not ended:
            raise _EndedBefore
        if self._recovered or self._tail.has_rows:
            delete_deltas(conn, key.session_id, key.turn_id)
        return self._stored(conn, unit, counters)

    def _stored(self, conn: Connection, unit: Unit, counters: Advanced) -> _Written:
        stored = write_unit(conn, self._key, unit, last_seq=counters.last_seq, last_position=counters.last_position)
        return _Written(stored, counters.last_position)

    def _find(self, conn: Connection, unit: Unit) -> _Written | None:
        """A unit as it was committed. None: it was not. One without messages and events is never found."""
        key = self._key
        if unit.messages and not has_message(conn, unit.messages[0].message_id):
            return None
        counters = counters_of(conn, key.session_id)
        if counters is None:
            return None
        last_seq, last_position = counters
        if not unit.events:
            return _Written((), last_position) if unit.messages else None
        news = events_after(
            conn, key.session_id, self.last_seq, limit=last_seq - self.last_seq + 1, within=key.tenant_id
        )
        for start in range(len(news) - len(unit.events) + 1):
            found = news[start : start + len(unit.events)]
            if all(_says(stored, event, key.turn_id) for stored, event in zip(found, unit.events, strict=True)):
                return _Written(found, last_position)
        return None


def _says(stored: StoredEvent, event: Event, turn_id: str) -> bool:
    if stored.type != event.type or stored.turn_id != turn_id:
        return False
    fields = orjson.loads(orjson.dumps(event.model_dump(mode="json", by_alias=True)))
    envelope = orjson.loads(stored.data)
    return all(envelope[name] == value for name, value in fields.items())


def _continues(
    held: Delta,
    type: DeltaType,  # noqa: A002
    request: int,
    block: int,
    offset: int,
) -> bool:
    return held.request == request and held.block == block and held.end == offset and held.type == type
