"""Messages come in: each begins a turn, waits for its place, is handed to the turn that runs, or is refused."""

import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from amplifier_app_api.errors import AppError
from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.models.content import prompt_of, text_in
from amplifier_app_api.models.session import SessionStatus, WhenBusy
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.accept import Incoming, SessionBusy, SessionMoved, accept, accepted_from_queue
from amplifier_app_api.runtime.budget import Budgets
from amplifier_app_api.runtime.journal import Seals
from amplifier_app_api.runtime.kernel.failures import Failure, failure_of, status_of
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import OpenedSession
from amplifier_app_api.runtime.refusals import SessionClosed, SessionNotFound, ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.restoring import Restorer
from amplifier_app_api.runtime.running import RunningTurns
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.idempotency import KeyTaken, kept_answer
from amplifier_app_api.storage.ownership import epochs_of
from amplifier_app_api.storage.queue import (
    NothingToDo,
    QueueFull,
    QueueLimits,
    begin_next,
    end_queued,
    enqueue,
    queue_left_over,
    steer,
)
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.steering import SteeringMessage
from amplifier_app_api.storage.turns import QueuedTurn, next_queued

logger = logging.getLogger(__name__)

Offer = Callable[[LiveSession, Incoming, Subscription | None], Awaitable["Sent"]]

PENDING = "pending"
"""The status of a message that waits for a running turn to use it."""
ATTEMPTS = 5
"""How often a message is offered again when the session moved under it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message. `turn_id` is its turn, or the one it was handed to: then `status` is `pending`.

    `turn` is there when it runs in this process, `subscription` when it was asked for.
    """

    session_id: str
    turn_id: str
    message_id: str
    status: str
    config_id: str = ""
    revision: int = 0
    turn: Turn | None = None
    subscription: Subscription | None = None


class Sender:
    """Takes messages, and begins turns that waited. The calls of one session come one after the other.

    `stop_elsewhere` ends a turn that another node runs: `(session_id, turn_id, tenant_id)`.
    """

    def __init__(
        self,
        db: Database,
        hub: EventHub,
        live: LiveSessions,
        restorer: Restorer,
        running: RunningTurns,
        budgets: Budgets,
        *,
        node_id: str,
        limits: QueueLimits,
        stop_elsewhere: Callable[[str, str, str], Awaitable[object]],
        on_waiting: Callable[[], None],
    ) -> None:
        self._db = db
        self._hub = hub
        self._live = live
        self._restorer = restorer
        self._running = running
        self._budgets = budgets
        self._node_id = node_id
        self._limits = limits
        self._stop_elsewhere = stop_elsewhere
        self._on_waiting = on_waiting

    async def send(self, session_id: str, incoming: Incoming, *, within: str, follow: bool = False) -> Sent:
        """Take a message; with `follow` the subscription begins before anything is told of it."""
        for _ in range(ATTEMPTS):
            with suppress(SessionMoved):
                return await self._send(session_id, incoming, within, self._offer, follow=follow)
        if incoming.when_busy is not WhenBusy.REJECT:
            with suppress(SessionMoved):
                return await self._send(session_id, incoming, within, self._offer_to_wait, follow=follow)
        raise SessionBusy("the session is in use elsewhere", facts={"turn_id": None})

    async def _send(self, session_id: str, incoming: Incoming, within: str, offer: Offer, *, follow: bool) -> Sent:
        self._running.refuse_when_draining()
        async with self._live.entry(session_id, within=within) as live:
            subscription = self._hub.subscribe(session_id) if follow else None
            try:
                sent = await offer(live, incoming, subscription)
            except SessionMoved:
                _leave(subscription)
                await self._live.shut(live)
                await self._open_record(session_id, within)
                await self.queue_left_over(session_id, within)
                raise
            except BaseException:
                _leave(subscription)
                if live.running is None:
                    self._live.idle(live)
                raise
            if live.running is None:
                self._live.idle(live)
            return sent

    async def _offer_to_wait(self, live: LiveSession, incoming: Incoming, subscription: Subscription | None) -> Sent:
        """What is left when other servers were faster again and again: the message may have stopped their turns."""
        return await self._enqueue(live, incoming, subscription, ahead=incoming.when_busy is WhenBusy.INTERRUPT)

    async def _offer(self, live: LiveSession, incoming: Incoming, subscription: Subscription | None) -> Sent:
        try:
            return await self._start(live, incoming, subscription)
        except SessionBusy as busy:
            if incoming.key is not None and await self._db.read(kept_answer, incoming.key) is not None:
                raise KeyTaken from None  # it may be the turn of this very request that is in the way
            if await self._let_go_of_lost(live):
                raise SessionMoved from None
            match incoming.when_busy:
                case WhenBusy.REJECT:
                    raise
                case WhenBusy.INTERRUPT if busy.turn_id is not None:
                    return await self._start_in_place_of(busy.turn_id, live, incoming, subscription)
                case WhenBusy.STEER if busy.turn_id is not None and not busy.queued:
                    return await self._steer(live, busy.turn_id, incoming, subscription)
                case _:
                    return await self._enqueue(live, incoming, subscription)
        except TooManyTurns:
            if incoming.when_busy is not WhenBusy.QUEUE:
                raise
            return await self._enqueue(live, incoming, subscription)

    # A turn begins.

    async def _start(self, live: LiveSession, incoming: Incoming, subscription: Subscription | None) -> Sent:
        await self.refuse_while_running(live)
        # Its place is taken before anything is waited for: of those that come at once no more begin than may.
        with self._running.starting() if incoming.parent is None else nullcontext():
            return await self._begin(live, incoming, subscription)

    async def _begin(self, live: LiveSession, incoming: Incoming, subscription: Subscription | None) -> Sent:
        opened = await self._opened(live)
        self._running.refuse_when_draining()
        notices = live.take_notices(opened.mask)
        live.awake()
        try:
            accepted, stored = await accept(
                self._db,
                incoming,
                tenant_id=live.tenant_id,
                session_id=live.session_id,
                node_id=self._node_id,
                expected_position=live.position,
                expected_revision=live.revision,
                notices=notices,
                seals=self._restorer.seals(live.session_id, opened.mask),
                budgets=self._budgets,
            )
        except BaseException:
            live.notices.extendleft(reversed(notices))
            raise
        self._publish(live.session_id, stored)
        turn = await self._running.begin(live, opened, accepted, parent=incoming.parent)
        if subscription is not None:
            # Everything the turn says is there when its outcome is: nobody waits for more, whoever forgot to leave.
            turn.outcome.add_done_callback(lambda _: subscription.leave())
        return Sent(
            live.session_id,
            turn.turn_id,
            accepted.message_id,
            TurnStatus.RUNNING,
            accepted.config_id,
            accepted.revision,
            turn,
            subscription,
        )

    async def _start_in_place_of(
        self, turn_id: str, live: LiveSession, incoming: Incoming, subscription: Subscription | None
    ) -> Sent:
        """Stop a turn and begin that of the message. Once it is stopped no limit refuses the message any more."""
        seals = await self._seals(live)
        await self._interrupt(live, turn_id)
        try:
            return await self._start(live, incoming, subscription)
        except SessionBusy:
            raise SessionMoved from None  # another server let the next turn begin, which is in the way as this one was
        except TooManyTurns:
            return await self._enqueue(live, incoming, subscription, seals=seals, ahead=True)

    async def _seals(self, live: LiveSession) -> Seals:
        """What may be in the rows of a session: only once it is open it is known what is secret in it."""
        return self._restorer.seals(live.session_id, (await self._opened(live)).mask)

    async def _opened(self, live: LiveSession) -> OpenedSession:
        if live.opened is None:
            record = await self._open_record(live.session_id, live.tenant_id)
            await self._restorer.reopen(live, record)
        if live.opened is None:
            raise SessionMoved
        return live.opened

    async def _open_record(self, session_id: str, within: str) -> SessionRecord:
        record = await self._db.read(get_session, session_id, within=within)
        if record is None:
            raise SessionNotFound(session_id)
        status = record.session.status
        if status is not SessionStatus.ACTIVE:
            raise SessionClosed(f"the session is {status}; resume it first", facts={"session_status": status.value})
        return record

    async def refuse_while_running(self, live: LiveSession) -> None:
        """`SessionBusy` while a turn runs here; tidies up after one that has just ended."""
        turn = live.turn
        if turn is None:
            return
        if not turn.recorder.over and not turn.gone.done():
            raise SessionBusy.with_turn(turn.turn_id)
        await self._running.settle(live, turn)

    async def _let_go_of_lost(self, live: LiveSession) -> bool:
        """Whether the turn in memory is another server's by now, or was ended by one, unheard: it is not in the way."""
        turn = live.running
        if turn is None:
            return False
        now = (await self._db.read(epochs_of, [live.session_id])).get(live.session_id, 0)
        if now <= turn.recorder.epoch:
            return False
        await turn.lost()
        return True

    async def _interrupt(self, live: LiveSession, turn_id: str) -> None:
        turn = live.running
        if turn is not None:
            await turn.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)
        if turn is None or not turn.outcome.done():
            await self._stop_elsewhere(live.session_id, turn_id, live.tenant_id)

    # A message waits.

    async def _enqueue(
        self,
        live: LiveSession,
        incoming: Incoming,
        subscription: Subscription | None,
        *,
        seals: Seals | None = None,
        ahead: bool = False,
    ) -> Sent:
        """Let the message wait; `ahead` of all others of its session, and however many wait."""
        seals = seals or await self._seals(live)
        row = seals.row_of_user(incoming.content, incoming.context, incoming.kernel_content)
        kernel = row.kernel if row.masked else None
        turn = QueuedTurn(str(uuid.uuid4()), str(uuid.uuid4()), row.content, row.context, incoming.budget, kernel)
        session_id, within = live.session_id, live.tenant_id
        limits = None if ahead else self._limits
        try:
            done = await self._db.write(
                enqueue, session_id, turn, within=within, limits=limits, key=incoming.key, ahead=ahead
            )
        except QueueFull as full:
            where = "this session" if full.of_session else "this server"
            raise TooManyTurns(f"as many turns wait in {where} as may") from None
        except DatabaseUnavailable:
            # The commit may have held and only the answer been lost: then it waits, and somebody must look.
            self._on_waiting()
            raise
        if done is None:
            raise SessionMoved
        enlisted, stored = done
        self._publish(session_id, stored)
        self._on_waiting()
        return Sent(
            session_id,
            turn.turn_id,
            turn.message_id,
            TurnStatus.QUEUED,
            enlisted.config_id,
            enlisted.revision,
            subscription=subscription,
        )

    async def _steer(
        self, live: LiveSession, turn_id: str, incoming: Incoming, subscription: Subscription | None
    ) -> Sent:
        text = text_in(incoming.content)
        row = (await self._seals(live)).row_of_user(text, incoming.context, prompt_of(text, incoming.context))
        message = SteeringMessage(
            str(uuid.uuid4()),
            live.session_id,
            live.tenant_id,
            turn_id,
            text_in(row.content),
            row.context,
            row.kernel if row.masked else None,
        )
        try:
            done = await self._db.write(steer, message, limit=self._limits.session, key=incoming.key)
        except NothingToDo:
            raise SessionMoved from None
        except QueueFull:
            raise TooManyTurns("as many messages wait for the turn that runs as may") from None
        except DatabaseUnavailable:
            self._on_waiting()  # for the same reason as above
            raise
        _leave(subscription)
        # Together with what others stored before it: the loop hears them in the order they were sent.
        with suppress(DatabaseUnavailable):  # it is a row, and found at the next look
            await self._running.look_for_steering([turn_id])
        return Sent(live.session_id, turn_id, message.message_id, PENDING, done.config_id, done.revision)

    async def queue_left_over(self, session_id: str, within: str) -> None:
        """Make turns of what a turn was steered with and did not use."""
        stored = await self._db.write(queue_left_over, session_id, within=within)
        if stored:
            self._publish(session_id, stored)
            self._on_waiting()

    # A turn that waited begins.

    async def serve(self, session_id: str, within: str) -> bool:
        """Begin the next turn that waits in a session. False: not now; it is to be tried again."""
        if self._running.draining:
            return False
        try:
            async with self._live.entry(session_id, within=within) as live:
                return await self._serve(live)
        except SessionNotFound:
            return True
        except (SessionBusy, SessionMoved, NothingToDo, TooManyTurns, ShuttingDown):
            return False

    async def _serve(self, live: LiveSession) -> bool:
        await self.refuse_while_running(live)
        with self._running.starting():
            return await self._begin_next(live)

    async def _begin_next(self, live: LiveSession) -> bool:
        try:
            opened = await self._opened(live)
        except (TooManyTurns, ShuttingDown, DatabaseUnavailable):
            raise
        except SessionNotFound:
            return True
        except SessionClosed:
            await self._end_next_of_closed(live)
            return True
        except Exception as error:
            # Whatever keeps the session from being opened: this turn ends with it, and its message is kept.
            if not isinstance(error, AppError):
                logger.exception("a session could not be opened for its turn", extra={"session_id": live.session_id})
            await self._fail_next(live, failure_of(error))
            return True
        notices = live.take_notices(opened.mask)
        live.awake()
        try:
            begun = await self._db.write(
                begin_next,
                live.session_id,
                within=live.tenant_id,
                node_id=self._node_id,
                expected_position=live.position,
                expected_revision=live.revision,
                notices=notices,
            )
        except BaseException as error:
            live.notices.extendleft(reversed(notices))
            if isinstance(error, NothingToDo):
                await self._live.shut(live)
            else:
                self._live.idle(live)
            if isinstance(error, IntegrityError):
                return True  # a turn runs in it elsewhere
            raise
        if begun is None:
            live.notices.extendleft(reversed(notices))
            self._live.idle(live)
            return True
        self._publish(live.session_id, begun.stored)
        accepted = accepted_from_queue(
            begun,
            tenant_id=live.tenant_id,
            session_id=live.session_id,
            seals=self._restorer.seals(live.session_id, opened.mask),
        )
        await self._running.begin(live, opened, accepted)
        return True

    async def _end_next_of_closed(self, live: LiveSession) -> None:
        """A session that failed fails its turns with the reason; one that somebody closed has them cancelled."""
        record = await self._db.read(get_session, live.session_id, within=live.tenant_id)
        error = None if record is None else record.session.error
        if error is not None:
            await self._fail_next(live, Failure(error.code, status_of(error.code), error.detail))
        elif (turn := await self._db.read(next_queued, live.session_id)) is not None:
            await self.end_queued(live.session_id, turn.turn_id, within=live.tenant_id)

    async def _fail_next(self, live: LiveSession, failure: Failure) -> None:
        turn = await self._db.read(next_queued, live.session_id)
        if turn is not None:
            await self.end_queued(
                live.session_id,
                turn.turn_id,
                within=live.tenant_id,
                status=TurnStatus.FAILED,
                code=failure.code,
                error=failure.detail,
            )

    async def end_queued(
        self,
        session_id: str,
        turn_id: str,
        *,
        within: str,
        status: TurnStatus = TurnStatus.CANCELLED,
        code: str | None = None,
        error: str | None = None,
    ) -> bool:
        """End a turn that waits. False: it does not wait any more."""
        stored = await self._db.write(
            end_queued, session_id, turn_id, within=within, status=status, code=code, error=error
        )
        if stored is None:
            return False
        self._publish(session_id, stored)
        self._running.tell(turn_id)
        return True

    def _publish(self, session_id: str, stored: list[StoredEvent]) -> None:
        self._hub.tell(session_id, stored)


def _leave(subscription: Subscription | None) -> None:
    if subscription is not None:
        subscription.leave()
