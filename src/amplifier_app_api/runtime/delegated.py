"""One task that a turn has delegated, from the child's first event to its last.

The task belongs to the process and not to the tool that asked for it: a tool that gives up, or a loop that is
stopped, leaves it, and it is then stopped and told of all the same. It runs in the slot of the turn that waits for
it, so that turns which wait for children never wait for room as well.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from sqlalchemy import Connection

from amplifier_app_api.models.turn import UNFINISHED_STATUSES, StopReason, TurnStatus
from amplifier_app_api.runtime.kernel.proxies import current_call
from amplifier_app_api.runtime.outcome import Outcome, outcome_of_row
from amplifier_app_api.runtime.recorder import TurnOver
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.runtime.turn_children import ChildInTurn
from amplifier_app_api.runtime.units import TurnKey, Unit
from amplifier_app_api.storage.children import (
    ChildTurn,
    children_told,
    show_child_ended,
    spent_by_children,
    status_of_left,
)
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.turns import get_turn

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 0.2
"""How often the row of a turn is looked at that does not run here yet."""

Start = Callable[[], Awaitable[Turn]]
"""Accepts the task as a turn of the child session."""


class DelegationFailed(RuntimeError):
    """The child's turn failed. The sentence is for the model that delegated."""


class Runtime(Protocol):
    """Where turns run."""

    @property
    def db(self) -> Database:
        """The rows."""
        ...

    def running(self, turn_id: str) -> Turn | None:
        """A turn that runs in this process."""
        ...


class Slots(Protocol):
    """Where a child session runs without taking a place of its own."""

    def lend(self, session_id: str) -> None:
        """The session runs in the place of another one from now on."""
        ...

    async def take_back(self, session_id: str) -> None:
        """The session needs a place of its own again; when nothing happens in it, it is closed."""
        ...


class DelegatedTask:
    """A child's turn, as the turn that waits for it sees it."""

    def __init__(self, parent: Turn, child: ChildInTurn, runtime: Runtime, slots: Slots) -> None:
        self._parent = parent
        self._child = child
        self._runtime = runtime
        self._slots = slots
        self._left = asyncio.Event()
        self._said: Mapping[str, Any] = {}

    def leave(self, _: object = None) -> None:
        """Nobody waits any more: stop it."""
        self._left.set()

    async def run(self, start: Start, *, announce: Callable[[], Awaitable[None]] | None = None) -> dict[str, Any]:
        """Carry it out, and give what the child's turn came to as `session.spawn` answers.

        `announce` comes before the event that tells of the child. `DelegationFailed` when the child's turn fails.
        """
        current_call.set(None)  # what the child does is no part of the call that asked for it
        status: str = TurnStatus.FAILED
        told = False
        self._parent.children.add(self._child)
        self._slots.lend(self._child.child_id)
        try:
            if announce is not None:
                await announce()
            await self._parent.recorder.write(Unit(events=[self._child.started()]))
            told = True
            turn = await start()
            self._parent.children.begin(self._child, turn)
            outcome = await self._end_of(turn)
            status = outcome.status
            return answer_of(self._child, outcome, self._said)
        finally:
            if self._parent.children.remove(self._child) and told:
                await self._tell_end(status)
            await self._slots.take_back(self._child.child_id)

    async def adopt(self, found: ChildTurn) -> Outcome:
        """Wait for a turn that was begun for the parent before this process had it."""
        status: str = TurnStatus.INTERRUPTED
        log = await self._runtime.db.read(children_told, self._parent.session_id, self._parent.turn_id)
        if any(told.child_id == self._child.child_id for told in log):  # else its end has been told, too
            self._parent.children.adopt(self._child)
        try:
            outcome = await self._found_end(found.turn_id, found.session_id, within=found.tenant_id)
            status = outcome.status
            return outcome
        finally:
            if self._parent.children.remove(self._child):
                await self._tell_end(status)

    async def _found_end(self, turn_id: str, session_id: str, *, within: str) -> Outcome:
        """The end of a turn that may not have been gone on with yet, or runs in another process."""
        while True:
            turn = self._runtime.running(turn_id)
            if turn is not None and not turn.released:
                turn.work_for(self._parent)
                self._parent.children.begin(self._child, turn)
                return await self._end_of(turn)
            with contextlib.suppress(DatabaseUnavailable):  # the next look may reach it
                if (outcome := await self._stored_end(turn_id, session_id, within=within)) is not None:
                    return outcome
            if self._left.is_set():
                raise DelegationFailed("Nobody waits for it any more.")  # an orphan now, and stopped as one
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), LOOK_AGAIN_SECONDS)

    async def _stored_end(self, turn_id: str, session_id: str, *, within: str) -> Outcome | None:
        db = self._runtime.db
        row = await db.read(get_turn, turn_id, session_id=session_id, within=within)
        if row is None:
            raise DelegationFailed(f"The session of {self._child.agent} was deleted.")
        if row.status in UNFINISHED_STATUSES:
            return None
        spent = await db.read(spent_by_children, self._parent.turn_id)
        # Of this one only: what ran here for the parent was charged as it was used.
        self._parent.meter.count_children({turn_id: spent[turn_id]})
        return outcome_of_row(row)

    async def _end_of(self, turn: Turn) -> Outcome:
        leave = self._parent.adopt(turn)
        try:
            outcome = await self._awaited(turn)
        finally:
            leave()
        if turn.released and not self._parent.outcome.done():
            # It could not reach the database. It is gone on with, here or elsewhere, and then the call has its result.
            return await self._found_end(turn.turn_id, turn.session_id, within=turn.tenant_id)
        self._said = turn.tap.loop_status
        return outcome

    async def _awaited(self, turn: Turn) -> Outcome:
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({turn.outcome, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        if not turn.outcome.done():
            await self._stop(turn)
            await asyncio.wait({turn.outcome})  # another process may have it by now
        return turn.outcome.result()

    async def _stop(self, turn: Turn) -> None:
        """Nobody waits for it any more: stop it, unless somebody will, because the parent goes on elsewhere."""
        if self._parent.recorder.sealed:
            await asyncio.wait({self._parent.outcome, turn.outcome}, return_when=asyncio.FIRST_COMPLETED)
        if not self._parent.outcome.done():
            await turn.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)
        elif self._parent.released:
            await asyncio.wait({turn.outcome})
        else:
            ended = self._parent.outcome.result()
            status = status_of_left(ended.status)
            reason = ended.stop_reason if status is TurnStatus.INTERRUPTED else StopReason.USER_CANCEL
            await turn.stop(status, reason)

    async def _tell_end(self, status: str) -> None:
        try:
            await self._parent.recorder.write(Unit(events=[self._child.ended(status)], effects=[_goes_on]))
        except TurnOver:
            return  # whoever ended the turn has told what became of its children
        except DatabaseUnavailable:
            logger.warning("the end of a child could not be written yet", extra={"child_id": self._child.child_id})


def _goes_on(conn: Connection, key: TurnKey) -> None:
    show_child_ended(conn, key.turn_id, key.session_id)


def answer_of(child: ChildInTurn, outcome: Outcome, loop: Mapping[str, Any]) -> dict[str, Any]:
    """What a delegating tool is told: `{output, session_id, status, turn_count, metadata}`.

    `status` is what the child's loop said at its end, as tools know it, or how the turn ended when it did not end by
    itself. `DelegationFailed` when it failed.
    """
    if outcome.status is TurnStatus.FAILED:
        raise DelegationFailed(f"{child.agent} failed ({outcome.code}): {outcome.error}")
    said = loop.get("metadata")
    metadata: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType]
    count = loop.get("turn_count")
    return {
        "output": outcome.whole or outcome.response or "",
        "session_id": child.external_id,
        "status": _status(outcome, loop),
        "turn_count": count if isinstance(count, int) else 1,
        "metadata": {
            **metadata,
            "child_id": child.child_id,
            "turn_id": outcome.turn_id,
            "stop_reason": outcome.stop_reason.value,
        },
    }


def _status(outcome: Outcome, loop: Mapping[str, Any]) -> str:
    if outcome.status is not TurnStatus.COMPLETED:
        return outcome.status.value
    if outcome.stop_reason is not StopReason.END_TURN:
        return "incomplete"
    return str(loop.get("status") or "success")
