"""Messages for a turn that runs, as rows.

A row is `pending` until the loop of the turn has used it; then its message is one of the transcript. What is still
pending when the turn is over becomes a turn of its own (`storage/queue.py`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, insert, literal_column, select, update

from amplifier_app_api.storage.tables import steering, turns
from amplifier_app_api.storage.turns import OPEN

PENDING = steering.c.status == literal_column("'pending'")
"""Nobody has used the message yet."""

_IN_ORDER = (steering.c.created_at, steering.c.message_id)


@dataclass(frozen=True, slots=True)
class SteeringMessage:
    """A message for a running turn.

    `content` and `context` are what people are shown of it; where that is not all, `kernel` is the whole, sealed.
    """

    message_id: str
    session_id: str
    tenant_id: str
    turn_id: str
    content: str
    context: dict[str, Any] | None
    kernel: dict[str, Any] | None = None


def insert_steering(conn: Connection, message: SteeringMessage, *, now: datetime) -> None:
    """Store a message that waits for the loop of its turn."""
    conn.execute(
        insert(steering).values(
            message_id=message.message_id,
            tenant_id=message.tenant_id,
            session_id=message.session_id,
            turn_id=message.turn_id,
            content=message.content,
            context=message.context,
            kernel=message.kernel,
            status="pending",
            created_at=now,
        )
    )


def pending_of_turn(conn: Connection, turn_id: str) -> list[SteeringMessage]:
    """What a turn has not used yet, in the order it came."""
    return _messages(conn, steering.c.turn_id == turn_id)


def pending_of_turns(conn: Connection, turn_ids: Collection[str]) -> list[SteeringMessage]:
    """What these turns have not used yet, in the order it came."""
    return _messages(conn, steering.c.turn_id.in_(list(turn_ids)))


def left_over(conn: Connection, session_id: str) -> list[SteeringMessage]:
    """What a session's turns did not use before they ended, in the order it came."""
    return _messages(conn, (steering.c.session_id == session_id) & ~_its_turn_is_open())


def sessions_with_leftovers(conn: Connection, *, limit: int) -> list[tuple[str, str]]:
    """Sessions, each with its tenant, of whose turns something is left over."""
    statement = (
        select(steering.c.session_id, steering.c.tenant_id).where(PENDING, ~_its_turn_is_open()).distinct().limit(limit)
    )
    return [(row.session_id, row.tenant_id) for row in conn.execute(statement)]


def mark_used(conn: Connection, message_id: str) -> bool:
    """The loop has used the message. False: it was not pending any more."""
    return (
        conn.execute(
            update(steering).where(steering.c.message_id == message_id, PENDING).values(status="used")
        ).rowcount
        > 0
    )


def remove_steering(conn: Connection, message_ids: Collection[str]) -> None:
    """Remove messages that became turns of their own."""
    conn.execute(delete(steering).where(steering.c.message_id.in_(list(message_ids))))


def _its_turn_is_open() -> Any:
    return exists().where(turns.c.turn_id == steering.c.turn_id, OPEN)


def _messages(conn: Connection, condition: Any) -> list[SteeringMessage]:
    rows = conn.execute(select(steering).where(PENDING, condition).order_by(*_IN_ORDER)).mappings()
    return [_of_row(row) for row in rows]


def _of_row(row: RowMapping) -> SteeringMessage:
    return SteeringMessage(
        row["message_id"],
        row["session_id"],
        row["tenant_id"],
        row["turn_id"],
        row["content"],
        row["context"],
        row["kernel"],
    )
