"""Turns whose process is gone are taken over and gone on with; turns that are not ours any more are let go of.

A look compares what the rows say with what runs here. It is made before the first request is served and on every
heartbeat. Every way a turn can lose its process ends here: the process was killed, stopped and left its turns,
fell silent, or lost the answer to the write that began a turn.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from amplifier_app_api.errors import AppError
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.journal import Seals, said_by_user, sorted_out
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.outcome import OPEN_CALL_ANSWERS
from amplifier_app_api.runtime.refusals import TooManyTurns
from amplifier_app_api.runtime.restoring import Restorer
from amplifier_app_api.runtime.resumption import Resumption, Tally
from amplifier_app_api.runtime.running import RunningTurns
from amplifier_app_api.runtime.turn import DATABASE_AWAY, Accepted
from amplifier_app_api.runtime.turn_children import ChildInTurn
from amplifier_app_api.runtime.units import TurnKey
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.ending import EndFromRows, TurnMoved, end_open_turn
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.nodes import SeenNode
from amplifier_app_api.storage.ownership import OpenTurn, Survey, TakenOver, epochs_of, survey, take_over
from amplifier_app_api.storage.recovering import LeftTurn, left_turn

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a turn is begun or gone on with. One that has lost so many processes is ended."""
AT_ONCE = 8
"""How many sessions are opened for their turns at a time."""
LOST_CALL = "The server stopped before this call had a result; whether it took effect is not known."

Publish = Callable[[str, Sequence[StoredEvent]], None]


class Recovery:
    """Takes over what was left, for the node `node_id`. `on_end` is called when it has ended a turn itself."""

    def __init__(
        self,
        db: Database,
        live: LiveSessions,
        restorer: Restorer,
        turns: RunningTurns,
        *,
        node_id: str,
        publish: Publish,
        on_end: Callable[[], None],
    ) -> None:
        self._db = db
        self._live = live
        self._restorer = restorer
        self._turns = turns
        self._node_id = node_id
        self._publish = publish
        self._on_end = on_end
        self._room = asyncio.Semaphore(AT_ONCE)
        self._going_on: set[str] = set()
        self._astray: set[str] = set()

    async def look(self, lives: Callable[[SeenNode], bool]) -> Survey:
        """Compare rows and tasks, once. What is taken over is ours when this returns, and gone on with in tasks."""
        found = await self._db.read(survey, self._node_id, lives=lives)
        await self._let_go_of_lost(found.turns)
        astray = {turn.turn_id for turn in found.turns if self._is_astray(turn)}
        # One that is just being accepted has its row before its task: only what is found twice has lost its own.
        before, self._astray = self._astray, astray
        for turn in found.turns:
            if turn.owner != self._node_id:
                await self._take(turn, counted=turn.owner is not None)
            elif turn.turn_id in astray & before:
                await self._take(turn, counted=False)
            elif turn.cancel is not None:
                self._obey(turn)
        return found

    def let_go_of_all(self) -> None:
        """The database has not been reached for so long that others may take our turns for left."""
        for turn in self._turns.all():
            turn.let_go(DATABASE_AWAY)

    # What runs here.

    def _is_astray(self, turn: OpenTurn) -> bool:
        if turn.owner != self._node_id or turn.turn_id in self._going_on:
            return False
        live = self._live.get(turn.session_id, within=turn.tenant_id)
        return live is None or not (live.lock.locked() or (live.turn is not None and live.turn.held))

    async def _let_go_of_lost(self, found: Sequence[OpenTurn]) -> None:
        running = [turn for turn in self._turns.all() if not turn.gone.done()]
        epochs = {turn.session_id: turn.epoch for turn in found}
        unseen = {turn.session_id for turn in running} - epochs.keys()
        if unseen:
            now = await self._db.read(epochs_of, unseen)
            epochs |= {session_id: now.get(session_id, GONE) for session_id in unseen}
        for turn in running:
            if epochs[turn.session_id] > turn.recorder.epoch:
                logger.warning("a turn was taken over by another server", extra={"turn_id": turn.turn_id})
                self._live.own(turn.lost(), f"let go of {turn.turn_id}")

    def _obey(self, found: OpenTurn) -> None:
        turn = self._turns.get(found.turn_id)
        if turn is None or turn.outcome.done():
            return
        if found.cancel == "immediate":
            self._live.own(turn.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL), f"stop {turn.turn_id}")
        elif not turn.tap.stopping:
            turn.ask_to_stop()

    # What was left.

    async def _take(self, found: OpenTurn, *, counted: bool) -> None:
        if self._turns.draining:
            return
        taken = await self._db.write(take_over, found, self._node_id, counted=counted)
        if taken is None:
            return
        logger.warning("a turn was left and is taken over", extra={"turn_id": taken.turn_id, "attempt": taken.attempt})
        self._going_on.add(taken.turn_id)
        self._live.own(self._go_on(taken), f"go on with {taken.turn_id}")

    async def _go_on(self, taken: TakenOver) -> None:
        try:
            async with self._room:
                end = await self._resumed(taken)
                if end is not None:
                    await self._end(taken, end)
        except (DatabaseUnavailable, TooManyTurns):
            logger.warning("a turn cannot be gone on with now", extra={"turn_id": taken.turn_id})
        except Exception:
            # Whatever is wrong with it, it would be the same at the next look: it must not stay open.
            logger.exception("a turn could not be gone on with", extra={"turn_id": taken.turn_id})
            await self._end(taken, _lost("internal", "The turn could not be gone on with."))
        finally:
            self._going_on.discard(taken.turn_id)
            if self._turns.get(taken.turn_id) is None:
                self._take_back(taken)

    async def _resumed(self, taken: TakenOver) -> EndFromRows | None:
        """Go on with a turn; how to end it where that is not possible."""
        left = await self._db.read(left_turn, taken.turn_id, taken.session_id, within=taken.tenant_id)
        if left is None or left.record.epoch != taken.epoch or self._turns.draining:
            return None
        if left.cancel is not None:
            answer = OPEN_CALL_ANSWERS[TurnStatus.CANCELLED]
            return EndFromRows(TurnStatus.CANCELLED, StopReason.USER_CANCEL, answer)
        if taken.attempt > ATTEMPTS:
            return _lost()
        async with self._live.entry(taken.session_id, within=taken.tenant_id) as live:
            if live.running is not None:
                return None
            await self._live.shut(live)  # rows are the truth
            if left.works_for is not None:
                # The turn that waits for it may be all there is room for.
                self._live.lend(taken.session_id)
            try:
                opened = await self._restorer.reopen(live, left.record)
            except (DatabaseUnavailable, TooManyTurns):
                raise  # it is found again at a later look
            except AppError as refusal:
                return _lost(refusal.code, refusal.detail)
            if not opened.kernel.can_resume:
                await self._live.shut(live)
                return _lost()
            seals = self._restorer.seals(taken.session_id, opened.mask)
            accepted = _accepted(taken, left, seals, position=live.position)
            turn = await self._turns.begin(live, opened, accepted, _resumption(taken, left))
            turn.meter.count_children(left.spent_below)
            for told in left.told:
                turn.children.find(ChildInTurn(told.child_id, told.external_id, told.agent))
            if left.works_for is not None:
                turn.outcome.add_done_callback(lambda _: self._take_back(taken))
            return None

    def _take_back(self, taken: TakenOver) -> None:
        self._live.own(self._live.take_back(taken.session_id), f"close {taken.session_id}")

    async def _end(self, taken: TakenOver, end: EndFromRows) -> None:
        try:
            stored = await self._db.write(
                end_open_turn, taken.turn_id, taken.session_id, end, epoch=taken.epoch, within=taken.tenant_id
            )
        except TurnMoved:
            return
        self._publish(taken.session_id, stored)
        self._turns.tell(taken.turn_id)
        self._on_end()


GONE = 2**62
"""The epoch of a session that was deleted: nobody has it."""


def _lost(code: str | None = None, error: str | None = None) -> EndFromRows:
    return EndFromRows(TurnStatus.INTERRUPTED, StopReason.NODE_LOST, LOST_CALL, code, error)


def _accepted(taken: TakenOver, left: LeftTurn, seals: Seals, *, position: int) -> Accepted:
    session = left.record.session
    prompt, content = said_by_user(left.content, left.context, left.kernel, seals)
    return Accepted(
        key=TurnKey(taken.tenant_id, taken.session_id, taken.turn_id),
        message_id=left.message_id,
        prompt=prompt,
        content=content,
        epoch=taken.epoch,
        last_seq=session.last_seq,
        last_position=position,
        config_id=session.config_id,
        revision=session.revision,
        used=session.usage,
        budget=left.budget,
    )


def _resumption(taken: TakenOver, left: LeftTurn) -> Resumption:
    reused, unknown = sorted_out(left.calls, left.open_calls, left.answered, left.children)
    # A call that left no trace may have been told to who listened: its number is not given again, and they hear of it.
    abandoned = left.abandoned or [left.requests + 1] * left.asking
    return Resumption(
        attempt=taken.attempt,
        # What was started since the last reply is in the journal only.
        tally=Tally(left.usage, left.iterations, max(left.tool_calls, len(left.calls))),
        requests=max(left.requests, *abandoned, 0),
        abandoned=abandoned,
        calls=left.calls,
        open_calls=left.open_calls,
        answered=left.answered,
        reused=reused,
        unknown=unknown,
    )
