"""Turns as rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from amplifier_app_api.models.turn import OPEN_STATUSES, StopReason, TokenUsage, TurnStatus
from amplifier_app_api.storage.tables import turns

_OPEN = [status.value for status in OPEN_STATUSES]
_INSERT = insert(turns)
_END = update(turns).where(turns.c.turn_id == bindparam("of_turn"), turns.c.status.in_(_OPEN))
_OPEN_OF = select(turns.c.turn_id).where(turns.c.session_id == bindparam("of_session"), turns.c.status.in_(_OPEN))


def insert_turn(conn: Connection, turn_id: str, session_id: str, *, now: datetime, epoch: int, within: str) -> None:
    """Store a turn that begins now. A second open turn of the session is an `IntegrityError`."""
    conn.execute(
        _INSERT,
        {
            "turn_id": turn_id,
            "tenant_id": within,
            "session_id": session_id,
            "status": TurnStatus.RUNNING.value,
            "usage": TokenUsage().model_dump(),
            "iterations": 0,
            "tool_calls": 0,
            "attempt": 1,
            "epoch": epoch,
            "created_at": now,
            "started_at": now,
        },
    )


def end_turn(
    conn: Connection,
    turn_id: str,
    *,
    status: TurnStatus,
    stop_reason: StopReason,
    ended_at: datetime,
    **values: Any,
) -> bool:
    """Record how an open turn ended. False: it had ended before."""
    ended = {"status": status.value, "stop_reason": stop_reason.value, "ended_at": ended_at, **values}
    return conn.execute(_END, {"of_turn": turn_id, **ended}).rowcount > 0


def open_turn_of(conn: Connection, session_id: str) -> str | None:
    """The turn that runs or waits in a session."""
    return conn.execute(_OPEN_OF, {"of_session": session_id}).scalar_one_or_none()


def all_open_turns(conn: Connection) -> list[tuple[str, str, str]]:
    """Every turn that runs or waits, of every tenant: turn, session, tenant."""
    statement = select(turns.c.turn_id, turns.c.session_id, turns.c.tenant_id).where(turns.c.status.in_(_OPEN))
    return [(row.turn_id, row.session_id, row.tenant_id) for row in conn.execute(statement)]
