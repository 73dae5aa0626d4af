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
    # Whether a module gave the title: another one may take its place. One that a person gave stays.
    Column("titled", INTEGER, nullable=False, default=0),
    Column("tags", Json, nullable=False),
    Column("degraded", Json, nullable=False),
    Column("error", Json),
    # A child session: who started it, by which tool call, under which id and as which agent.
    Column("parent_id", Text),
    Column("external_id", Text),
    Column("agent", Text),
    Column("depth", INTEGER, nullable=False, default=0),
    Column("parent_turn_id", Text),
    Column("parent_call_id", Text),
    # What a child was started with, sealed: it is opened again from that.
    Column("spawn", Text),
    Column("forked_from", Text),
    Column("budget", Json),
    Column("variables", Text),
    Column("working_dir", Text),
    # The remote sources that the session was opened with, each with what it was resolved to.
    Column("sources", Json),
    Column("allow_missing", INTEGER, nullable=False),
    Column("message_count", INTEGER, nullable=False),
    Column("last_position", INTEGER, nullable=False),
    Column("last_seq", INTEGER, nullable=False),
    Column("turn_count", INTEGER, nullable=False, default=0),
    # Events up to this number were pruned.
    Column("pruned_seq", INTEGER, nullable=False, default=0),
    # The node that writes the session's turns, and the number that its writes must carry.
    Column("owner", Text),
    Column("epoch", INTEGER, nullable=False),
    Column("usage", Json, nullable=False),
    # What the turns that have ended used of the rest of a budget; the time without that spent waiting for people.
    Column("tool_calls", INTEGER, nullable=False, default=0),
    Column("iterations", INTEGER, nullable=False, default=0),
    Column("active_ms", INTEGER, nullable=False, default=0),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_sessions_tenant_updated", "tenant_id", "updated_at", "session_id"),
    Index("ix_sessions_config", "config_id"),
    Index("uq_sessions_child", "parent_id", "external_id", unique=True),
    Index("ix_sessions_owner", "owner"),
    sqlite_strict=True,
)

turns = Table(
    "turns",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    # Its place among the turns of its session, from 1 on, in the order they were accepted.
    Column("number", INTEGER, nullable=False),
    Column("status", Text, nullable=False),
    # The message of a turn that waits for its place, until it becomes a row of the transcript.
    Column("message_id", Text, nullable=False),
    Column("queued", Json),
    # 1 for a message that a turn was steered with and did not use: it comes before those that wait.
    Column("ahead", INTEGER, nullable=False, default=0),
    Column("budget", Json),
    # What somebody on another node asks of the owner: "graceful" or "immediate".
    Column("cancel", Text),
    # The tool call that waits for the turn of a child session.
    Column("parent_turn_id", Text),
    Column("parent_call_id", Text),
    Column("stop_reason", Text),
    Column("code", Text),
    Column("error", Text),
    Column("response", Text),
    Column("usage", Json, nullable=False),
    Column("iterations", INTEGER, nullable=False),
    Column("tool_calls", INTEGER, nullable=False),
    # Model calls so far, attempts that were given up included.
    Column("requests", INTEGER, nullable=False, default=0),
    Column("attempt", INTEGER, nullable=False),
    Column("epoch", INTEGER, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("started_at", Time),
    Column("ended_at", Time),
    Index("uq_turns_number", "session_id", "number", unique=True),
    Index(
        "ix_turns_parent",
        "parent_turn_id",
        sqlite_where=text("parent_turn_id IS NOT NULL"),
        postgresql_where=text("parent_turn_id IS NOT NULL"),
    ),
    Index(
        "ix_turns_unfinished",
        "status",
        "created_at",
        sqlite_where=text("status IN ('queued', 'running', 'waiting')"),
        postgresql_where=text("status IN ('queued', 'running', 'waiting')"),
    ),
    # With the status among its columns, or SQLite reads every turn of the session by another index instead.
    Index(
        "ix_turns_queued",
        "session_id",
        "status",
        "number",
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
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

event_deltas = Table(
    "event_deltas",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("turn_id", Text, primary_key=True),
    # Its place among the pieces of its turn: blocks may take turns.
    Column("number", INTEGER, primary_key=True, autoincrement=False),
    Column("tenant_id", Text, nullable=False),
    Column("request", INTEGER, nullable=False),
    Column("block", INTEGER, nullable=False),
    Column("offset", INTEGER, nullable=False),
    # The number of the last durable event before the piece.
    Column("seq", INTEGER, nullable=False),
    Column("type", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", Time, nullable=False),
    sqlite_strict=True,
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.turn_id", ondelete="CASCADE"), primary_key=True),
    Column("call_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("number", INTEGER, nullable=False),
    Column("tool", Text, nullable=False),
    Column("digest", Text, nullable=False),
    # started, finished, unknown
    Column("status", Text, nullable=False),
    # read_only, idempotent; a call of neither kind is never made twice.
    Column("repeatable", Text),
    # How often it was started.
    Column("runs", INTEGER, nullable=False),
    # The result as JSON, or sealed when it holds a secret.
    Column("result", Json),
    Column("started_at", Time, nullable=False),
    Column("ended_at", Time),
    Index("ix_tool_calls_session", "session_id"),
    sqlite_strict=True,
)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("call_id", Text),
    Column("tool", Text, nullable=False),
    Column("arguments", Json),
    Column("digest", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("options", Json, nullable=False),
    Column("default", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("decision", Text),
    Column("reason", Text),
    Column("remember", INTEGER, nullable=False),
    Column("decided_by", Text),
    # Whether the owner of the turn has told it in the log.
    Column("told", INTEGER, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("decided_at", Time),
    Index("ix_approvals_session", "session_id", "created_at"),
    Index("ix_approvals_tenant", "tenant_id", "status", "created_at"),
    sqlite_strict=True,
)

steering = Table(
    "steering",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.session_id", ondelete="CASCADE"), nullable=False),
    # The running turn that it is meant for.
    Column("turn_id", Text, nullable=False),
    Column("content", Json, nullable=False),
    Column("context", Json),
    # What the loop is given, sealed, where it is not what people are shown.
    Column("kernel", Json),
    # pending, used; what is pending at the end of the turn becomes the next turn and is removed here.
    Column("status", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Index("ix_steering_turn", "turn_id", "created_at"),
    Index(
        "ix_steering_pending",
        "session_id",
        sqlite_where=text("status = 'pending'"),
        postgresql_where=text("status = 'pending'"),
    ),
    sqlite_strict=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    # Method and route, so that one key may serve several.
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", Text, nullable=False),
    # What was made, by id; and what the first caller was told about it, where it is not read off its row.
    Column("resource_id", Text, nullable=False),
    Column("answer", Json),
    Column("created_at", Time, nullable=False),
    Index("ix_idempotency_keys_age", "created_at"),
    sqlite_strict=True,
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    # Which start of which machine, and which process of it: on the same machine a dead process is known at once.
    Column("boot_id", Text, nullable=False),
    Column("pid", INTEGER, nullable=False),
    Column("process_started", Text, nullable=False),
    # Milliseconds of the database's clock.
    Column("beat_ms", INTEGER, nullable=False),
    Column("started_at", Time, nullable=False),
    sqlite_strict=True,
)

tenant_usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    # A day in UTC, as 2026-11-24.
    Column("day", Text, primary_key=True),
    Column("turns", INTEGER, nullable=False),
    Column("tool_calls", INTEGER, nullable=False),
    Column("iterations", INTEGER, nullable=False),
    Column("active_ms", INTEGER, nullable=False),
    Column("input_tokens", INTEGER, nullable=False),
    Column("output_tokens", INTEGER, nullable=False),
    Column("cache_read_tokens", INTEGER, nullable=False),
    Column("cache_write_tokens", INTEGER, nullable=False),
    # Billionths of a dollar, so that sums are exact; null while no cost is known.
    Column("cost_nano_usd", INTEGER),
    sqlite_strict=True,
)

service_state = Table(
    "service_state",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)
