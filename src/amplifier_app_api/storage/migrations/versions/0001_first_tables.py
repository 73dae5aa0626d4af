"""The first tables: configs and their texts, sessions, turns, transcripts, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INTEGER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
OPEN_TURN = sa.text("status IN ('running', 'waiting')")


def upgrade() -> None:
    op.create_table(
        "configs",
        sa.Column("config_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("last_revision", INTEGER, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("config_id", name="pk_configs"),
        sqlite_strict=True,
    )
    op.create_index("ix_configs_tenant_updated", "configs", ["tenant_id", "updated_at", "config_id"])
    op.create_index("ix_configs_tenant_name", "configs", ["tenant_id", "name"])
    op.create_table(
        "config_revisions",
        sa.Column("config_id", sa.Text, nullable=False),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("yaml_content", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("config_id", "revision", name="pk_config_revisions"),
        sa.ForeignKeyConstraint(
            ["config_id"], ["configs.config_id"], ondelete="CASCADE", name="fk_config_revisions_config_id_configs"
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("config_id", sa.Text, nullable=False),
        sa.Column("revision", INTEGER, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("activity", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("degraded", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("parent_id", sa.Text),
        sa.Column("variables", sa.Text),
        sa.Column("working_dir", sa.Text),
        sa.Column("allow_missing", INTEGER, nullable=False),
        sa.Column("message_count", INTEGER, nullable=False),
        sa.Column("last_position", INTEGER, nullable=False),
        sa.Column("last_seq", INTEGER, nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions"),
        sa.ForeignKeyConstraint(
            ["config_id"], ["configs.config_id"], ondelete="RESTRICT", name="fk_sessions_config_id_configs"
        ),
        sqlite_strict=True,
    )
    op.create_index("ix_sessions_tenant_updated", "sessions", ["tenant_id", "updated_at", "session_id"])
    op.create_index("ix_sessions_config", "sessions", ["config_id"])
    op.create_table(
        "turns",
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("stop_reason", sa.Text),
        sa.Column("code", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("response", sa.Text),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("iterations", INTEGER, nullable=False),
        sa.Column("tool_calls", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("started_at", sa.Text),
        sa.Column("ended_at", sa.Text),
        sa.PrimaryKeyConstraint("turn_id", name="pk_turns"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], ondelete="CASCADE", name="fk_turns_session_id_sessions"
        ),
        sqlite_strict=True,
    )
    op.create_index("ix_turns_session", "turns", ["session_id", "created_at"])
    op.create_index(
        "uq_turns_one_open", "turns", ["session_id"], unique=True, sqlite_where=OPEN_TURN, postgresql_where=OPEN_TURN
    )
    op.create_table(
        "messages",
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text),
        sa.Column("position", INTEGER, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("tool_calls", sa.Text),
        sa.Column("tool_call_id", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("context", sa.Text),
        sa.Column("interrupted", INTEGER, nullable=False),
        sa.Column("kernel", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("message_id", name="pk_messages"),
        sa.UniqueConstraint("session_id", "position", name="uq_messages_session_id_position"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], ondelete="CASCADE", name="fk_messages_session_id_sessions"
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "events",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_events"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], ondelete="CASCADE", name="fk_events_session_id_sessions"
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "service_state",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_service_state"),
        sqlite_strict=True,
    )
