"""The schema, brought up to date inside the caller's transaction.

The caller holds a lock that lets one process migrate at a time. Alembic is imported only when there is
something to do: a server that starts on an up-to-date database reads one row.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from amplifier_app_api.errors import Conflict

HEAD = "0003"
"""The newest migration that this program has."""

FOLDER = Path(__file__).parent / "migrations"


class SchemaTooNew(Conflict):
    """The database was written by a newer version of this program."""

    code = "schema_too_new"
    title = "The database is newer than this program"


def migrate(connection: Connection) -> None:
    """Apply what is missing. A schema this program does not know is `SchemaTooNew`, and stays untouched."""
    current = schema_version(connection)
    if current != HEAD:
        _upgrade(connection, current)


def schema_version(connection: Connection) -> str | None:
    """The last migration that was applied; None on a database without our tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection, current: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise SchemaTooNew(
            f"The database has schema {current}, this program knows up to {HEAD}; start the newer version of it."
        )
    command.upgrade(config, HEAD)
