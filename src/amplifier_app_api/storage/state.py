"""What this installation remembers about itself, by name."""

from sqlalchemy import Connection, insert, select, update

from amplifier_app_api.storage.tables import service_state


def get_state(conn: Connection, key: str) -> str | None:
    """The remembered text."""
    return conn.execute(select(service_state.c.value).where(service_state.c.key == key)).scalar_one_or_none()


def set_state(conn: Connection, key: str, value: str) -> None:
    """Remember a text, in place of an earlier one."""
    changed = conn.execute(update(service_state).where(service_state.c.key == key).values(value=value))
    if changed.rowcount == 0:
        conn.execute(insert(service_state).values(key=key, value=value))
