"""What happens in a turn, written down in order.

Durable events and message rows go to the database in transactions of this turn's epoch and reach followers after
the commit. A delta is handed on at once, unless something durable that came before it is not committed yet: then
it waits, so that order never inverts and its id is final. What need not be safe before the turn goes on (the last
message, the usage) is deferred and shares the next transaction: a plain turn has two.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.models.event import Delta, DeltaType, Event
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent, events_after, insert_events
from amplifier_app_api.storage.messages import NewMessage, bind_kernel_message, insert_messages
from amplifier_app_api.storage.sessions import advance, advance_to_idle, counters_of, set_usage
from amplifier_app_api.storage.turns import end_turn

T = TypeVar("T")

CATCH_UP_PAGE = 500

logger = logging.getLogger(__name__)


class TurnOver(Exception):
    """The turn has ended, or another writer has the session: nothing more may be written for it."""


class _EndedBefore(Exception):
    """Rolls the transaction back: the turn's row says that it has ended."""


@dataclass(slots=True)
class Unit:
    """What goes into one transaction."""

    messages: list[NewMessage] = field(default_factory=list[NewMessage])
    events: list[Event] = field(default_factory=list[Event])
    binds: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])

    def __bool__(self) -> bool:
        return bool(self.messages or self.events or self.binds)

    def add(self, other: "Unit") -> None:
        """Append another unit."""
        self.messages += other.messages
        self.events += other.events
        self.binds += other.binds


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended. `unit` is the last of it, the terminal event included."""

    status: TurnStatus
    stop_reason: StopReason
    unit: Unit
    values: dict[str, Any]
    usage: TokenUsage
    new_epoch: bool = False


@dataclass(frozen=True, slots=True)
class TurnKey:
    """Which turn of which session."""

    tenant_id: str
    session_id: str
    turn_id: str


class Recorder:
    """The writer of one turn."""

    def __init__(
        self, db: Database, hub: EventHub, key: TurnKey, *, epoch: int, last_seq: int, last_position: int
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
        self._held: list[tuple[int, Delta]] = []
        self._flush: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.last_seq = last_seq
        self.last_position = last_position
        self.sealed = False
        self.over = False

    def defer(self, unit: Unit) -> None:
        """Write this with whatever is written next."""
        if not self.sealed:
            self._take(unit)

    def _take(self, unit: Unit) -> None:
        self._deferred.add(unit)
        self._told += len(unit.events)

    async def write(self, unit: Unit | None = None) -> None:
        """Write this, and all that was deferred before it, and return when it is committed.

        A caller that is cancelled stops waiting; what it handed over is written all the same.
        """
        if self.sealed:
            raise TurnOver
        if unit is not None:
            self._take(unit)
        await self._in_order(self._commit())

    def seal(self) -> None:
        """Take nothing more but the end of the turn. What is on its way is still written, and told."""
        self.sealed = True

    async def end(self, ending: Ending, *, alone: bool = False) -> bool:
        """Write the end of the turn. False: it had ended before, or somebody else has the session.

        `alone` leaves out what was deferred before it: for a unit that no database takes.
        """
        self.seal()
        return await self._in_order(self._close(ending, alone=alone))

    async def catch_up(self) -> list[StoredEvent]:
        """Hand on what somebody else wrote since, and give it back."""
        key = self._key
        stored: list[StoredEvent] = []
        while page := await self._db.read(
            events_after, key.session_id, self.last_seq, limit=CATCH_UP_PAGE, within=key.tenant_id
        ):
            self.last_seq = page[-1].seq
            self._hub.publish(key.session_id, [StreamItem.of_event(event) for event in page])
            stored += page
        return stored

    async def _in_order(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a write as a task of this recorder, so that nobody's cancellation tears a transaction in two."""
        task = asyncio.create_task(work, name="write a turn")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _commit(self) -> None:
        async with self._lock:
            if self.over:
                raise TurnOver
            await self._settle_doubt()
            unit, self._deferred = self._deferred, Unit()
            if not unit:
                return
            try:
                stored = await self._db.write(_append, self._key, self._epoch, unit)
            except Exception:
                self._in_doubt = unit
                raise
            if stored is None:
                self.over = self.sealed = True
                raise TurnOver
            self._written(stored, unit)

    async def _close(self, ending: Ending, *, alone: bool) -> bool:
        async with self._lock:
            if self.over:
                return False
            unit = Unit()
            if not alone:
                await self._settle_doubt()
                unit.add(self._deferred)
            unit.add(ending.unit)
            try:
                stored = await self._db.write(_end, self._key, self._epoch, unit, ending)
            except _EndedBefore:
                stored = None
            self.over = True
            if stored is None:
                return False
            self._written(stored, unit)
            self._held.clear()
            return True

    async def _settle_doubt(self) -> None:
        """Find out what became of a unit whose write failed: its commit may have held and only the answer been lost.

        Nobody else writes under this epoch, so whatever the counters have more is that unit, or nothing of it.
        """
        unit = self._in_doubt
        if unit is None:
            return
        key = self._key
        counters = await self._db.read(counters_of, key.session_id)
        committed = (self.last_seq + len(unit.events), self.last_position + len(unit.messages))
        if counters == committed and (unit.events or unit.messages):
            stored = await self._db.read(
                events_after, key.session_id, self.last_seq, limit=len(unit.events), within=key.tenant_id
            )
            self._written(stored, unit)
        else:
            unit.add(self._deferred)
            self._deferred = unit
        self._in_doubt = None

    def _written(self, stored: Sequence[StoredEvent], unit: Unit) -> None:
        self.last_position += len(unit.messages)
        for event in stored:
            self._release()
            self.last_seq = event.seq
            self._committed += 1
            self._hub.publish(self._key.session_id, (StreamItem.of_event(event),))
        self._release()
        if self._held and not self.sealed:
            self._flush_soon()

    def _release(self) -> None:
        """Hand on the deltas that nothing uncommitted comes before."""
        while self._held and self._held[0][0] <= self._committed:
            _, delta = self._held.pop(0)
            delta.seq = self.last_seq
            self._hub.publish(self._key.session_id, (StreamItem.of_delta(delta),))

    def delta(self, type: DeltaType, request: int, block: int, offset: int, text: str) -> None:  # noqa: A002
        """Hand on a piece of an answer, after everything durable that came before it."""
        if self.sealed:
            return
        waits = self._told > self._committed
        if not waits and self._hub.feed(self._key.session_id) is None:
            return
        delta = Delta(
            type=type,
            session_id=self._key.session_id,
            turn_id=self._key.turn_id,
            seq=self.last_seq,
            request=request,
            block=block,
            offset=offset,
            text=text,
            at=datetime.now(UTC),
        )
        if not waits:
            self._hub.publish(self._key.session_id, (StreamItem.of_delta(delta),))
            return
        if self._held and self._held[-1][0] == self._told and delta.continues(self._held[-1][1]):
            self._held[-1][1].text += text
        else:
            self._held.append((self._told, delta))
        self._flush_soon()

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


def _append(conn: Connection, key: TurnKey, epoch: int, unit: Unit) -> list[StoredEvent] | None:
    counters = advance(conn, key.session_id, epoch=epoch, events=len(unit.events), messages=len(unit.messages))
    if counters is None:
        return None
    return write_unit(conn, key, unit, last_seq=counters.last_seq, last_position=counters.last_position)


def _end(conn: Connection, key: TurnKey, epoch: int, unit: Unit, ending: Ending) -> list[StoredEvent] | None:
    now = utc_now()
    counters = advance_to_idle(
        conn,
        key.session_id,
        epoch=epoch,
        events=len(unit.events),
        messages=len(unit.messages),
        now=now,
        new_epoch=ending.new_epoch,
    )
    if counters is None:
        return None
    set_usage(conn, key.session_id, counters.usage.plus(ending.usage))
    ended = end_turn(
        conn,
        key.turn_id,
        status=ending.status,
        stop_reason=ending.stop_reason,
        ended_at=now,
        usage=ending.usage.model_dump(),
        **ending.values,
    )
    if not ended:
        raise _EndedBefore
    return write_unit(conn, key, unit, last_seq=counters.last_seq, last_position=counters.last_position)


def write_unit(conn: Connection, key: TurnKey, unit: Unit, *, last_seq: int, last_position: int) -> list[StoredEvent]:
    """Write rows whose numbers were taken: the last of them are `last_seq` and `last_position`."""
    for message_id, kernel in unit.binds:
        bind_kernel_message(conn, message_id, kernel)
    insert_messages(
        conn,
        unit.messages,
        session_id=key.session_id,
        first_position=last_position - len(unit.messages) + 1,
        within=key.tenant_id,
    )
    return insert_events(
        conn,
        unit.events,
        session_id=key.session_id,
        turn_id=key.turn_id,
        first_seq=last_seq - len(unit.events) + 1,
        at=utc_now(),
        within=key.tenant_id,
    )
