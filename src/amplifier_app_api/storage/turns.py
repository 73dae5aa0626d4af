"""Turns as rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, exists, func, insert, literal_column, select, update

from amplifier_app_api.models.content import Content, shown_content
from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.models.turn import OPEN_STATUSES, Budget, StopReason, TokenUsage, Turn, TurnStatus
from amplifier_app_api.storage.tables import Time, turns

# Words of the statement, not parameters of it: only so can an engine use the indexes of what is not finished.
OPEN = turns.c.status.in_([literal_column(f"'{status.value}'") for status in OPEN_STATUSES])
"""The turn runs or waits for a person."""
QUEUED = turns.c.status == literal_column("'queued'")
"""The turn waits for its place."""

_IN_ORDER = (turns.c.ahead.desc(), turns.c.number)

_INSERT = insert(turns)
_END = update(turns).where(turns.c.turn_id == bindparam("of_turn"), OPEN)
_OPEN_OF = select(turns.c.turn_id).where(turns.c.session_id == bindparam("of_session"), OPEN)
_QUEUED_OF = select(turns).where(turns.c.session_id == bindparam("of_session"), QUEUED).order_by(*_IN_ORDER)
_FIRST_QUEUED_OF = _QUEUED_OF.limit(1)
_BEGIN = (
    update(turns)
    .where(turns.c.turn_id == bindparam("of_turn"), QUEUED)
    .values(
        status=TurnStatus.RUNNING.value,
        queued=None,
        epoch=bindparam("new_epoch"),
        started_at=bindparam("at", type_=Time),
    )
)
_KEEP_TALLY = update(turns).where(turns.c.turn_id == bindparam("of_turn"))
_GET = select(turns).where(
    turns.c.turn_id == bindparam("of_turn"),
    turns.c.session_id == bindparam("of_session"),
    turns.c.tenant_id == bindparam("of_tenant"),
)


def insert_turn(
    conn: Connection,
    turn_id: str,
    session_id: str,
    *,
    number: int,
    message_id: str,
    now: datetime,
    epoch: int,
    within: str,
    budget: Budget | None = None,
) -> None:
    """Store a turn that begins now. A second open turn of the session is an `IntegrityError`."""
    conn.execute(
        _INSERT,
        {
            **_new(turn_id, session_id, number, message_id, budget, within),
            "status": TurnStatus.RUNNING.value,
            "epoch": epoch,
            "created_at": now,
            "started_at": now,
        },
    )


def insert_queued_turn(
    conn: Connection,
    turn_id: str,
    session_id: str,
    *,
    number: int,
    message_id: str,
    queued: Mapping[str, Any],
    now: datetime,
    epoch: int,
    within: str,
    budget: Budget | None = None,
    ahead: bool = False,
) -> None:
    """Store a turn that waits for its place; `queued` is its message: `{"content", "context", "kernel"}`."""
    conn.execute(
        _INSERT,
        {
            **_new(turn_id, session_id, number, message_id, budget, within),
            "status": TurnStatus.QUEUED.value,
            "queued": dict(queued),
            "ahead": int(ahead),
            "epoch": epoch,
            "created_at": now,
        },
    )


def _new(
    turn_id: str, session_id: str, number: int, message_id: str, budget: Budget | None, within: str
) -> dict[str, Any]:
    return {
        "turn_id": turn_id,
        "tenant_id": within,
        "session_id": session_id,
        "number": number,
        "message_id": message_id,
        "budget": None if budget is None else budget.model_dump(mode="json", exclude_none=True),
        "usage": TokenUsage().model_dump(),
        "iterations": 0,
        "tool_calls": 0,
        "requests": 0,
        "attempt": 1,
    }


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


def keep_tally(conn: Connection, turn_id: str, tally: Mapping[str, Any]) -> None:
    """Note what a turn has used so far: `usage`, `iterations`, `tool_calls`, `requests`."""
    conn.execute(_KEEP_TALLY, {"of_turn": turn_id, **tally})


def keep_request(conn: Connection, turn_id: str, request: int) -> None:
    """Note that a model call of a turn had this number, unless a later one is on record."""
    conn.execute(update(turns).where(turns.c.turn_id == turn_id, turns.c.requests < request).values(requests=request))


def open_turn_of(conn: Connection, session_id: str) -> str | None:
    """The turn that runs or waits in a session."""
    return conn.execute(_OPEN_OF, {"of_session": session_id}).scalar_one_or_none()


def next_unfinished(conn: Connection, session_id: str, *, within: str) -> str | None:
    """The turn that runs or waits for a person in the tenant's session, else the queued one that comes next."""
    running = conn.execute(
        select(turns.c.turn_id).where(turns.c.session_id == session_id, turns.c.tenant_id == within, OPEN)
    ).scalar_one_or_none()
    if running is not None:
        return running
    waiting = next_queued(conn, session_id)
    return None if waiting is None else waiting.turn_id


# Turns that wait for their place.


@dataclass(frozen=True, slots=True)
class QueuedTurn:
    """A turn that waits for its place, with the message that it will answer.

    `content` and `context` are what people are shown of it; where that is not all, `kernel` is the whole, sealed.
    """

    turn_id: str
    message_id: str
    content: Content
    context: dict[str, Any] | None
    budget: Budget | None
    kernel: dict[str, Any] | None = None


def next_queued(conn: Connection, session_id: str) -> QueuedTurn | None:
    """The queued turn of a session that comes next."""
    row = conn.execute(_FIRST_QUEUED_OF, {"of_session": session_id}).mappings().first()
    return None if row is None else _queued(row)


def queued_turns_of(conn: Connection, session_id: str) -> list[QueuedTurn]:
    """The queued turns of a session, the next one first."""
    return [_queued(row) for row in conn.execute(_QUEUED_OF, {"of_session": session_id}).mappings()]


def _queued(row: RowMapping) -> QueuedTurn:
    message: dict[str, Any] = row["queued"] or {}
    return QueuedTurn(
        row["turn_id"],
        row["message_id"],
        message.get("content", ""),
        message.get("context"),
        _budget(row["budget"]),
        message.get("kernel"),
    )


def begin_queued_turn(conn: Connection, turn_id: str, *, epoch: int, now: datetime) -> bool:
    """A queued turn runs now. False: it is not queued any more; an open turn of the session: an `IntegrityError`."""
    return conn.execute(_BEGIN, {"of_turn": turn_id, "new_epoch": epoch, "at": now}).rowcount > 0


def end_queued_turn(
    conn: Connection,
    turn_id: str,
    *,
    status: TurnStatus,
    stop_reason: StopReason,
    ended_at: datetime,
    code: str | None = None,
    error: str | None = None,
) -> bool:
    """Record how a turn ended that never ran. False: it is not queued any more."""
    ended = {
        "status": status.value,
        "stop_reason": stop_reason.value,
        "ended_at": ended_at,
        "code": code,
        "error": error,
        "queued": None,
    }
    return conn.execute(update(turns).where(turns.c.turn_id == turn_id, QUEUED).values(ended)).rowcount > 0


def queued_counts(conn: Connection, session_id: str) -> tuple[int, int]:
    """How many turns wait for their place: in all, and in one session."""
    mine = select(func.count()).select_from(turns).where(turns.c.session_id == session_id, QUEUED)
    row = conn.execute(select(func.count(), mine.scalar_subquery()).select_from(turns).where(QUEUED)).one()
    return row[0], row[1]


def sessions_to_serve(conn: Connection, *, limit: int) -> list[tuple[str, str]]:
    """Sessions, each with its tenant, in which a turn waits and none is open; whose turn waits longest comes first."""
    other = turns.alias("other")
    is_open = other.c.status.in_([literal_column(f"'{status.value}'") for status in OPEN_STATUSES])
    statement = (
        select(turns.c.session_id, turns.c.tenant_id)
        .where(QUEUED, ~exists().where(other.c.session_id == turns.c.session_id, is_open))
        .group_by(turns.c.session_id, turns.c.tenant_id)
        .order_by(func.min(turns.c.created_at), turns.c.session_id)
        .limit(limit)
    )
    return [(row.session_id, row.tenant_id) for row in conn.execute(statement)]


# Turns as a resource.


def get_turn(conn: Connection, turn_id: str, *, session_id: str, within: str) -> Turn | None:
    """A turn, when the tenant's session has it."""
    values = {"of_turn": turn_id, "of_session": session_id, "of_tenant": within}
    row = conn.execute(_GET, values).mappings().first()
    return None if row is None else turn_from_row(row)


def list_turns(
    conn: Connection, session_id: str, page: PageRequest, *, within: str, status: str | None = None
) -> Page[Turn]:
    """One page of a session's turns, the newest first."""
    mine = (turns.c.tenant_id == within) & (turns.c.session_id == session_id)
    if status is not None:
        mine &= turns.c.status == status
    total = conn.execute(select(func.count()).select_from(turns).where(mine)).scalar_one()
    statement = select(turns).where(mine).order_by(turns.c.number.desc()).limit(page.limit + 1)
    after = page.after()
    if after is not None:
        if not after[0].isascii() or not after[0].isdigit() or len(after[0]) > 15:
            raise InvalidPage("cursor is not one that this list made")
        statement = statement.where(turns.c.number < int(after[0]))
    else:
        statement = statement.offset(page.offset)
    rows = conn.execute(statement).mappings().all()
    items = [turn_from_row(row) for row in rows[: page.limit]]
    more = len(rows) > page.limit
    return Page(items, total, make_cursor(str(items[-1].number), session_id) if more else None)


def turn_from_row(row: RowMapping) -> Turn:
    """The turn of a whole row of `turns`."""
    fields = {name: row[name] for name in Turn.model_fields if name != "message"}
    queued: dict[str, Any] = row["queued"] or {}
    return Turn.model_validate(
        {
            **fields,
            "message": shown_content(queued.get("content")),
            "budget": _budget(row["budget"]),
            "status": TurnStatus(row["status"]),
            "stop_reason": None if row["stop_reason"] is None else StopReason(row["stop_reason"]),
        }
    )


def _budget(value: Any) -> Budget | None:
    return None if value is None else Budget.model_validate(value)
