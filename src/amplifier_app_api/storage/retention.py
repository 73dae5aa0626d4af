"""What is kept, how much it takes, and what goes when its time is over. Transcripts are never pruned."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Table, delete, func, literal, select, tuple_, update

from amplifier_app_api.models.storage import RowUsage
from amplifier_app_api.models.turn import UNFINISHED_STATUSES
from amplifier_app_api.storage.expressions import byte_length
from amplifier_app_api.storage.tables import (
    approvals,
    event_deltas,
    events,
    idempotency_keys,
    messages,
    sessions,
    steering,
    tool_calls,
    turns,
)

_UNFINISHED = [status.value for status in UNFINISHED_STATUSES]

# The columns whose texts make up nearly all of what a row takes.
_WEIGHED: dict[str, tuple[Table, tuple[str, ...]]] = {
    "messages": (messages, ("content", "tool_calls", "metadata", "context", "kernel")),
    "events": (events, ("data",)),
    "deltas": (event_deltas, ("text",)),
    "turns": (turns, ("response", "error", "queued", "usage")),
    "tool_calls": (tool_calls, ("result",)),
    "approvals": (approvals, ("arguments", "prompt", "options", "reason")),
    "steering": (steering, ("content", "context")),
}


def rows_of_session(conn: Connection, session_id: str, *, within: str) -> dict[str, RowUsage]:
    """How many rows of each kind a session has, and how many bytes of text they hold."""
    found: dict[str, RowUsage] = {}
    for kind, (table, columns) in _WEIGHED.items():
        weight: ColumnElement[int] = literal(0)
        for name in columns:
            weight = weight + func.coalesce(byte_length(table.c[name]), 0)
        row = conn.execute(
            select(func.count().label("rows"), func.coalesce(func.sum(weight), 0).label("bytes")).where(
                table.c.tenant_id == within, table.c.session_id == session_id
            )
        ).one()
        found[kind] = RowUsage(rows=row.rows, bytes=int(row.bytes))
    return found


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many events went, and the number of the last one that is gone for good (0: none ever was)."""

    events: int
    pruned_seq: int


def prune_session(
    conn: Connection, session_id: str, *, within: str, up_to: int | None = None, before: datetime | None = None
) -> Pruned | None:
    """Remove a session's events up to a number, or those from before a moment. None: there is no such session.

    Events of turns that have not ended stay, and whatever came after the first of them. The log stays one piece: its
    numbers go on from where they were, and it begins later.
    """
    record = conn.execute(
        select(sessions.c.pruned_seq, sessions.c.last_seq)
        .where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
        .with_for_update()
    ).first()
    if record is None:
        return None
    last = min(record.last_seq, _last_to_go(conn, session_id, up_to, before, record.pruned_seq))
    if last <= record.pruned_seq:
        return Pruned(0, record.pruned_seq)
    gone = conn.execute(delete(events).where(events.c.session_id == session_id, events.c.seq <= last)).rowcount
    conn.execute(update(sessions).where(sessions.c.session_id == session_id).values(pruned_seq=last))
    return Pruned(gone, last)


def _last_to_go(conn: Connection, session_id: str, up_to: int | None, before: datetime | None, pruned: int) -> int:
    mine = events.c.session_id == session_id
    last = up_to if up_to is not None else pruned
    if before is not None:
        # Times may repeat or step back where several machines wrote: the log goes up to its first newer event.
        newer = conn.execute(select(func.min(events.c.seq)).where(mine, events.c.at >= before)).scalar_one()
        newest = conn.execute(select(func.max(events.c.seq)).where(mine)).scalar_one()
        last = max(last, newer - 1 if newer is not None else newest or pruned)
    unfinished = select(turns.c.turn_id).where(turns.c.session_id == session_id, turns.c.status.in_(_UNFINISHED))
    needed = conn.execute(select(func.min(events.c.seq)).where(mine, events.c.turn_id.in_(unfinished))).scalar_one()
    return last if needed is None else min(last, needed - 1)


def sessions_with_old_events(conn: Connection, before: datetime, *, limit: int) -> list[tuple[str, str]]:
    """Sessions, with their tenants, whose oldest events are from before a moment; at most `limit`."""
    rows = conn.execute(
        select(events.c.session_id, events.c.tenant_id)
        .join(sessions, sessions.c.session_id == events.c.session_id)
        .where(events.c.seq == sessions.c.pruned_seq + 1, events.c.at < before)
        .order_by(events.c.at)
        .limit(limit)
    )
    return [(row.session_id, row.tenant_id) for row in rows]


def prune_keys(conn: Connection, before: datetime, *, limit: int) -> int:
    """Forget keys of repeated requests from before a moment, the oldest first; how many went."""
    keys = idempotency_keys
    identity = (keys.c.tenant_id, keys.c.route, keys.c.key)
    oldest = select(*identity).where(keys.c.created_at < before).order_by(keys.c.created_at).limit(limit)
    return conn.execute(delete(keys).where(tuple_(*identity).in_(oldest))).rowcount
