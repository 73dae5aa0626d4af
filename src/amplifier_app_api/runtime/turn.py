"""One turn: a message in, a recorded outcome out.

The turn runs the kernel in a task that the process owns; whoever waits for the outcome may go. Whoever ends it
first ends it: the loop, somebody who cancels, a limit, the shutdown. The end is one transaction; everything that
comes later from the loop is fenced, by the recorder in this process and by the epoch in the database. The time a turn
waits for a person does not count against it: a question has a limit of its own.

A turn may also leave this process without having ended: it is let go of when the process stops or cannot reach the
database, and lost when another process took it over. Whoever goes on with it is given a `Resumption`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.content import Content
from amplifier_app_api.models.event import TERMINAL_TYPES
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.models.turn import Budget, StopReason, TokenUsage, TurnStatus
from amplifier_app_api.observability.redaction import hiding
from amplifier_app_api.runtime.approvals import ApprovalBoard, ApprovalDesk
from amplifier_app_api.runtime.budget import Meter, Standing
from amplifier_app_api.runtime.journal import Seals
from amplifier_app_api.runtime.kernel.failures import Failure, failure_of
from amplifier_app_api.runtime.kernel.session import KernelSession
from amplifier_app_api.runtime.outcome import BUDGET_ANSWER, OPEN_CALL_ANSWERS, Outcome, outcome_of
from amplifier_app_api.runtime.recorder import OUTAGE_PAUSES, Recorder, TurnOver
from amplifier_app_api.runtime.resumption import Resumption
from amplifier_app_api.runtime.turn_children import TurnChildren
from amplifier_app_api.runtime.turn_tap import TurnTap
from amplifier_app_api.runtime.units import Ending, TurnKey, Unit
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable

logger = logging.getLogger(__name__)

END_RETRY_LATER_SECONDS = 10.0
"""The pause between attempts to write the end of a turn when whoever waits has been told that it cannot be written yet:
the turn counts as running until its end is written, or this process ends."""
ABANDONED_AFTER_SECONDS = 0.05
"""How long the loop of a turn that was ended may take to let go. Then nobody counts on it any more."""
UNWIND_SECONDS = 5.0
"""How long a loop may go on that was refused a model call, because the turn is to end."""


FLUSH_SECONDS = 2.0
"""How long a process that stops waits for the last of a turn to be stored."""
DATABASE_AWAY = Failure("database_unavailable", 503, "The database cannot be used now; the turn goes on when it can.")
SHUTTING_DOWN = Failure("shutting_down", 503, "The server is shutting down; the turn goes on when it is back.")
LOOK_ELSEWHERE_SECONDS = 1.0
"""How often the log is asked for the end of a turn that another process runs."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was accepted: what its turn begins with."""

    key: TurnKey
    message_id: str
    prompt: str
    content: Content
    """What the model is given of the message: the prompt, or blocks in place of it."""
    epoch: int
    last_seq: int
    last_position: int
    config_id: str
    revision: int
    used: TokenUsage
    """What the session had used before."""
    budget: Budget | None = None
    """What the message's request says that the turn may use."""
    standing: Standing | None = None
    """How far the budgets are used that the turn counts against; None: they are still to be read."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a turn ends that is not left to its loop."""

    status: TurnStatus
    reason: StopReason
    failure: Failure | None = None


class Turn:
    """A running turn. `outcome` is done when its end is committed, or cannot be while the database is away.

    `gone` is done as soon as this process has nothing more to do with the end: it is known, or another process has
    the turn, and `outcome` is how it ends there. `waiting` is done while the turn, or a child that it waits for, waits
    for a person. `clean` says that the loop ended in its own way, so that what the kernel has in memory is what the
    rows say; `abandoned` is set when it did not let go when the turn was ended. `released` says that it was let go
    of: what `outcome` tells is not how it ends. `limit` is in seconds. `parent` is the turn that this one works for.
    With a `resumption` the turn goes on where another process left it.
    """

    def __init__(
        self,
        accepted: Accepted,
        kernel: KernelSession,
        db: Database,
        hub: EventHub,
        *,
        seals: Seals,
        limit: float,
        meter: Meter,
        board: ApprovalBoard,
        parent: "Turn | None" = None,
        resumption: Resumption | None = None,
    ) -> None:
        self.tenant_id = accepted.key.tenant_id
        self.turn_id = accepted.key.turn_id
        self.session_id = accepted.key.session_id
        self.config_id = accepted.config_id
        self.revision = accepted.revision
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.recorder = Recorder(
            db,
            hub,
            accepted.key,
            epoch=accepted.epoch,
            last_seq=accepted.last_seq,
            last_position=accepted.last_position,
            recovered=resumption is not None,
        )
        self.meter = meter
        self.children = TurnChildren()
        self.tap = TurnTap(
            self.recorder,
            seals,
            meter,
            turn_id=self.turn_id,
            message_id=accepted.message_id,
            prompt=accepted.prompt,
            content=accepted.content,
            resumption=resumption,
        )
        self.desk = ApprovalDesk(
            board,
            db,
            self.recorder,
            seals.mask,
            accepted.key,
            refusal=self.tap.refusal_of_calls,
            on_wait=self._wait_for_people,
        )
        self.waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clean = False
        self.abandoned = asyncio.Event()
        self.released = False
        self._key = accepted.key
        self._used = accepted.used
        self._kernel = kernel
        self._prompt = accepted.prompt
        self._mask = seals.mask
        self._limit = limit
        self._parent = parent
        self._resumption = resumption
        self._questions = 0
        self._ended = False
        self._loop: asyncio.Task[str] | None = None
        self._cut: asyncio.Future[_Cut] = asyncio.get_running_loop().create_future()
        self._unwinding: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._given_up = asyncio.Event()

    @property
    def in_place_of_parent(self) -> bool:
        """Whether the turn runs in the place of the one that it works for."""
        return self._parent is not None

    def adopt(self, child: "Turn") -> Callable[[], None]:
        """Let the modules of a child's turn see when this one is being stopped, until what is returned is called."""
        return self._kernel.adopt(child._kernel)

    def work_for(self, parent: "Turn") -> None:
        """Another process began the turn for a turn that has only now been found."""
        if self._parent is not None:
            return
        self._parent = parent
        self.meter.count_for(parent.meter)
        for _ in range(self._questions):
            parent._wait_for_people(True)

    async def run(self) -> None:
        """Run the loop to its end, whatever that is, and record it. Returns when the end is written, too."""
        try:
            if not self._ended:
                await self._run()
        finally:
            if self._ending is not None:
                await self._ending
            self.tap.release()
            self.desk.release()

    async def _run(self) -> None:
        self._kernel.tap, self._kernel.asker = self.tap, self.desk
        hiding.set(self._mask.text)  # of the task that runs the turn, and of those it begins
        try:
            if self._resumption is not None and not await self._recovered(self._resumption):
                return
            work = self._kernel.execute(self._prompt, resume=self._resumption is not None)
            self._loop = loop = asyncio.create_task(work, name=f"loop of {self.turn_id}")
            self._watch_time()
            self.tap.on_refusal = self._watch_refusal
            await asyncio.wait({loop, self._cut}, return_when=asyncio.FIRST_COMPLETED)
            if not loop.done():
                cut = self._cut.result()
                await self._stop_loop_and_finish(cut.status, cut.reason, failure=cut.failure)
                await asyncio.wait({loop})
            await self._end_as_the_loop_did(loop)
        except Exception as error:
            # The turn runner is where every failure of a turn ends: it must be recorded, whatever it is.
            logger.exception("a turn could not be run", extra={"turn_id": self.turn_id})
            await self._fail(failure_of(error))
        finally:
            self.meter.clock.clear_alarm()
            self.tap.on_refusal = None
            if self._unwinding is not None:
                self._unwinding.cancel()
            if self._kernel.tap is self.tap:
                self._kernel.tap = self._kernel.asker = None

    async def _recovered(self, before: Resumption) -> bool:
        """Tell that the turn goes on. False: it does not, here."""
        try:
            await self.desk.recover()
            await self.tap.recovered(before)
        except DatabaseUnavailable:
            self.let_go(DATABASE_AWAY)  # nothing has been done; this process finds it again
            return False
        except TurnOver:
            await self.lost()
            return False
        return True

    def _watch_time(self) -> None:
        """Cut the turn short when its time is over."""
        budgeted = self.meter.seconds
        if budgeted <= self._limit:
            cut = _Cut(TurnStatus.COMPLETED, StopReason.BUDGET)
        else:
            sentence = f"the turn took longer than {self._limit:g} seconds"
            cut = _Cut(TurnStatus.FAILED, StopReason.TIMEOUT, Failure("turn_timeout", 504, sentence))
        self.meter.clock.set_alarm(min(self._limit, budgeted), lambda: self._cut_short(cut))

    def _watch_refusal(self) -> None:
        """Cut the turn short when its loop does not take the no that it was given."""
        if self._unwinding is None:
            self._unwinding = asyncio.get_running_loop().call_later(UNWIND_SECONDS, self._end_refused)

    def _end_refused(self) -> None:
        if self.tap.stopping:
            self._cut_short(_Cut(TurnStatus.CANCELLED, StopReason.USER_CANCEL))
        else:
            self._cut_short(_Cut(TurnStatus.COMPLETED, StopReason.BUDGET))

    def _cut_short(self, cut: _Cut) -> None:
        if not self._cut.done():
            self._cut.set_result(cut)

    async def _stop_loop_and_finish(
        self, status: TurnStatus, reason: StopReason, *, failure: Failure | None = None, new_epoch: bool = False
    ) -> None:
        if self._ended:
            return
        self.recorder.seal()
        self._kernel.stop()
        asyncio.get_running_loop().call_later(ABANDONED_AFTER_SECONDS, self._abandon)
        await self._finish(status, reason, failure=failure, new_epoch=new_epoch)

    def _abandon(self) -> None:
        """The turn has ended. A loop that is still there keeps its kernel session, which nobody uses again."""
        if self._loop is not None and not self._loop.done():
            self.abandoned.set()
            logger.warning("a loop does not let itself be stopped", extra={"turn_id": self.turn_id})

    def _wait_for_people(self, waits: bool) -> None:
        """The turn begins to wait for a person, or goes on. So does the one that it works for."""
        self._questions += 1 if waits else -1
        if waits:
            self.meter.clock.hold()
        else:
            self.meter.clock.go_on()
        if self._questions and not self.waiting.done():
            self.waiting.set_result(None)
        elif not self._questions and self.waiting.done():
            self.waiting = asyncio.get_running_loop().create_future()
        if self._parent is not None:
            self._parent._wait_for_people(waits)

    async def _end_as_the_loop_did(self, loop: asyncio.Task[str]) -> None:
        error = None if loop.cancelled() else loop.exception()
        if self._ended:
            return
        said = None if loop.cancelled() or error is not None else loop.result()
        if self.tap.stopping:
            await self._finish(TurnStatus.CANCELLED, StopReason.USER_CANCEL, response=said)
        elif self.tap.over_budget is not None:
            await self._finish(TurnStatus.COMPLETED, StopReason.BUDGET, response=said)
        elif loop.cancelled() or error is not None:
            await self._fail_or_leave(self.tap.error or _bare(error))
        else:
            await self._complete(loop.result())

    async def _complete(self, response: str) -> None:
        # A loop may swallow what its provider raised and return a text all the same.
        if self.tap.loop_status.get("status") == "error" and self.tap.error is not None:
            await self._fail_or_leave(self.tap.error)
            return
        incomplete = self.tap.loop_status.get("status") == "incomplete"
        self.clean = True
        await self._finish(
            TurnStatus.COMPLETED, StopReason.MAX_ITERATIONS if incomplete else StopReason.END_TURN, response=response
        )

    async def _fail_or_leave(self, error: Exception) -> None:
        if isinstance(error, DatabaseUnavailable) and self.can_be_left:
            self.let_go(DATABASE_AWAY)  # what is not written is done again; this process finds the turn when it can
        else:
            await self._fail(failure_of(error))

    async def _fail(self, failure: Failure) -> None:
        shown = replace(failure, detail=made_storable(self._mask.text(failure.detail)))
        self.clean = not self._ended and not self.tap.has_open_calls
        await self._finish(TurnStatus.FAILED, StopReason.ERROR, failure=shown)

    async def stop(self, status: TurnStatus, reason: StopReason) -> None:
        """End the turn now: the loop's task is cancelled, the end is written without waiting for it.

        A turn that another process has by now is not ended by this: it is `gone`, and has no outcome yet.
        """
        if self._ended:
            await asyncio.wait({self.gone})
            return
        await self._stop_loop_and_finish(status, reason, new_epoch=True)

    def let_go(self, failure: Failure) -> None:
        """Stop the loop and write nothing: somebody goes on with the turn. `failure` is told to who waits here."""
        if self._ended:
            return
        self._ended = self.released = True
        self.meter.drop()
        self.recorder.seal()
        self.desk.leave()
        self._kernel.stop()
        asyncio.get_running_loop().call_later(ABANDONED_AFTER_SECONDS, self._abandon)
        self._tell(Outcome(self.turn_id, TurnStatus.FAILED, StopReason.ERROR, None, self.meter.usage, failure))

    @property
    def held(self) -> bool:
        """Whether this process still has to do with the turn: it runs, or its loop or its end lingers."""
        ending = self._ending is not None and not self._ending.done()
        unwinding = self._loop is not None and not self._loop.done() and not self.abandoned.is_set()
        if self.gone.done() and not self.outcome.done():
            return unwinding
        return ending or unwinding or not self.outcome.done()

    @property
    def can_be_left(self) -> bool:
        """Whether another process can go on with the turn: its loop knows how, and nobody has asked it to stop."""
        return self._kernel.can_resume and not self.tap.stopping

    async def flush(self) -> None:
        """Write what was deferred, so that it need not be done again by who goes on with the turn."""
        self._given_up.set()
        with contextlib.suppress(TurnOver, DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.recorder.write()

    async def lost(self) -> None:
        """Another process has the turn: stop the loop, and tell who waits here how it ends there."""
        if self._ended:
            return
        self.recorder.fence()
        self.desk.leave()
        self._leave()
        await self._stop_loop_and_finish(TurnStatus.INTERRUPTED, StopReason.NODE_LOST)

    def ask_to_stop(self) -> None:
        """Let the tools that run finish, and begin nothing more; a model call or a question is given up."""
        self.tap.stopping = True
        self.desk.withdraw()
        self.children.ask_to_stop()
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
        if status in (TurnStatus.CANCELLED, TurnStatus.INTERRUPTED) or reason is StopReason.BUDGET:
            partial = self.tap.keep_partial_text(unit)
            response = response if response is not None else partial
        if reason is StopReason.BUDGET:
            response = response or self.tap.last_text
        self.desk.close(unit)
        unit.events += self.children.left(status)
        self.tap.answer_open_calls(unit, BUDGET_ANSWER if reason is StopReason.BUDGET else OPEN_CALL_ANSWERS[status])
        self.tap.give_up_the_rest(unit)
        whole, own, tally = self.meter.whole, self.meter.close(), self.tap.tally
        said = None if response is None else made_storable(response)
        shown = None if said is None else self._mask.text(said)
        outcome = Outcome(self.turn_id, status, reason, shown, whole.usage, failure, said)
        unit.events.append(outcome.event())
        values = {
            "response": outcome.response,
            "code": outcome.code,
            "error": outcome.error,
            "iterations": tally.iterations,
            "tool_calls": tally.tool_calls,
        }
        ending = Ending(status, reason, unit, values, own, whole, self._used, new_epoch)
        # A task of its own: whoever ends a turn may leave, and the end is written all the same.
        self._ending = asyncio.create_task(self._write_end(ending, outcome), name=f"end of {self.turn_id}")
        await asyncio.wait({self.gone})

    async def _write_end(self, ending: Ending, outcome: Outcome) -> None:
        pauses, about = iter(OUTAGE_PAUSES), {"turn_id": self.turn_id}
        try:
            while True:
                try:
                    written = await self._written(ending, outcome)
                    self.meter.settle()
                    self._tell(outcome if written else await self._ended_elsewhere())
                    return
                except DatabaseUnavailable:
                    pause = next(pauses, None)
                    if pause is None:
                        logger.exception("the end of a turn cannot be written yet", extra=about)
                        self._tell(self._unwritten())
                    else:
                        logger.warning("the database is away; the end of a turn waits for it", extra=about)
                await asyncio.sleep(END_RETRY_LATER_SECONDS if pause is None else pause)
        finally:
            # Whoever waits is released, whatever happened.
            self.meter.settle()
            self._tell(self._unwritten())

    async def _written(self, ending: Ending, outcome: Outcome) -> bool:
        try:
            return await self.recorder.end(ending)
        except (SQLAlchemyError, TypeError, ValueError):
            # Something in it cannot be stored. The turn has to end, if need be with nothing but that.
            logger.exception("the rest of a turn could not be stored", extra={"turn_id": self.turn_id})
            self.clean = False
            bare = replace(ending, unit=Unit(events=[outcome.event()], effects=ending.unit.effects))
            return await self.recorder.end(bare, alone=True)

    async def _ended_elsewhere(self) -> Outcome:
        """Somebody else ended the turn, or our own end was committed though the database could not say so."""
        logger.warning("the end of a turn is written by another process", extra={"turn_id": self.turn_id})
        self.clean = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limit):
                while True:
                    for event in await self.recorder.catch_up():
                        if event.turn_id == self.turn_id and event.type in TERMINAL_TYPES:
                            return outcome_of(event)
                    self._leave()
                    if self._given_up.is_set():
                        break
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._given_up.wait(), LOOK_ELSEWHERE_SECONDS)
        return Outcome(self.turn_id, TurnStatus.INTERRUPTED, StopReason.NODE_LOST, None, self.meter.usage)

    def _unwritten(self) -> Outcome:
        failure = Failure("database_unavailable", 503, "The end of the turn cannot be stored now.")
        return Outcome(self.turn_id, TurnStatus.FAILED, StopReason.ERROR, None, self.meter.usage, failure)

    def _tell(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
        self._leave()

    def _leave(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


def _bare(error: BaseException | None) -> Exception:
    """What a loop or a module raised, without the sentence that the kernel puts around it."""
    text = str(error) if error is not None else "the loop was cancelled"
    return RuntimeError(text.removeprefix("Execution failed: "))
