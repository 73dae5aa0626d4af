"""Turns that wait for their place: how they come to wait, begin, and end without having begun.

Each function is a whole use case in one transaction, and gives back the events it wrote. A queued turn's message is no
row of the transcript until the turn begins: it takes its place after the answer that it waited for.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.content import kernel_content, shown_content
from amplifier_app_api.models.event import (
    Event,
    MessageUser,
    Notice,
    TurnCancelled,
    TurnEnded,
    TurnFailed,
    TurnQueued,
    TurnStarted,
)
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.idempotency import RequestKey, keep_key
from amplifier_app_api.storage.messages import NewMessage, insert_messages
from amplifier_app_api.storage.sessions import Admitted, admit_queued, advance, enlist, get_session
from amplifier_app_api.storage.steering import (
    SteeringMessage,
    insert_steering,
    left_over,
    pending_of_turn,
    remove_steering,
    sessions_with_leftovers,
)
from amplifier_app_api.storage.turns import (
    QueuedTurn,
    begin_queued_turn,
    end_queued_turn,
    insert_queued_turn,
    next_queued,
    open_turn_of,
    queued_counts,
    queued_turns_of,
    sessions_to_serve,
)


class QueueFull(Exception):
    """Rolls back: as many turns wait as may; `of_session` says whether it is the session's own limit."""

    def __init__(self, *, of_session: bool) -> None:
        super().__init__("as many turns wait as may")
        self.of_session = of_session


class NothingToDo(Exception):
    """Rolls back: what was to be changed is not there any more."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many turns may wait: on the whole server, and in one session."""

    server: int
    session: int


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A turn that waits, or a message that was handed to a turn."""

    turn_id: str
    message_id: str
    config_id: str
    revision: int


def enqueue(
    conn: Connection,
    session_id: str,
    turn: QueuedTurn,
    *,
    within: str,
    limits: QueueLimits | None,
    key: RequestKey | None = None,
    ahead: bool = False,
) -> tuple[Enlisted, list[StoredEvent]] | None:
    """Store a message whose turn waits for its place, `ahead` of those that wait in its session already.

    None: the tenant has no such session, or it is closed.

    `QueueFull` when more than the `limits` would wait; `KeyTaken` when the request was carried out before.
    """
    now = utc_now()
    admitted = enlist(conn, session_id, within=within, events=1, now=now, sent=1, turns=1)
    if admitted is None:
        return None
    if limits is not None:
        of_server, of_session = queued_counts(conn, session_id)
        if of_session >= limits.session or of_server >= limits.server:
            raise QueueFull(of_session=of_session >= limits.session)
    enlisted = Enlisted(turn.turn_id, turn.message_id, admitted.config_id, admitted.revision)
    keep_key(conn, key, turn.turn_id, answer={"config_id": admitted.config_id, "revision": admitted.revision})
    stored = _insert_queued(
        conn,
        session_id,
        turn,
        number=admitted.turn_number,
        seq=admitted.counters.last_seq,
        epoch=admitted.counters.epoch,
        within=within,
        ahead=ahead,
    )
    return enlisted, stored


def _insert_queued(
    conn: Connection,
    session_id: str,
    turn: QueuedTurn,
    *,
    number: int,
    seq: int,
    epoch: int,
    within: str,
    ahead: bool = False,
) -> list[StoredEvent]:
    now = utc_now()
    insert_queued_turn(
        conn,
        turn.turn_id,
        session_id,
        number=number,
        message_id=turn.message_id,
        queued={"content": turn.content, "context": turn.context, "kernel": turn.kernel},
        now=now,
        epoch=epoch,
        within=within,
        budget=turn.budget,
        ahead=ahead,
    )
    return insert_events(
        conn,
        [TurnQueued(message_id=turn.message_id)],
        session_id=session_id,
        turn_id=turn.turn_id,
        first_seq=seq,
        at=now,
        within=within,
    )


def steer(conn: Connection, message: SteeringMessage, *, limit: int, key: RequestKey | None = None) -> Enlisted:
    """Store a message for the turn that runs. `NothingToDo`: that turn is over, or the session is closed.

    `QueueFull` when `limit` messages wait for it already.
    """
    now = utc_now()
    admitted = enlist(conn, message.session_id, within=message.tenant_id, events=0, now=now, sent=1)
    if admitted is None or open_turn_of(conn, message.session_id) != message.turn_id:
        raise NothingToDo
    if len(pending_of_turn(conn, message.turn_id)) >= limit:
        raise QueueFull(of_session=True)
    keep_key(conn, key, message.turn_id, answer={"message_id": message.message_id, "status": "pending"})
    insert_steering(conn, message, now=now)
    return Enlisted(message.turn_id, message.message_id, admitted.config_id, admitted.revision)


def queue_left_over(conn: Connection, session_id: str, *, within: str) -> list[StoredEvent]:
    """Make turns of the messages that a turn was steered with and did not use: they come before those that wait."""
    if not left_over(conn, session_id):
        return []
    before = get_session(conn, session_id, within=within, to_change=True)
    messages = left_over(conn, session_id)  # again, now that nobody else can take them
    if before is None or not messages:
        return []
    count = len(messages)
    admitted = enlist(conn, session_id, within=within, events=count, now=utc_now(), turns=count, anyhow=True)
    if admitted is None:
        return []
    stored: list[StoredEvent] = []
    first_number, first_seq = admitted.turn_number - count + 1, admitted.counters.last_seq - count + 1
    for index, message in enumerate(messages):
        turn = QueuedTurn(str(uuid.uuid4()), message.message_id, message.content, message.context, None, message.kernel)
        stored += _insert_queued(
            conn,
            session_id,
            turn,
            number=first_number + index,
            seq=first_seq + index,
            epoch=admitted.counters.epoch,
            within=within,
            ahead=True,
        )
    remove_steering(conn, [message.message_id for message in messages])
    return stored


@dataclass(frozen=True, slots=True)
class Begun:
    """A queued turn that has begun."""

    turn: QueuedTurn
    admitted: Admitted
    stored: list[StoredEvent]


def begin_next(
    conn: Connection,
    session_id: str,
    *,
    within: str,
    node_id: str,
    expected_position: int,
    notices: Sequence[Notice],
    expected_revision: int | None = None,
) -> Begun | None:
    """Let the next queued turn of a session begin here, and put its message into the transcript.

    None: no turn waits. `NothingToDo`: the session is closed or gone, or its transcript does not end at
    `expected_position`, or it runs another revision by now. A turn that is open already is an `IntegrityError`.
    """
    turn = next_queued(conn, session_id)
    if turn is None:
        return None
    now = utc_now()
    admitted = admit_queued(conn, session_id, within=within, node_id=node_id, events=2 + len(notices), now=now)
    if admitted is None or admitted.counters.last_position != expected_position + 1:
        raise NothingToDo
    if expected_revision not in (None, admitted.revision):
        raise NothingToDo
    if not begin_queued_turn(conn, turn.turn_id, epoch=admitted.counters.epoch, now=now):
        raise NothingToDo  # somebody ended it while we waited for the session's row
    insert_messages(
        conn,
        [_message_of(turn, kernel=turn.kernel or _kernel_of(turn))],
        session_id=session_id,
        first_position=admitted.counters.last_position,
        within=within,
    )
    news: list[Event] = [
        *notices,
        TurnStarted(message_id=turn.message_id),
        MessageUser(message_id=turn.message_id, content=shown_content(turn.content)),
    ]
    stored = insert_events(
        conn,
        news,
        session_id=session_id,
        turn_id=turn.turn_id,
        first_seq=admitted.counters.last_seq - len(news) + 1,
        at=now,
        within=within,
    )
    return Begun(turn, admitted, stored)


def end_queued(
    conn: Connection,
    session_id: str,
    turn_id: str,
    *,
    within: str,
    status: TurnStatus = TurnStatus.CANCELLED,
    code: str | None = None,
    error: str | None = None,
) -> list[StoredEvent] | None:
    """End a turn that waits: cancelled, or failed with a code. None: it does not wait any more.

    Its message becomes a row all the same: people see what was sent and not answered, the model does not.
    """
    record = get_session(conn, session_id, within=within, to_change=True)
    turn = next((turn for turn in queued_turns_of(conn, session_id) if turn.turn_id == turn_id), None)
    if record is None or turn is None:
        return None
    return _end_queued(conn, session_id, turn, epoch=record.epoch, within=within, status=status, code=code, error=error)


def cancel_queued(conn: Connection, session_id: str, *, within: str) -> tuple[list[str], list[StoredEvent]]:
    """Cancel every turn that waits in a session, what was left over included; gives back the turns and the events."""
    record = get_session(conn, session_id, within=within, to_change=True)
    if record is None:
        return [], []
    stored = queue_left_over(conn, session_id, within=within)
    waiting = queued_turns_of(conn, session_id)
    for turn in waiting:
        stored += _end_queued(conn, session_id, turn, epoch=record.epoch, within=within, status=TurnStatus.CANCELLED)
    return [turn.turn_id for turn in waiting], stored


def _end_queued(
    conn: Connection,
    session_id: str,
    turn: QueuedTurn,
    *,
    epoch: int,
    within: str,
    status: TurnStatus,
    code: str | None = None,
    error: str | None = None,
) -> list[StoredEvent]:
    now = utc_now()
    failed = status is TurnStatus.FAILED
    reason = StopReason.ERROR if failed else StopReason.USER_CANCEL
    counters = advance(conn, session_id, epoch=epoch, events=1, messages=1)
    if counters is None:
        raise NothingToDo
    end_queued_turn(conn, turn.turn_id, status=status, stop_reason=reason, ended_at=now, code=code, error=error)
    insert_messages(
        conn,
        [_message_of(turn, kernel=None)],
        session_id=session_id,
        first_position=counters.last_position,
        within=within,
    )
    kind: type[TurnEnded] = TurnFailed if failed else TurnCancelled
    event = kind.model_validate({"stop_reason": reason, "usage": TokenUsage(), "code": code, "error": error})
    return insert_events(
        conn, [event], session_id=session_id, turn_id=turn.turn_id, first_seq=counters.last_seq, at=now, within=within
    )


def _kernel_of(turn: QueuedTurn) -> dict[str, Any]:
    return {"role": "user", "content": kernel_content(turn.content, turn.context)}


def _message_of(turn: QueuedTurn, *, kernel: dict[str, Any] | None) -> NewMessage:
    return NewMessage(
        message_id=turn.message_id,
        turn_id=turn.turn_id,
        role="user",
        content=turn.content,
        context=turn.context,
        created_at=utc_now(),
        kernel=kernel,
        interrupted=kernel is None,
    )


@dataclass(frozen=True, slots=True)
class WorkToDo:
    """Sessions, each with its tenant, in which a turn may begin, those with messages left over, and how many wait."""

    to_serve: list[tuple[str, str]]
    left_over: list[tuple[str, str]]
    waiting: int


def work_to_do(conn: Connection, *, limit: int) -> WorkToDo:
    """What there is for a dispatcher to do, the oldest first."""
    return WorkToDo(
        sessions_to_serve(conn, limit=limit), sessions_with_leftovers(conn, limit=limit), queued_counts(conn, "")[0]
    )
