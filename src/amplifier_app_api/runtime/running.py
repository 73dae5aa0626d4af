"""The turns that run in this process: begun in a live session, awaited from anywhere, let go of when they end."""

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.turn import UNFINISHED_STATUSES, StopReason, TurnStatus
from amplifier_app_api.models.turn import Turn as TurnRow
from amplifier_app_api.runtime.approvals import ApprovalBoard
from amplifier_app_api.runtime.budget import Budgets, Meter, Standing
from amplifier_app_api.runtime.kernel.tap import Recalled
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import OpenedSession
from amplifier_app_api.runtime.outcome import Outcome, outcome_of_row
from amplifier_app_api.runtime.refusals import SessionNotFound, ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.restoring import Restorer
from amplifier_app_api.runtime.resumption import Resumption
from amplifier_app_api.runtime.steering import Handover
from amplifier_app_api.runtime.turn import SHUTTING_DOWN, Accepted, Turn
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.steering import pending_of_turns
from amplifier_app_api.storage.turns import get_turn

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 1.0
"""How often whoever waits for a turn that runs elsewhere, or not yet, looks at its row."""


class ChildOutcome(Protocol):
    """What a tool call of a turn came to that was delegating when its process ended; None: it was not."""

    async def __call__(self, turn: Turn, call_id: str, *, within: str) -> Recalled | None:
        """Wait for the children of the call."""
        ...


async def _no_child(turn: Turn, call_id: str, *, within: str) -> Recalled | None:
    return None


class RunningTurns:
    """Begins turns, bounds how many run, and tells whoever waits for one.

    `on_end` is called with a session when a turn of it has ended; its flag says that the turn was steered.
    """

    def __init__(
        self,
        db: Database,
        hub: EventHub,
        live: LiveSessions,
        restorer: Restorer,
        *,
        board: ApprovalBoard,
        budgets: Budgets,
        limit: int,
        turn_seconds: float,
        on_end: Callable[[LiveSession, bool], None],
    ) -> None:
        self._db = db
        self._hub = hub
        self._live = live
        self._restorer = restorer
        self._board = board
        self._budgets = budgets
        self._limit = limit
        self._turn_seconds = turn_seconds
        self._on_end = on_end
        self._turns: dict[str, Turn] = {}
        self._of_session: dict[str, Turn] = {}
        self._starting = 0
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._handovers: dict[str, Handover] = {}
        self.draining = False
        self.child_outcome: ChildOutcome = _no_child

    # How many.

    @property
    def count(self) -> int:
        """How many turns have not ended."""
        return sum(not turn.outcome.done() for turn in self._turns.values())

    @property
    def room(self) -> int:
        """How many more may begin. A turn that works for another one runs in the place of that."""
        own = sum(not turn.gone.done() and not turn.in_place_of_parent for turn in self._turns.values())
        return max(0, self._limit - own - self._starting)

    def refuse_when_draining(self) -> None:
        """Raise when the server is about to stop."""
        if self.draining:
            raise ShuttingDown("the server is shutting down", headers={"Retry-After": "5"})

    @contextmanager
    def starting(self) -> Generator[None]:
        """A place is taken for a turn that is about to begin; `TooManyTurns` when there is none."""
        if self.room == 0:
            raise TooManyTurns("this server runs as many turns as it may")
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    # Running.

    def get(self, turn_id: str) -> Turn | None:
        """A turn that runs here."""
        return self._turns.get(turn_id)

    def of_session(self, session_id: str) -> Turn | None:
        """The turn of a session that runs here."""
        return self._of_session.get(session_id)

    def all(self) -> list[Turn]:
        """Every turn that runs here."""
        return list(self._turns.values())

    async def begin(
        self,
        live: LiveSession,
        opened: OpenedSession,
        accepted: Accepted,
        resumption: Resumption | None = None,
        *,
        parent: Turn | None = None,
    ) -> Turn:
        """Run a turn whose rows are committed. The lock of the live session is held, and nothing else runs in it.

        With a `resumption` another process, or this one before, began it.
        """
        live.awake()
        meter = await self._meter(accepted, parent)
        seals = self._restorer.seals(live.session_id, opened.mask)
        turn = Turn(
            accepted,
            opened.kernel,
            self._db,
            self._hub,
            seals=seals,
            limit=self._turn_seconds,
            meter=meter,
            board=self._board,
            parent=parent,
            resumption=resumption,
        )
        handover = Handover(opened.kernel.steer, seals)
        turn.tap.steered = handover.recorded
        turn.tap.on_model_call = handover.loop_began
        turn.tap.child_outcome = partial(self.child_outcome, turn, within=live.tenant_id)
        live.turn = turn
        self._turns[turn.turn_id] = self._of_session[live.session_id] = turn
        self._handovers[turn.turn_id] = handover
        turn.outcome.add_done_callback(lambda _: self._ended(live, turn, handover))
        live.runner = self._live.own(self._run(live, turn, opened, handover), f"turn {turn.turn_id}")
        self.tell(turn.turn_id)
        if resumption is not None:
            await self.look_for_steering([turn.turn_id])
        if self.draining:  # it was accepted while the server began to stop
            await self.leave([turn])
        return turn

    async def leave(self, turns: Iterable[Turn] | None = None) -> None:
        """The process stops: leave its turns to the next one. Those that nobody can go on with are interrupted."""
        left = self.all() if turns is None else list(turns)
        await asyncio.gather(*(turn.flush() for turn in left))
        # In the order they were begun, and all at once: a turn never sees one that it waits for being left.
        for turn in left:
            if turn.can_be_left:
                turn.let_go(SHUTTING_DOWN)
        ended = (turn.stop(TurnStatus.INTERRUPTED, StopReason.SHUTDOWN) for turn in left if not turn.outcome.done())
        await asyncio.gather(*ended, return_exceptions=True)

    async def settle(self, live: LiveSession, turn: Turn) -> None:
        """Tidy up after a turn of this session that has ended, or that another process has; the lock is held."""
        # Followers know of the end; the rest of its bookkeeping is a moment away.
        await asyncio.wait({turn.gone})
        if turn.clean and live.runner is not None:
            await asyncio.wait({live.runner})
        else:
            # The runner closes the kernel session when its loop lets go; it has nothing to do with the next one.
            live.opened = live.runner = None
        live.turn = None

    async def _meter(self, accepted: Accepted, parent: Turn | None) -> Meter:
        key, standing = accepted.key, accepted.standing
        if standing is None:
            read = self._budgets.standing
            try:
                standing = await self._db.read(read, key.session_id, now=utc_now(), within=key.tenant_id)
            except DatabaseUnavailable:  # the turn's first write will meet it, too
                standing = Standing()
        above = None if parent is None else parent.meter
        return self._budgets.meter(key.turn_id, key.tenant_id, standing, accepted.budget, above)

    async def _run(self, live: LiveSession, turn: Turn, opened: OpenedSession, handover: Handover) -> None:
        await turn.run()
        # The turn may have come back meanwhile: then what is kept under its id is that of the new attempt.
        if self._handovers.get(turn.turn_id) is handover:
            del self._handovers[turn.turn_id]
        handover.close()
        # A loop that still holds a message would bring it up in the next turn, where it comes as that turn's own.
        if turn.clean and not handover.unused and not live.gone and live.opened is opened:
            live.position = turn.recorder.last_position
            live.turn = None
            self._live.idle(live)
        else:
            # Rows are the truth: what did not end in its own way is opened again from them.
            if live.opened is opened:
                live.opened = None
                live.turn = None
                if not live.lock.locked():
                    self._live.forget(live)
            await opened.kernel.close()

    def _ended(self, live: LiveSession, turn: Turn, handover: Handover) -> None:
        if self._turns.get(turn.turn_id) is turn:
            del self._turns[turn.turn_id]
        if self._of_session.get(live.session_id) is turn:
            del self._of_session[live.session_id]
        self.tell(turn.turn_id)
        self._on_end(live, handover.known)

    # Steering.

    async def look_for_steering(self, turn_ids: Iterable[str] | None = None) -> None:
        """Hand over what others stored for turns that run here; without `turn_ids` for all of them."""
        wanted = list(self._handovers if turn_ids is None else turn_ids)
        if not wanted:
            return
        for message in await self._db.read(pending_of_turns, wanted):
            if (handover := self._handovers.get(message.turn_id)) is not None:
                handover.offer([message])

    # Waiting.

    def tell(self, turn_id: str) -> None:
        """Something happened to a turn: whoever waits for it looks again."""
        for waiter in self._waiters.pop(turn_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def tell_all(self) -> None:
        """Everybody who waits looks again: the server is about to stop."""
        for turn_id in list(self._waiters):
            self.tell(turn_id)

    async def outcome_of(self, session_id: str, turn_id: str, *, within: str) -> Outcome | None:
        """How a turn ends, wherever it runs; waits for it. None: it waits for a person.

        Whoever waits for a turn that does not run here when the server stops is told `ShuttingDown`: the turn stays.
        """
        while True:
            turn = self._turns.get(turn_id)
            if turn is not None:
                return await _outcome_or_question(turn)
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(turn_id, set()).add(waiter)
            try:
                row = await self._db.read(get_turn, turn_id, session_id=session_id, within=within)
                if (found := self._seen(row, session_id, turn_id)) is not None:
                    return found
                if row is not None and row.status is TurnStatus.WAITING:
                    return None
                await asyncio.wait({waiter}, timeout=LOOK_AGAIN_SECONDS)
            finally:
                waiters = self._waiters.get(turn_id, set())
                waiters.discard(waiter)
                if not waiters:
                    self._waiters.pop(turn_id, None)

    def _seen(self, row: TurnRow | None, session_id: str, turn_id: str) -> Outcome | None:
        if row is None:
            raise SessionNotFound(session_id)  # it was deleted with its turns
        if row.status not in UNFINISHED_STATUSES:
            return outcome_of_row(row)
        if self.draining:
            raise ShuttingDown(
                "the server is shutting down; the turn keeps its place and goes on when it is back",
                facts={"turn_id": turn_id},
                headers={"Retry-After": "5"},
            )
        return None


async def _outcome_or_question(turn: Turn) -> Outcome | None:
    """The outcome of a turn that runs here. None: it waits for a person first."""
    await asyncio.wait({turn.outcome, turn.waiting}, return_when=asyncio.FIRST_COMPLETED)
    return turn.outcome.result() if turn.outcome.done() else None
