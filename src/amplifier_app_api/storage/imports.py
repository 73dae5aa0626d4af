"""Rows that had a life elsewhere: they come with their ids and times instead of getting new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from amplifier_app_api.models.event import SessionCreated
from amplifier_app_api.models.session import Activity, SessionStatus
from amplifier_app_api.models.turn import TokenUsage
from amplifier_app_api.storage.configs import sha256_of
from amplifier_app_api.storage.events import insert_events
from amplifier_app_api.storage.tables import config_revisions, configs, messages, sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedConfig:
    """A Config with the one text it has."""

    config_id: str
    name: str
    yaml_content: str
    description: str | None
    tags: dict[str, str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedMessage:
    """An entry of a transcript. `kernel` is what a restored context gets; None: nothing."""

    message_id: str
    role: str
    content: Any
    kernel: dict[str, Any] | None
    created_at: datetime
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSession:
    """A session on the first revision of its Config, and its transcript in order."""

    session_id: str
    config_id: str
    status: SessionStatus
    tags: dict[str, str]
    created_at: datetime
    updated_at: datetime
    messages: Sequence[ImportedMessage]


def config_exists(conn: Connection, config_id: str, *, within: str) -> bool:
    """Whether the tenant has a Config with this id."""
    statement = select(configs.c.config_id).where(configs.c.tenant_id == within, configs.c.config_id == config_id)
    return conn.execute(statement).first() is not None


def session_exists(conn: Connection, session_id: str, *, within: str) -> bool:
    """Whether the tenant has a session with this id."""
    statement = select(sessions.c.session_id).where(sessions.c.tenant_id == within, sessions.c.session_id == session_id)
    return conn.execute(statement).first() is not None


def import_config(conn: Connection, config: ImportedConfig, *, by: str, within: str) -> None:
    """Store a Config as it was. An id that is taken is an `IntegrityError`."""
    conn.execute(
        insert(configs).values(
            config_id=config.config_id,
            tenant_id=within,
            name=config.name,
            description=config.description,
            tags=config.tags,
            revision=1,
            version=1,
            last_revision=1,
            created_at=config.created_at,
            updated_at=config.updated_at,
        )
    )
    conn.execute(
        insert(config_revisions).values(
            config_id=config.config_id,
            revision=1,
            tenant_id=within,
            yaml_content=config.yaml_content,
            sha256=sha256_of(config.yaml_content),
            created_at=config.updated_at,
            created_by=by,
        )
    )


def import_session(conn: Connection, session: ImportedSession, *, within: str) -> None:
    """Store a session with its transcript; its log begins as every log does. A taken id is an `IntegrityError`."""
    conn.execute(
        insert(sessions).values(
            session_id=session.session_id,
            tenant_id=within,
            config_id=session.config_id,
            revision=1,
            status=session.status.value,
            activity=Activity.IDLE.value,
            tags=session.tags,
            degraded=[],
            allow_missing=0,
            message_count=sum(message.role == "user" for message in session.messages),
            last_position=len(session.messages),
            last_seq=1,
            epoch=1,
            usage=TokenUsage().model_dump(),
            created_at=session.created_at,
            updated_at=session.updated_at,
        )
    )
    insert_events(
        conn,
        [SessionCreated(config_id=session.config_id, revision=1)],
        session_id=session.session_id,
        turn_id=None,
        first_seq=1,
        at=session.created_at,
        within=within,
    )
    if session.messages:
        conn.execute(
            insert(messages),
            [
                _row(message, position, session_id=session.session_id, within=within)
                for position, message in enumerate(session.messages, 1)
            ],
        )


def _row(message: ImportedMessage, position: int, *, session_id: str, within: str) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "tenant_id": within,
        "session_id": session_id,
        "turn_id": None,
        "position": position,
        "role": message.role,
        "content": message.content,
        "tool_calls": message.tool_calls,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "metadata": message.metadata,
        "context": None,
        "interrupted": 0,
        "kernel": message.kernel,
        "created_at": message.created_at,
    }
