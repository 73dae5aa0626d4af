"""Turns that wait, the journal of tool calls, approvals, deltas, keys of repeated requests, nodes, usage of tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INTEGER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
QUEUED = sa.text("status = 'queued'")
PENDING = sa.text("status = 'pending'")
UNFINISHED = sa.text("status IN ('queued', 'running', 'waiting')")

NUMBER_TURNS = """
UPDATE turns SET number = (
    SELECT count(*) FROM turns AS earlier
    WHERE earlier.session_id = turns.session_id
    AND (earlier.created_at < turns.created_at
         OR (earlier.created_at = turns.created_at AND earlier.turn_id <= turns.turn_id))
)
"""
COUNT_TURNS = """
UPDATE sessions SET turn_count = (SELECT count(*) FROM turns WHERE turns.session_id = sessions.session_id)
"""
NAME_MESSAGES = """
UPDATE turns SET message_id = coalesce((
    SELECT message_id FROM messages
    WHERE messages.turn_id = turns.turn_id AND messages.role = 'user' ORDER BY position LIMIT 1
), '')
"""
# There was no journal: a call of a turn that is open may have been made, and must not be made again.
JOURNAL_CALLS = """
INSERT INTO tool_calls (turn_id, call_id, tenant_id, session_id, number, tool, digest, status, runs, started_at)
SELECT turn_id, call_id, tenant_id, session_id, min(seq), min(tool), '', 'started', 1, min(at) FROM (
    SELECT events.turn_id, events.tenant_id, events.session_id, events.seq, events.at,
           {call_id} AS call_id, {tool} AS tool
    FROM events JOIN turns ON turns.turn_id = events.turn_id
    WHERE events.type = 'tool.started' AND turns.status IN ('running', 'waiting')
) AS started
GROUP BY turn_id, call_id, tenant_id, session_id
"""
FIELD = {"sqlite": "json_extract(events.data, '$.{}')", "postgresql": "CAST(events.data AS json) ->> '{}'"}


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "route", "key", name="pk_idempotency_keys"),
        sqlite_strict=True,
    )
    op.create_index("ix_idempotency_keys_age", "idempotency_keys", ["created_at"])
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("pid", INTEGER, nullable=False),
        sa.Column("process_started", sa.Text, nullable=False),
        sa.Column("beat_ms", INTEGER, nullable=False),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_nodes"),
        sqlite_strict=True,
    )
    op.create_table(
        "tenant_usage",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("turns", INTEGER, nullable=False),
        sa.Column("tool_calls", INTEGER, nullable=False),
        sa.Column("iterations", INTEGER, nullable=False),
        sa.Column("active_ms", INTEGER, nullable=False),
        sa.Column("input_tokens", INTEGER, nullable=False),
        sa.Column("output_tokens", INTEGER, nullable=False),
        sa.Column("cache_read_tokens", INTEGER, nullable=False),
        sa.Column("cache_write_tokens", INTEGER, nullable=False),
        sa.Column("cost_nano_usd", INTEGER),
        sa.PrimaryKeyConstraint("tenant_id", "day", name="pk_tenant_usage"),
        sqlite_strict=True,
    )
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("default", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("decision", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("remember", INTEGER, nullable=False),
        sa.Column("decided_by", sa.Text),
        sa.Column("told", INTEGER, nullable=False),
        sa.Column("expires_at", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("decided_at", sa.Text),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="fk_approvals_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("approval_id", name="pk_approvals"),
        sqlite_strict=True,
    )
    op.create_index("ix_approvals_session", "approvals", ["session_id", "created_at"])
    op.create_index("ix_approvals_tenant", "approvals", ["tenant_id", "status", "created_at"])
    op.create_table(
        "event_deltas",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("number", INTEGER, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("request", INTEGER, nullable=False),
        sa.Column("block", INTEGER, nullable=False),
        sa.Column("offset", INTEGER, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="fk_event_deltas_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "turn_id", "number", name="pk_event_deltas"),
        sqlite_strict=True,
    )
    op.create_table(
        "steering",
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("context", sa.Text),
        sa.Column("kernel", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="fk_steering_session_id_sessions", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("message_id", name="pk_steering"),
        sqlite_strict=True,
    )
    op.create_index("ix_steering_turn", "steering", ["turn_id", "created_at"])
    op.create_index("ix_steering_pending", "steering", ["session_id"], sqlite_where=PENDING, postgresql_where=PENDING)
    op.create_table(
        "tool_calls",
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("number", INTEGER, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("repeatable", sa.Text),
        sa.Column("runs", INTEGER, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Text),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.turn_id"], name="fk_tool_calls_turn_id_turns", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id", "call_id", name="pk_tool_calls"),
        sqlite_strict=True,
    )
    op.create_index("ix_tool_calls_session", "tool_calls", ["session_id"])
    op.add_column("sessions", sa.Column("external_id", sa.Text))
    op.add_column("sessions", sa.Column("agent", sa.Text))
    op.add_column("sessions", sa.Column("depth", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("parent_turn_id", sa.Text))
    op.add_column("sessions", sa.Column("parent_call_id", sa.Text))
    op.add_column("sessions", sa.Column("spawn", sa.Text))
    op.add_column("sessions", sa.Column("forked_from", sa.Text))
    op.add_column("sessions", sa.Column("titled", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("budget", sa.Text))
    op.add_column("sessions", sa.Column("turn_count", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("pruned_seq", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("owner", sa.Text))
    op.add_column("sessions", sa.Column("tool_calls", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("iterations", INTEGER, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("active_ms", INTEGER, nullable=False, server_default="0"))
    op.create_index("ix_sessions_owner", "sessions", ["owner"])
    op.create_index("uq_sessions_child", "sessions", ["parent_id", "external_id"], unique=True)
    op.add_column("turns", sa.Column("number", INTEGER, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("message_id", sa.Text, nullable=False, server_default=""))
    op.add_column("turns", sa.Column("queued", sa.Text))
    op.add_column("turns", sa.Column("ahead", INTEGER, nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("budget", sa.Text))
    op.add_column("turns", sa.Column("cancel", sa.Text))
    op.add_column("turns", sa.Column("parent_turn_id", sa.Text))
    op.add_column("turns", sa.Column("parent_call_id", sa.Text))
    op.add_column("turns", sa.Column("requests", INTEGER, nullable=False, server_default="0"))
    op.execute(NUMBER_TURNS)
    op.execute(COUNT_TURNS)
    op.execute(NAME_MESSAGES)
    field = FIELD[op.get_bind().dialect.name]
    op.execute(JOURNAL_CALLS.format(call_id=field.format("call_id"), tool=field.format("tool")))
    op.drop_index("ix_turns_session", table_name="turns")
    op.create_index(
        "ix_turns_unfinished", "turns", ["status", "created_at"], sqlite_where=UNFINISHED, postgresql_where=UNFINISHED
    )
    op.create_index(
        "ix_turns_queued",
        "turns",
        ["session_id", "status", "number"],
        sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )
    op.create_index(
        "ix_turns_parent",
        "turns",
        ["parent_turn_id"],
        sqlite_where=sa.text("parent_turn_id IS NOT NULL"),
        postgresql_where=sa.text("parent_turn_id IS NOT NULL"),
    )
    op.create_index("uq_turns_number", "turns", ["session_id", "number"], unique=True)
