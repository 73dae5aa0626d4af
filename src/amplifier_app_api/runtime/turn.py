"""One turn: a message in, a recorded outcome out.

The turn runs the kernel in a task that the process owns; whoever waits for the outcome may go. Whoever ends it
first ends it: the loop, somebody who cancels, the time limit, the shutdown. The end is one transaction; everything
that comes later from the loop is fenced, by the recorder in this process and by the epoch in the database.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.event import TERMINAL_TYPES
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.kernel.failures import Failure, failure_of
from amplifier_app_api.runtime.kernel.session import KernelSession
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.outcome import OPEN_CALL_ANSWERS, Outcome, outcome_of
from amplifier_app_api.runtime.recorder import Ending, Recorder, TurnKey, Unit
from amplifier_app_api.runtime.turn_tap import TurnTap
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable

logger = logging.getLogger(__name__)

END_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 10.0, 10.0)
"""Pauses between attempts to write the end of a turn while the database is away. Then whoever waits is told so."""
END_RETRY_LATER_SECONDS = 10.0
"""The pause from then on: the turn counts as running until its end is written, or this process ends."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was accepted: what its turn begins with."""

    key: TurnKey
    message_id: str
    prompt: str
    epoch: int
    last_seq: int
    last_position: int
    config_id: str
    revision: int


class Turn:
    """A running turn. `outcome` is done when its end is committed, or cannot be while the database is away.

    `clean` says that the loop ended in its own way, so that what the kernel has in memory is what the rows say.
    `limit` is in seconds. `seal` makes a text of what a row may not hold as it is.
    """

    def __init__(
        self,
        accepted: Accepted,
        kernel: KernelSession,
        db: Database,
        hub: EventHub,
        *,
        mask: SecretMask,
        seal: Callable[[Any], str],
        limit: float,
    ) -> None:
        self.turn_id = accepted.key.turn_id
        self.config_id = accepted.config_id
        self.revision = accepted.revision
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.recorder = Recorder(
            db,
            hub,
            accepted.key,
            epoch=accepted.epoch,
            last_seq=accepted.last_seq,
            last_position=accepted.last_position,
        )
        self.tap = TurnTap(
            self.recorder, mask, seal, turn_id=self.turn_id, message_id=accepted.message_id, prompt=accepted.prompt
        )
        self.clean = False
        self._kernel = kernel
        self._prompt = accepted.prompt
        self._mask = mask
        self._limit = limit
        self._ended = False
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run the loop to its end, whatever that is, and record it. Returns when the end is written, too."""
        try:
            if not self._ended:
                await self._run()
        finally:
            if self._ending is not None:
                await self._ending

    async def _run(self) -> None:
        self._kernel.tap = self.tap
        loop = asyncio.create_task(self._kernel.execute(self._prompt), name=f"loop of {self.turn_id}")
        try:
            done, _ = await asyncio.wait({loop}, timeout=self._limit)
            if done:
                await self._end_as_the_loop_did(loop)
            else:
                await self._end_at_the_limit()
                await asyncio.wait({loop})
                await self._end_as_the_loop_did(loop)  # says nothing any more, but looks at what the loop raised
        except Exception as error:
            # The turn runner is where every failure of a turn ends: it must be recorded, whatever it is.
            logger.exception("a turn could not be run", extra={"turn_id": self.turn_id})
            await self._fail(failure_of(error))
        finally:
            if self._kernel.tap is self.tap:
                self._kernel.tap = None

    async def _end_as_the_loop_did(self, loop: asyncio.Task[str]) -> None:
        error = None if loop.cancelled() else loop.exception()
        if self._ended:
            return
        if self.tap.stopping:
            await self._cancelled(None if loop.cancelled() or error is not None else loop.result())
        elif loop.cancelled() or error is not None:
            await self._fail(failure_of(self.tap.error or _bare(error)))
        else:
            await self._complete(loop.result())

    async def _complete(self, response: str) -> None:
        # A loop may swallow what its provider raised and return a text all the same.
        if self.tap.loop_status.get("status") == "error" and self.tap.error is not None:
            await self._fail(failure_of(self.tap.error))
            return
        incomplete = self.tap.loop_status.get("status") == "incomplete"
        self.clean = True
        await self._finish(
            TurnStatus.COMPLETED, StopReason.MAX_ITERATIONS if incomplete else StopReason.END_TURN, response=response
        )

    async def _fail(self, failure: Failure, reason: StopReason = StopReason.ERROR) -> None:
        shown = replace(failure, detail=made_storable(self._mask.text(failure.detail)))
        self.clean = not self._ended and not self.tap.has_open_calls and reason is StopReason.ERROR
        await self._finish(TurnStatus.FAILED, reason, failure=shown)

    async def _end_at_the_limit(self) -> None:
        failure = Failure("turn_timeout", 504, f"the turn took longer than {self._limit:g} seconds")
        self.recorder.seal()
        self._kernel.stop()
        await self._fail(failure, StopReason.TIMEOUT)

    async def _cancelled(self, response: str | None) -> None:
        await self._finish(TurnStatus.CANCELLED, StopReason.USER_CANCEL, response=response)

    async def stop(self, status: TurnStatus, reason: StopReason) -> None:
        """End the turn now: the loop's task is cancelled, the end is written without waiting for it."""
        if self._ended:
            await asyncio.shield(self.outcome)
            return
        self.recorder.seal()
        self._kernel.stop()
        await self._finish(status, reason, new_epoch=True)

    def ask_to_stop(self) -> None:
        """Let the tools that run finish, and ask no model again; a model call that runs is given up."""
        self.tap.stopping = True
        self._kernel.ask_to_stop()
        if self.tap.only_asks_model:
            self._kernel.stop()

    async def _finish(
        self,
        status: TurnStatus,
        reason: StopReason,
        *,
        response: str | None = None,
        failure: Failure | None = None,
        new_epoch: bool = False,
    ) -> None:
        if self._ended:
            return
        self._ended = True
        self.recorder.seal()
        unit = Unit()
        if status in (TurnStatus.CANCELLED, TurnStatus.INTERRUPTED):
            partial = self.tap.keep_partial_text(unit)
            response = response if response is not None else partial
        self.tap.answer_open_calls(unit, OPEN_CALL_ANSWERS[status])
        self.tap.give_up_the_rest(unit)
        tally = self.tap.tally
        said = None if response is None else made_storable(response)
        outcome = Outcome(self.turn_id, status, reason, said, tally.usage, failure)
        unit.events.append(outcome.event())
        values = {
            "response": outcome.response,
            "code": outcome.code,
            "error": outcome.error,
            "iterations": tally.iterations,
            "tool_calls": tally.tool_calls,
        }
        ending = Ending(status, reason, unit, values, tally.usage, new_epoch)
        # A task of its own: whoever ends a turn may leave, and the end is written all the same.
        self._ending = asyncio.create_task(self._write_end(ending, outcome), name=f"end of {self.turn_id}")
        await asyncio.wait({self.outcome})

    async def _write_end(self, ending: Ending, outcome: Outcome) -> None:
        pauses = iter(END_RETRY_SECONDS)
        try:
            while True:
                try:
                    self._tell(outcome if await self._written(ending, outcome) else await self._ended_elsewhere())
                    return
                except DatabaseUnavailable:
                    pause = next(pauses, None)
                    if pause is None:
                        logger.exception("the end of a turn cannot be written yet", extra={"turn_id": self.turn_id})
                        self._tell(self._unwritten())
                await asyncio.sleep(END_RETRY_LATER_SECONDS if pause is None else pause)
        finally:
            # Whoever waits is released, whatever happened.
            self._tell(self._unwritten())

    async def _written(self, ending: Ending, outcome: Outcome) -> bool:
        try:
            return await self.recorder.end(ending)
        except (SQLAlchemyError, TypeError, ValueError):
            # Something in it cannot be stored. The turn has to end, if need be with nothing but that.
            logger.exception("the rest of a turn could not be stored", extra={"turn_id": self.turn_id})
            self.clean = False
            bare = replace(ending, unit=Unit(events=[outcome.event()]))
            return await self.recorder.end(bare, alone=True)

    async def _ended_elsewhere(self) -> Outcome:
        """Somebody else ended the turn, or our own end was committed though the database could not say so."""
        logger.warning("the end of a turn was written before", extra={"turn_id": self.turn_id})
        self.clean = False
        for event in await self.recorder.catch_up():
            if event.turn_id == self.turn_id and event.type in TERMINAL_TYPES:
                return outcome_of(event)
        return Outcome(self.turn_id, TurnStatus.INTERRUPTED, StopReason.NODE_LOST, None, self.tap.tally.usage)

    def _unwritten(self) -> Outcome:
        failure = Failure("database_unavailable", 503, "The end of the turn cannot be stored now.")
        return Outcome(self.turn_id, TurnStatus.FAILED, StopReason.ERROR, None, self.tap.tally.usage, failure)

    def _tell(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def _bare(error: BaseException | None) -> Exception:
    """What a loop or a module raised, without the sentence that the kernel puts around it."""
    text = str(error) if error is not None else "the loop was cancelled"
    return RuntimeError(text.removeprefix("Execution failed: "))
