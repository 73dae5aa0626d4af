"""The one description of the schema.

Four column types of our own keep the tables the same on SQLite, where they are STRICT, and on PostgreSQL:
text, integer (64 bits), times as RFC 3339 text (they sort as the moments do), and JSON as text.
"""

from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator

from amplifier_app_api.models.fields import format_time, parse_time


class Time(TypeDecorator[datetime]):
    """A moment in UTC, kept as text of one length."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else format_time(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else parse_time(value)


class Json(TypeDecorator[Any]):
    """A JSON value, kept as text. SQL NULL is None; JSON null is not kept."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)


INTEGER = Integer().with_variant(BigInteger(), "postgresql")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

configs = Table(
    "configs",
    metadata,
    Column("config_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("tags", Json, nullable=False),
    Column("revision", INTEGER, nullable=False),
    Column("version", INTEGER, nullable=False),
    Column("last_revision", INTEGER, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_configs_tenant_updated", "tenant_id", "updated_at", "config_id"),
    Index("ix_configs_tenant_name", "tenant_id", "name"),
    sqlite_strict=True,
)

config_revisions = Table(
    "config_revisions",
    metadata,
    Column("config_id", Text, ForeignKey("configs.config_id", ondelete="CASCADE"), primary_key=True),
    Column("revision", INTEGER, primary_key=True, autoincrement=False),
    Column("tenant_id", Text, nullable=False),
    Column("yaml_content", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    sqlite_strict=True,
)

bundles = Table(
    "bundles",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("description", Text),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    sqlite_strict=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("config_id", Text, ForeignKey("configs.config_id", ondelete="RESTRICT"), nullable=False),
    Column("revision", INTEGER, nullable=False),
    Column("status", Text, nullable=False),
    Column("activity", Text, nullable=False),
    Column("title", Text),
    Column("tags", Json, nullable=False),
    Column("degraded", Json, nullable=False),
    Column("error", Json),
    Column("parent_id", Text),
    Column("variables", Text),
    Column("working_dir", Text),
    # The remote sources that the session was opened with, each with what it was resolved to.
    Column("sources", Json),
    Column("allow_missing", INTEGER, nullable=False),
    Column("message_count", INTEGER, nullable=False),
    Column("last_position", INTEGER, nullable=False),
    Column("last_seq", INTEGER, nullable=False),
    Column("epoch", INTEGER, nullable=False),
    Column("usage", Json, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_sessions_tenant_updated", "tenant_id", "updated_at", "session_id"),
    Index("ix_sessions_config", "config_id"),
    sqlite_strict=True,
)

turns = Table(
    "turns",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("status", Text, nullable=False),
    Column("stop_reason", Text),
    Column("code", Text),
    Column("error", Text),
    Column("response", Text),
    Column("usage", Json, nullable=False),
    Column("iterations", INTEGER, nullable=False),
    Column("tool_calls", INTEGER, nullable=False),
    Column("attempt", INTEGER, nullable=False),
    Column("epoch", INTEGER, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("started_at", Time),
    Column("ended_at", Time),
    Index("ix_turns_session", "session_id", "created_at"),
    # One turn at a time is the database's rule, not only the runtime's.
    Index(
        "uq_turns_one_open",
        "session_id",
        unique=True,
        sqlite_where=text("status IN ('running', 'waiting')"),
        postgresql_where=text("status IN ('running', 'waiting')"),
    ),
    sqlite_strict=True,
)

messages = Table(
    "messages",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("turn_id", Text),
    Column("position", INTEGER, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Json, nullable=False),
    Column("tool_calls", Json),
    Column("tool_call_id", Text),
    Column("name", Text),
    Column("metadata", Json, nullable=False),
    Column("context", Json),
    Column("interrupted", INTEGER, nullable=False),
    # The kernel's message dict, whole: what `set_messages` gets back when the session is opened again.
    Column("kernel", Json),
    Column("created_at", Time, nullable=False),
    UniqueConstraint("session_id", "position"),
    sqlite_strict=True,
)

events = Table(
    "events",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("seq", INTEGER, primary_key=True, autoincrement=False),
    Column("tenant_id", Text, nullable=False),
    Column("turn_id", Text),
    Column("type", Text, nullable=False),
    Column("at", Time, nullable=False),
    # The envelope as it goes out, encoded once.
    Column("data", Text, nullable=False),
    sqlite_strict=True,
)

service_state = Table(
    "service_state",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)
