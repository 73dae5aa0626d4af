"""A session that begins with what another one has said.

The message rows are copied in one statement, whatever their number. What the source keeps sealed was sealed for its
own row; those few rows are sealed anew for the copy.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Text, cast, func, insert, literal, null, or_, select, update

from amplifier_app_api.models.event import SessionCreated
from amplifier_app_api.models.session import Session
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.expressions import new_uuid
from amplifier_app_api.storage.messages import SEALED
from amplifier_app_api.storage.sessions import SessionRecord, insert_session
from amplifier_app_api.storage.tables import messages, sessions, steering, turns
from amplifier_app_api.storage.turns import open_turn_of

_COPIED = ("role", "content", "tool_calls", "tool_call_id", "name", "metadata", "context", "interrupted", "kernel")
_LIKE_SEALED = f'{{"{SEALED}":%'


def end_of_turn(conn: Connection, session_id: str, turn_id: str) -> int | None:
    """The position of the last message of a turn. None: the turn has none, or is not one of this session."""
    return conn.execute(
        select(func.max(messages.c.position)).where(messages.c.session_id == session_id, messages.c.turn_id == turn_id)
    ).scalar_one()


def end_of_finished_turns(conn: Connection, session_id: str) -> int:
    """The position of the last message that no running turn wrote."""
    running = open_turn_of(conn, session_id)
    first = None
    if running is not None:
        mine = (messages.c.session_id == session_id) & (messages.c.turn_id == running)
        first = conn.execute(select(func.min(messages.c.position)).where(mine)).scalar_one()
    if first is not None:
        return first - 1
    last = select(func.max(messages.c.position)).where(messages.c.session_id == session_id)
    return conn.execute(last).scalar_one() or 0


def copy_session(
    conn: Connection,
    record: SessionRecord,
    source_id: str,
    *,
    until: int,
    reseal: Callable[[str], str],
    now: datetime,
) -> tuple[Session, list[StoredEvent]]:
    """Store a session with the messages of `source_id` up to a position; `reseal` makes of a sealed text the copy's.

    Returns the session as it is stored, and the first event of its log.
    """
    session = record.session.model_copy(update={"last_seq": 1})
    insert_session(conn, record, session=session)
    conn.execute(
        insert(messages).from_select(
            ["message_id", "tenant_id", "session_id", "turn_id", "position", "created_at", *_COPIED],
            select(
                new_uuid(),
                messages.c.tenant_id,
                literal(session.session_id),
                null(),
                messages.c.position,
                messages.c.created_at,
                *(messages.c[name] for name in _COPIED),
            ).where(
                messages.c.tenant_id == record.tenant_id,
                messages.c.session_id == source_id,
                messages.c.position <= until,
            ),
        )
    )
    _seal_again(conn, session.session_id, reseal)
    counted = _count_of_sent(conn, source_id, until)
    conn.execute(
        update(sessions)
        .where(sessions.c.session_id == session.session_id)
        .values(last_position=until, message_count=counted)
    )
    news = [SessionCreated(config_id=session.config_id, revision=session.revision, forked_from=session.forked_from)]
    stored = insert_events(
        conn, news, session_id=session.session_id, turn_id=None, first_seq=1, at=now, within=record.tenant_id
    )
    return session.model_copy(update={"message_count": counted}), stored


def _seal_again(conn: Connection, session_id: str, reseal: Callable[[str], str]) -> None:
    sealed = select(messages.c.message_id, messages.c.kernel).where(
        messages.c.session_id == session_id, cast(messages.c.kernel, Text).like(_LIKE_SEALED)
    )
    for row in conn.execute(sealed).all():
        kernel: dict[str, Any] = row.kernel
        if kernel.keys() == {SEALED}:
            conn.execute(
                update(messages)
                .where(messages.c.message_id == row.message_id)
                .values(kernel={SEALED: reseal(kernel[SEALED])})
            )


def _count_of_sent(conn: Connection, session_id: str, until: int) -> int:
    """How many of the messages up to a position were sent by a user, also to a turn that ran.

    Those of before a fork have no turn.
    """
    sent = (
        select(func.count())
        .select_from(messages.outerjoin(turns, turns.c.message_id == messages.c.message_id))
        .where(
            messages.c.session_id == session_id,
            messages.c.position <= until,
            messages.c.role == "user",
            or_(
                turns.c.turn_id.is_not(None),
                messages.c.turn_id.is_(None),
                messages.c.message_id.in_(select(steering.c.message_id).where(steering.c.session_id == session_id)),
            ),
        )
    )
    return conn.execute(sent).scalar_one()
