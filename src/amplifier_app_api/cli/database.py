"""A look at a database that changes nothing in it."""

import asyncio
from pathlib import Path

from asyncpg import PostgresError
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from amplifier_app_api.errors import Unavailable
from amplifier_app_api.settings import Settings
from amplifier_app_api.storage.address import parse_address, shown
from amplifier_app_api.storage.migrate import schema_version

TIMEOUT_SECONDS = 5.0


class UnreadableDatabase(Unavailable):
    """The database cannot be reached, or is not one."""


async def schema_in(settings: Settings) -> tuple[str, str | None]:
    """Where the database is, without its password, and the schema it has; None: none yet."""
    try:
        url = parse_address(settings.database_url or settings.data_dir / "app.db")
        if url.drivername == "sqlite":
            path = Path(url.database or "")
            return str(path), await asyncio.to_thread(_schema_in_file, path)
        return shown(url), await _schema_on_server(url)
    except (OSError, ValueError, SQLAlchemyError, PostgresError) as problem:
        # The kind says enough; the text of some drivers repeats the address with its password.
        raise UnreadableDatabase(f"cannot be read: {type(problem).__name__}") from problem


async def _schema_on_server(url: URL) -> str | None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), engine.connect() as connection:
            return await connection.run_sync(schema_version)
    finally:
        await engine.dispose()


def _schema_in_file(path: Path) -> str | None:
    if not path.exists():
        return None
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return schema_version(connection)
    finally:
        engine.dispose()
