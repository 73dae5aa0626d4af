"""The processes that serve this database, as rows.

A node is one start of one process. Its beat is a moment of the database's clock, so that nodes whose own clocks
differ agree on who has fallen silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, cast, delete, extract, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.tables import INTEGER, nodes


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a process is: an id of its own, the start of the machine it runs on, and which process of that start."""

    node_id: str
    boot_id: str
    pid: int
    process_started: str


@dataclass(frozen=True, slots=True)
class SeenNode:
    """A node as its row shows it. `silent_ms` is how long ago it last said that it lives."""

    identity: NodeIdentity
    silent_ms: int


def database_ms(conn: Connection) -> int:
    """Milliseconds since 1970 by the database's clock."""
    return conn.execute(select(_now_ms(conn))).scalar_one()


def beat(conn: Connection, node: NodeIdentity) -> None:
    """Say that a node lives. One whose row is gone gets it back."""
    now = _now_ms(conn)
    alive = update(nodes).where(nodes.c.node_id == node.node_id).values(beat_ms=now)
    if conn.execute(alive).rowcount == 0:
        register(conn, node)


def register(conn: Connection, node: NodeIdentity) -> None:
    """Store a node that starts now."""
    conn.execute(
        insert(nodes).values(
            node_id=node.node_id,
            boot_id=node.boot_id,
            pid=node.pid,
            process_started=node.process_started,
            beat_ms=_now_ms(conn),
            started_at=utc_now(),
        )
    )


def seen_nodes(conn: Connection) -> list[SeenNode]:
    """Every node that has a row, and how long it has been silent."""
    now = database_ms(conn)
    return [
        SeenNode(NodeIdentity(row.node_id, row.boot_id, row.pid, row.process_started), now - row.beat_ms)
        for row in conn.execute(select(nodes))
    ]


def forget(conn: Connection, node_ids: Sequence[str]) -> None:
    """Remove nodes that have ended."""
    conn.execute(delete(nodes).where(nodes.c.node_id.in_(node_ids)))


def _now_ms(conn: Connection) -> ColumnElement[int]:
    if conn.dialect.name == "postgresql":
        return cast(extract("epoch", func.clock_timestamp()) * 1000, INTEGER)
    # Days since -4713; 2440587.5 of them had passed in 1970.
    return cast((func.julianday("now") - 2440587.5) * 86_400_000.0, INTEGER)
