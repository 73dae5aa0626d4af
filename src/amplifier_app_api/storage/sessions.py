"""Sessions as rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from amplifier_app_api.models.fields import format_time
from amplifier_app_api.models.page import Page, PageRequest, make_cursor
from amplifier_app_api.models.session import Activity, Session, SessionStatus
from amplifier_app_api.models.turn import TokenUsage
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.filters import tag_filter
from amplifier_app_api.storage.paging import moment_after, newest_first
from amplifier_app_api.storage.tables import sessions


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


def insert_session(conn: Connection, record: SessionRecord, *, session: Session) -> None:
    """Store a new session: `session`, with what only the runtime needs of `record`."""
    conn.execute(
        insert(sessions).values(
            session_id=session.session_id,
            tenant_id=record.tenant_id,
            config_id=session.config_id,
            revision=session.revision,
            status=session.status.value,
            activity=session.activity.value,
            title=session.title,
            tags=session.tags,
            degraded=[module.model_dump() for module in session.degraded],
            error=None,
            parent_id=session.parent_id,
            variables=record.variables,
            working_dir=record.working_dir,
            allow_missing=int(record.allow_missing),
            message_count=0,
            last_position=0,
            last_seq=0,
            epoch=record.epoch,
            usage=session.usage.model_dump(),
            created_at=session.created_at,
            updated_at=session.updated_at,
        )
    )


def get_session(conn: Connection, session_id: str, *, within: str) -> SessionRecord | None:
    """The session, when the tenant has it."""
    statement = select(sessions).where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
    row = conn.execute(statement).mappings().first()
    return None if row is None else record_from_row(row)


def list_sessions(
    conn: Connection,
    page: PageRequest,
    *,
    within: str,
    status: str | None = None,
    config_id: str | None = None,
    tag: tuple[str, str] | None = None,
) -> Page[Session]:
    """One page, newest change first, and the number of all that match."""
    statement = select(sessions).where(sessions.c.tenant_id == within)
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


def advance(
    conn: Connection,
    session_id: str,
    *,
    epoch: int,
    events: int,
    messages: int = 0,
    values: Mapping[str, Any] | None = None,
) -> Advanced | None:
    """Take the next numbers of a session's log and transcript, and hold its row until the commit.

    None: the session is gone, or `epoch` is not its epoch any more, so the caller may not write.
    """
    statement = (
        update(sessions)
        .where(sessions.c.session_id == session_id, sessions.c.epoch == epoch)
        .values(
            last_seq=sessions.c.last_seq + events,
            last_position=sessions.c.last_position + messages,
            **(values or {}),
        )
        .returning(sessions.c.last_seq, sessions.c.last_position, sessions.c.epoch, sessions.c.usage)
    )
    row = conn.execute(statement).first()
    if row is None:
        return None
    return Advanced(row.last_seq, row.last_position, row.epoch, TokenUsage.model_validate(row.usage))


def accept_message(
    conn: Connection, session_id: str, *, within: str, active: str, activity: str, events: int, now: datetime
) -> Advanced | None:
    """Take the numbers of a message that comes in, and show the session as doing something.

    None: the tenant has no such session, or it does not take messages.
    """
    statement = (
        update(sessions)
        .where(sessions.c.session_id == session_id, sessions.c.tenant_id == within, sessions.c.status == active)
        .values(
            last_seq=sessions.c.last_seq + events,
            last_position=sessions.c.last_position + 1,
            message_count=sessions.c.message_count + 1,
            activity=activity,
            updated_at=now,
        )
        .returning(sessions.c.last_seq, sessions.c.last_position, sessions.c.epoch, sessions.c.usage)
    )
    row = conn.execute(statement).first()
    if row is None:
        return None
    return Advanced(row.last_seq, row.last_position, row.epoch, TokenUsage.model_validate(row.usage))


def set_usage(conn: Connection, session_id: str, usage: TokenUsage) -> None:
    """Set what a session has used; the caller holds its row since `advance`."""
    conn.execute(update(sessions).where(sessions.c.session_id == session_id).values(usage=usage.model_dump()))


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
    )
