"""Sessions as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Executable, RowMapping, bindparam, delete, exists, insert, or_, select, update

from amplifier_app_api.models.fields import format_time
from amplifier_app_api.models.page import Page, PageRequest, make_cursor
from amplifier_app_api.models.session import Activity, Session, SessionStatus
from amplifier_app_api.models.turn import Budget, TokenUsage
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.filters import tag_filter
from amplifier_app_api.storage.ownership import CLAIMED_EPOCH, NODE
from amplifier_app_api.storage.paging import moment_after, newest_first
from amplifier_app_api.storage.steering import PENDING
from amplifier_app_api.storage.tables import INTEGER, Json, Time, sessions, steering, turns
from amplifier_app_api.storage.turns import QUEUED


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session with what only the runtime needs.

    `variables` is sealed for the row of this session. `epoch` is the number a writer of the session's turns
    must carry: whoever has an older one has lost the session.
    """

    session: Session
    tenant_id: str
    variables: str | None
    working_dir: str | None
    allow_missing: bool
    epoch: int
    depth: int = 0
    """How many sessions are above this one."""
    spawn: str | None = None
    """What a child was started with, sealed for the row of this session."""
    parent_turn_id: str | None = None
    parent_call_id: str | None = None
    owner: str | None = None
    """The node that writes the session's turns."""
    sources: dict[str, str] = field(default_factory=dict[str, str])
    """The remote sources the session was opened with: from the text of each to what it was, pinned."""


# Statements of the hot path are made once: making one costs more than running it.
_INSERT = insert(sessions)
_GET = select(sessions).where(
    sessions.c.tenant_id == bindparam("of_tenant"), sessions.c.session_id == bindparam("of_session")
)
_GET_TO_CHANGE = _GET.with_for_update()  # SQLite has one writer at a time and needs no lock
_COUNTERS = (sessions.c.last_seq, sessions.c.last_position, sessions.c.epoch, sessions.c.usage)
_ADMITTED = (
    *_COUNTERS,
    sessions.c.turn_count,
    sessions.c.config_id,
    sessions.c.revision,
    sessions.c.budget,
    sessions.c.tool_calls,
    sessions.c.iterations,
    sessions.c.active_ms,
)
_ADVANCE = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session"), sessions.c.epoch == bindparam("of_epoch"))
    .values(
        last_seq=sessions.c.last_seq + bindparam("more_events", type_=INTEGER),
        last_position=sessions.c.last_position + bindparam("more_messages", type_=INTEGER),
    )
    .returning(*_COUNTERS)
)
_CLOSE_TURN = _ADVANCE.values(
    activity=Activity.IDLE.value,
    usage=bindparam("used", type_=Json),
    tool_calls=sessions.c.tool_calls + bindparam("more_tool_calls", type_=INTEGER),
    iterations=sessions.c.iterations + bindparam("more_iterations", type_=INTEGER),
    active_ms=sessions.c.active_ms + bindparam("more_ms", type_=INTEGER),
    epoch=sessions.c.epoch + bindparam("more_epochs", type_=INTEGER),
    updated_at=bindparam("at", type_=Time),
)
_TAKE_NUMBERS = (
    update(sessions)
    .where(
        sessions.c.session_id == bindparam("of_session"),
        sessions.c.tenant_id == bindparam("of_tenant"),
        sessions.c.status == SessionStatus.ACTIVE.value,
    )
    .values(
        last_seq=sessions.c.last_seq + bindparam("more_events", type_=INTEGER),
        last_position=sessions.c.last_position + 1,
        message_count=sessions.c.message_count + bindparam("more_sent", type_=INTEGER),
        turn_count=sessions.c.turn_count + bindparam("more_sent", type_=INTEGER),
        activity=Activity.RUNNING.value,
        updated_at=bindparam("at", type_=Time),
    )
    .returning(*_ADMITTED)
)
_NOBODY_WAITS = (
    ~exists().where(turns.c.session_id == sessions.c.session_id, QUEUED),
    ~exists().where(steering.c.session_id == sessions.c.session_id, PENDING),
)
_ADMIT = _TAKE_NUMBERS.values(owner=NODE, epoch=CLAIMED_EPOCH)
# Most sessions are this node's already. Claiming one again would write to an index for nothing.
_ADMIT_OWN = _TAKE_NUMBERS.where(sessions.c.owner == NODE)
_ACCEPT, _ACCEPT_OWN = _ADMIT.where(*_NOBODY_WAITS), _ADMIT_OWN.where(*_NOBODY_WAITS)
_ENLIST_ANYHOW = (
    update(sessions)
    .where(sessions.c.session_id == bindparam("of_session"), sessions.c.tenant_id == bindparam("of_tenant"))
    .values(
        last_seq=sessions.c.last_seq + bindparam("more_events", type_=INTEGER),
        message_count=sessions.c.message_count + bindparam("more_sent", type_=INTEGER),
        turn_count=sessions.c.turn_count + bindparam("more_turns", type_=INTEGER),
        updated_at=bindparam("at", type_=Time),
    )
    .returning(*_ADMITTED)
)
_ENLIST = _ENLIST_ANYHOW.where(sessions.c.status == SessionStatus.ACTIVE.value)


def insert_session(conn: Connection, record: SessionRecord, *, session: Session) -> None:
    """Store a new session: `session`, with what only the runtime needs of `record`."""
    conn.execute(
        _INSERT,
        {
            "session_id": session.session_id,
            "tenant_id": record.tenant_id,
            "config_id": session.config_id,
            "revision": session.revision,
            "status": session.status.value,
            "activity": session.activity.value,
            "title": session.title,
            "tags": session.tags,
            "degraded": [module.model_dump() for module in session.degraded],
            "error": None,
            "parent_id": session.parent_id,
            "external_id": session.external_id,
            "agent": session.agent,
            "depth": record.depth,
            "parent_turn_id": record.parent_turn_id,
            "parent_call_id": record.parent_call_id,
            "spawn": record.spawn,
            "forked_from": session.forked_from,
            "budget": None if session.budget is None else session.budget.model_dump(exclude_none=True),
            "variables": record.variables,
            "working_dir": record.working_dir,
            "allow_missing": int(record.allow_missing),
            "sources": record.sources or None,
            "message_count": 0,
            "last_position": 0,
            "last_seq": session.last_seq,
            "turn_count": 0,
            "pruned_seq": 0,
            "owner": record.owner,
            "epoch": record.epoch,
            "usage": session.usage.model_dump(),
            "created_at": session.created_at,
            "updated_at": session.updated_at,
        },
    )


def get_session(conn: Connection, session_id: str, *, within: str, to_change: bool = False) -> SessionRecord | None:
    """The session, when the tenant has it. `to_change` holds its row until the commit."""
    statement = _GET_TO_CHANGE if to_change else _GET
    row = conn.execute(statement, {"of_tenant": within, "of_session": session_id}).mappings().first()
    return None if row is None else record_from_row(row)


def list_sessions(
    conn: Connection,
    page: PageRequest,
    *,
    within: str,
    status: str | None = None,
    config_id: str | None = None,
    tag: tuple[str, str] | None = None,
    parent_id: str | None = None,
) -> Page[Session]:
    """One page, newest change first, and the number of all that match: the children of a session, or of nobody."""
    of_parent = sessions.c.parent_id.is_(None) if parent_id is None else sessions.c.parent_id == parent_id
    statement = select(sessions).where(sessions.c.tenant_id == within, of_parent)
    if status is not None:
        statement = statement.where(sessions.c.status == status)
    if config_id is not None:
        statement = statement.where(sessions.c.config_id == config_id)
    if tag is not None:
        statement = statement.where(tag_filter(sessions.c.tags, tag, conn.dialect.name))
    rows, total, more = newest_first(
        conn, statement, page, moment=sessions.c.updated_at, identity=sessions.c.session_id, after=moment_after(page)
    )
    items = [record_from_row(row._mapping).session for row in rows]  # pyright: ignore[reportPrivateUsage]
    last = items[-1] if more else None
    return Page(items, total, make_cursor(format_time(last.updated_at), last.session_id) if last else None)


def change_session(
    conn: Connection, session_id: str, values: Mapping[str, Any], *, within: str
) -> SessionRecord | None:
    """Set columns of a session. None: there is none."""
    statement = (
        update(sessions)
        .where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
        .values(**values, updated_at=utc_now())
        .returning(*sessions.c)
    )
    row = conn.execute(statement).mappings().first()
    return None if row is None else record_from_row(row)


def give_title(conn: Connection, session_id: str, title: str, *, node_id: str, within: str) -> bool:
    """Give a session a title, unless a person has. False: it has such a one, is gone, or another node's."""
    statement = (
        update(sessions)
        .where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
        .where(or_(sessions.c.title.is_(None), sessions.c.titled == 1))
        .where(or_(sessions.c.owner.is_(None), sessions.c.owner == node_id))
        .values(title=title, titled=1)
    )
    return conn.execute(statement).rowcount > 0


def delete_session(conn: Connection, session_id: str, *, within: str) -> bool:
    """Remove a session and all its rows. False: there was none."""
    statement = delete(sessions).where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
    return conn.execute(statement).rowcount > 0


@dataclass(frozen=True, slots=True)
class Advanced:
    """Where a session's counters stand after a write took its numbers."""

    last_seq: int
    last_position: int
    epoch: int
    usage: TokenUsage


def counters_of(conn: Connection, session_id: str) -> tuple[int, int] | None:
    """The numbers of the last event and the last message of a session."""
    row = conn.execute(
        select(sessions.c.last_seq, sessions.c.last_position).where(sessions.c.session_id == session_id)
    ).first()
    return None if row is None else (row.last_seq, row.last_position)


def pruned_seq_of(conn: Connection, session_id: str, *, within: str) -> int:
    """The number of the last event of a session that was pruned; 0 where none was."""
    statement = select(sessions.c.pruned_seq).where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
    return conn.execute(statement).scalar_one_or_none() or 0


def advance(conn: Connection, session_id: str, *, epoch: int, events: int, messages: int = 0) -> Advanced | None:
    """Take the next numbers of a session's log and transcript, and hold its row until the commit.

    None: the session is gone, or `epoch` is not its epoch any more, so the caller may not write.
    """
    return _advanced(
        conn,
        _ADVANCE,
        {"of_session": session_id, "of_epoch": epoch, "more_events": events, "more_messages": messages},
    )


def advance_to_idle(
    conn: Connection,
    session_id: str,
    *,
    epoch: int,
    events: int,
    messages: int,
    before: TokenUsage,
    spent: Spent,
    now: datetime,
    new_epoch: bool,
) -> Advanced | None:
    """`advance` for the end of a turn: the session does nothing any more. `new_epoch` fences whoever still writes.

    The turn has `spent` this with its children. `before` is what the session had used: in one epoch nothing but the
    end of its turn changes that.
    """
    return _advanced(
        conn,
        _CLOSE_TURN,
        {
            "of_session": session_id,
            "of_epoch": epoch,
            "more_events": events,
            "more_messages": messages,
            "more_epochs": int(new_epoch),
            "used": before.plus(spent.usage).model_dump(),
            "more_tool_calls": spent.tool_calls,
            "more_iterations": spent.iterations,
            "more_ms": round(spent.seconds * 1000),
            "at": now,
        },
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """Numbers taken for a message that comes in, what the session runs, and what it may use and has used."""

    counters: Advanced
    turn_number: int
    config_id: str
    revision: int
    budget: Budget | None
    spent: Spent


def accept_message(
    conn: Connection, session_id: str, *, within: str, node_id: str, events: int, now: datetime, ahead: bool = False
) -> Admitted | None:
    """Take the numbers of a message that comes in, claim its session for the node, and show it as running.

    None: the tenant has no such session, it does not take messages, or others wait; `ahead` goes before those. The
    claim is only good when the message's turn can be stored, which it cannot while another one is open.
    """
    statements = (_ADMIT_OWN, _ADMIT) if ahead else (_ACCEPT_OWN, _ACCEPT)
    return _claimed(conn, statements, session_id, within, events, now, of_node=node_id, more_sent=1)


def admit_queued(
    conn: Connection, session_id: str, *, within: str, node_id: str, events: int, now: datetime
) -> Admitted | None:
    """`accept_message` for one that was counted when it was queued, and whose turn begins now."""
    return _claimed(conn, (_ADMIT_OWN, _ADMIT), session_id, within, events, now, of_node=node_id, more_sent=0)


def enlist(
    conn: Connection,
    session_id: str,
    *,
    within: str,
    events: int,
    now: datetime,
    sent: int = 0,
    turns: int = 0,
    anyhow: bool = False,
) -> Admitted | None:
    """Count messages and turns that wait, take the numbers of their events, and hold the session's row.

    None: the tenant has no such session, or it does not take messages; `anyhow` is for one that was taken before.
    Whoever runs the session goes on running it.
    """
    statement = _ENLIST_ANYHOW if anyhow else _ENLIST
    return _admitted(conn, statement, session_id, within, events, now, more_sent=sent, more_turns=turns)


def _claimed(
    conn: Connection,
    statements: Sequence[Executable],
    session_id: str,
    within: str,
    events: int,
    now: datetime,
    **values: Any,
) -> Admitted | None:
    """What the first of these statements that finds the session makes of it."""
    for statement in statements:
        admitted = _admitted(conn, statement, session_id, within, events, now, **values)
        if admitted is not None:
            return admitted
    return None


def _admitted(
    conn: Connection, statement: Executable, session_id: str, within: str, events: int, now: datetime, **values: Any
) -> Admitted | None:
    named = {"of_session": session_id, "of_tenant": within, "more_events": events, "at": now, **values}
    row: Any = conn.execute(statement, named).first()
    if row is None:
        return None
    counters = _counters(row)
    budget = None if row.budget is None else Budget.model_validate(row.budget)
    spent = Spent(counters.usage, row.tool_calls, row.iterations, row.active_ms / 1000)
    return Admitted(counters, row.turn_count, row.config_id, row.revision, budget, spent)


def _advanced(conn: Connection, statement: Executable, values: dict[str, Any]) -> Advanced | None:
    row = conn.execute(statement, values).first()
    return None if row is None else _counters(row)


def _counters(row: Any) -> Advanced:
    return Advanced(row.last_seq, row.last_position, row.epoch, TokenUsage.model_validate(row.usage))


def record_from_row(row: RowMapping) -> SessionRecord:
    """The record of a whole row of `sessions`."""
    session = Session.model_validate(
        {
            **{name: row[name] for name in Session.model_fields},
            "status": SessionStatus(row["status"]),
            "activity": Activity(row["activity"]),
        }
    )
    return SessionRecord(
        session=session,
        tenant_id=row["tenant_id"],
        variables=row["variables"],
        working_dir=row["working_dir"],
        allow_missing=bool(row["allow_missing"]),
        epoch=row["epoch"],
        depth=row["depth"],
        spawn=row["spawn"],
        parent_turn_id=row["parent_turn_id"],
        parent_call_id=row["parent_call_id"],
        owner=row["owner"],
        sources=row["sources"] or {},
    )
