"""The names that a tenant gave to bundles, as rows."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from amplifier_app_api.models.bundle import RegisteredBundle
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.tables import bundles


def names_of(conn: Connection, *, within: str) -> dict[str, str]:
    """Every name of a tenant with the URI it stands for."""
    rows = conn.execute(select(bundles.c.name, bundles.c.uri).where(bundles.c.tenant_id == within))
    return {row.name: row.uri for row in rows}


def list_bundles(conn: Connection, *, within: str) -> list[RegisteredBundle]:
    """Every name of a tenant, in no order."""
    rows = conn.execute(select(bundles).where(bundles.c.tenant_id == within)).mappings()
    return [RegisteredBundle.model_validate(dict(row)) for row in rows]


def count_bundles(conn: Connection, *, within: str) -> int:
    """How many names a tenant has."""
    return conn.execute(select(func.count()).select_from(bundles).where(bundles.c.tenant_id == within)).scalar_one()


def get_bundle(conn: Connection, name: str, *, within: str) -> RegisteredBundle | None:
    """One name, when the tenant has it."""
    statement = select(bundles).where(bundles.c.tenant_id == within, bundles.c.name == name)
    row = conn.execute(statement).mappings().first()
    return None if row is None else RegisteredBundle.model_validate(dict(row))


def insert_bundle(
    conn: Connection, name: str, *, uri: str, description: str | None, now: datetime | None = None, within: str
) -> RegisteredBundle:
    """Store a new name. One that the tenant has is an `IntegrityError`."""
    moment = now or utc_now()
    conn.execute(
        insert(bundles).values(
            tenant_id=within, name=name, uri=uri, description=description, created_at=moment, updated_at=moment
        )
    )
    return RegisteredBundle(name=name, uri=uri, description=description, created_at=moment, updated_at=moment)


def put_bundle(
    conn: Connection,
    name: str,
    *,
    uri: str,
    description: str | None,
    allow: Callable[[RegisteredBundle | None, int], None],
    within: str,
) -> tuple[RegisteredBundle, bool]:
    """Let a name stand for `uri`, and say whether it is new.

    `allow` sees what the name stood for, and how many names the tenant has, and may refuse by raising. Two
    callers who bring the same new name meet in an `IntegrityError` of the second.
    """
    mine = (bundles.c.tenant_id == within) & (bundles.c.name == name)
    conn.execute(select(bundles.c.name).where(mine).with_for_update())
    before = get_bundle(conn, name, within=within)
    allow(before, count_bundles(conn, within=within))
    if before is None or before.updated_at is None:
        return insert_bundle(conn, name, uri=uri, description=description, within=within), True
    moment = max(utc_now(), before.updated_at + timedelta(microseconds=1))
    conn.execute(update(bundles).where(mine).values(uri=uri, description=description, updated_at=moment))
    return before.model_copy(update={"uri": uri, "description": description, "updated_at": moment}), False


def delete_bundle(conn: Connection, name: str, *, within: str) -> bool:
    """Forget a name. False: there was none."""
    statement = delete(bundles).where(bundles.c.tenant_id == within, bundles.c.name == name)
    return conn.execute(statement).rowcount > 0
