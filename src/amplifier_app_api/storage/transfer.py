"""Reading a session to carry it elsewhere, and storing one that comes from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from amplifier_app_api.models.event import SessionCreated
from amplifier_app_api.models.session import Session
from amplifier_app_api.models.transfer import MessageRecord, TurnRecord, Usage
from amplifier_app_api.models.transfer import SessionRecord as SessionLine
from amplifier_app_api.models.turn import UNFINISHED_STATUSES, StopReason, TokenUsage, TurnStatus
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.forking import end_of_finished_turns
from amplifier_app_api.storage.sessions import SessionRecord, get_session, insert_session
from amplifier_app_api.storage.tables import config_revisions, configs, messages, sessions, turns

_UNFINISHED = [status.value for status in UNFINISHED_STATUSES]
_SHOWN = [messages.c[name] for name in MessageRecord.model_fields if name not in ("type", "in_context")]


@dataclass(frozen=True, slots=True)
class Extent:
    """How far an export goes: to the last message and the last event that no unfinished turn wrote."""

    record: SessionRecord
    last_position: int
    last_seq: int


def extent_of(conn: Connection, session_id: str, *, within: str) -> Extent | None:
    """What there is to export of a session now. None: the tenant has no such session."""
    record = get_session(conn, session_id, within=within)
    if record is None:
        return None
    return Extent(record, end_of_finished_turns(conn, session_id), record.session.last_seq)


def finished_turns(conn: Connection, session_id: str, after: int, *, limit: int, within: str) -> list[TurnRecord]:
    """Turns that have ended, after a number, in the order they were accepted."""
    rows = conn.execute(
        select(turns)
        .where(
            turns.c.tenant_id == within,
            turns.c.session_id == session_id,
            turns.c.number > after,
            turns.c.status.not_in(_UNFINISHED),
        )
        .order_by(turns.c.number)
        .limit(limit)
    ).mappings()
    return [_turn(row) for row in rows]


def _turn(row: RowMapping) -> TurnRecord:
    """A row as it is: what is wrong with a number of it must not keep anybody from taking the rest elsewhere."""
    fields: dict[str, Any] = {name: row[name] for name in TurnRecord.model_fields if name != "type"}
    fields["status"] = TurnStatus(row["status"])
    fields["stop_reason"] = None if row["stop_reason"] is None else StopReason(row["stop_reason"])
    return TurnRecord.model_construct(None, **{**fields, "usage": _usage(TokenUsage.model_validate(row["usage"]))})


def session_line(session: Session) -> SessionLine:
    """What is carried over of a session itself, as its row has it."""
    fields: dict[str, Any] = {name: getattr(session, name) for name in SessionLine.model_fields if name != "type"}
    return SessionLine.model_construct(None, **{**fields, "usage": _usage(session.usage)})


def _usage(usage: TokenUsage) -> Usage:
    """What was used, however much it is."""
    return Usage.model_construct(None, **usage.model_dump())


def messages_between(
    conn: Connection, session_id: str, after: int, until: int, *, limit: int, within: str
) -> list[tuple[int, MessageRecord]]:
    """Messages after a position up to another, with their positions."""
    rows = conn.execute(
        select(messages.c.position, messages.c.kernel.is_not(None).label("in_context"), *_SHOWN)
        .where(
            messages.c.tenant_id == within,
            messages.c.session_id == session_id,
            messages.c.position > after,
            messages.c.position <= until,
        )
        .order_by(messages.c.position)
        .limit(limit)
    ).mappings()
    return [(row["position"], _message(row)) for row in rows]


def _message(row: RowMapping) -> MessageRecord:
    fields: dict[str, Any] = {column.name: row[column.name] for column in _SHOWN}
    shown = {"interrupted": bool(row["interrupted"]), "in_context": bool(row["in_context"])}
    return MessageRecord.model_construct(None, **(fields | shown))


def revision_with_text(conn: Connection, name: str, sha256: str, *, within: str) -> tuple[str, int] | None:
    """A Config of this name that has, or had, this text: its id and the revision. The latest changed one."""
    row = conn.execute(
        select(config_revisions.c.config_id, config_revisions.c.revision)
        .join(configs, configs.c.config_id == config_revisions.c.config_id)
        .where(configs.c.tenant_id == within, configs.c.name == name, config_revisions.c.sha256 == sha256)
        .order_by(configs.c.updated_at.desc(), config_revisions.c.revision.desc())
        .limit(1)
    ).first()
    return None if row is None else (row.config_id, row.revision)


def revision_of_config(conn: Connection, config_id: str, sha256: str, *, within: str) -> int | None:
    """The newest revision of a Config that has this text, or its current one. None: there is no such Config."""
    current = conn.execute(
        select(configs.c.revision).where(configs.c.tenant_id == within, configs.c.config_id == config_id)
    ).scalar_one_or_none()
    same = conn.execute(
        select(config_revisions.c.revision)
        .where(config_revisions.c.config_id == config_id, config_revisions.c.sha256 == sha256)
        .order_by(config_revisions.c.revision.desc())
        .limit(1)
    ).scalar_one_or_none()
    return current if current is None or same is None else same


def store_imported(
    conn: Connection,
    record: SessionRecord,
    kept_turns: Sequence[dict[str, Any]],
    kept_messages: Sequence[dict[str, Any]],
    *,
    now: datetime,
) -> tuple[Session, list[StoredEvent]]:
    """Store a session with its turns and messages, as rows whose ids are new. Its log begins as every log does."""
    session = record.session.model_copy(update={"last_seq": 1})
    insert_session(conn, record, session=session)
    conn.execute(
        update(sessions)
        .where(sessions.c.session_id == session.session_id)
        .values(
            last_position=len(kept_messages),
            message_count=session.message_count,
            turn_count=max((turn["number"] for turn in kept_turns), default=0),
        )
    )
    shared = {"tenant_id": record.tenant_id, "session_id": session.session_id}
    if kept_turns:
        conn.execute(insert(turns), [{**turn, **shared, "epoch": record.epoch} for turn in kept_turns])
    if kept_messages:
        conn.execute(insert(messages), [{**message, **shared} for message in kept_messages])
    news = [SessionCreated(config_id=session.config_id, revision=session.revision)]
    stored = insert_events(
        conn, news, session_id=session.session_id, turn_id=None, first_seq=1, at=now, within=record.tenant_id
    )
    return session, stored
