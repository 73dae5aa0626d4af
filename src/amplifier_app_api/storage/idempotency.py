"""Keys of requests that are made once, however often they are sent.

A key is kept in the transaction that makes what the request asks for: both are there, or neither is.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.tables import idempotency_keys


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A key that a caller gave a request. `route` is method and path, `request_hash` stands for what was asked."""

    tenant_id: str
    route: str
    key: str
    request_hash: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request with this key made. `answer` is what its caller was told, where no row says it."""

    request_hash: str
    resource_id: str
    answer: Any


class KeyTaken(Exception):
    """Rolls the transaction back: another request with the same key was first."""


def keep_key(conn: Connection, key: RequestKey | None, resource_id: str, *, answer: Any = None) -> None:
    """Keep the key of the request that makes `resource_id`, in the same transaction. Without a key nothing happens.

    `KeyTaken`: another request has made it. Two that come at once wait for each other here.
    """
    if key is None:
        return
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    statement = (
        insert(idempotency_keys)
        .values(
            tenant_id=key.tenant_id,
            route=key.route,
            key=key.key,
            request_hash=key.request_hash,
            resource_id=resource_id,
            answer=answer,
            created_at=utc_now(),
        )
        .on_conflict_do_nothing()
    )
    if conn.execute(statement).rowcount == 0:
        raise KeyTaken


def kept_answer(conn: Connection, key: RequestKey) -> KeptAnswer | None:
    """What a request with this key made before."""
    columns = idempotency_keys.c
    statement = select(columns.request_hash, columns.resource_id, columns.answer).where(
        columns.tenant_id == key.tenant_id, columns.route == key.route, columns.key == key.key
    )
    row = conn.execute(statement).first()
    return None if row is None else KeptAnswer(row.request_hash, row.resource_id, row.answer)
