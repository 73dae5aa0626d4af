"""The database: one unit of work is one synchronous function over a connection, on either engine.

    async with Database("app.db") as db:
        config = await db.read(get_config, config_id, within="default")

The function runs in one transaction. It may be run again when the database chose it as the victim of a
deadlock, so it does nothing but SQL.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, text

from amplifier_app_api.storage.address import parse_address
from amplifier_app_api.storage.engine import DatabaseUnavailable, Engine
from amplifier_app_api.storage.sqlite import SqliteEngine

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """A database that is opened, migrated and used. `url` never shows its password when printed."""

    def __init__(self, path_or_url: str | Path) -> None:
        self.url: URL = parse_address(path_or_url)
        self.dialect: Literal["sqlite", "postgresql"]
        self.path: Path | None
        self._engine: Engine
        if self.url.drivername == "sqlite":
            path = Path(self.url.database or "")
            self.dialect, self.path, self._engine = "sqlite", path, SqliteEngine(path)
        else:
            # Its libraries cost a third of a second that a server on SQLite need not wait for.
            from amplifier_app_api.storage.postgres import PostgresEngine

            self.dialect, self.path, self._engine = "postgresql", None, PostgresEngine(self.url)

    def __repr__(self) -> str:
        return f"Database({str(self.url)!r})"

    async def connect(self) -> None:
        """Open, and bring the schema up to date under a lock.

        A schema newer than this program is `SchemaTooNew`, a server or file that cannot be opened
        `DatabaseUnavailable`.
        """
        await self._engine.connect()

    async def disconnect(self) -> None:
        """Let what runs finish, and close. Doing it twice is fine."""
        await self._engine.disconnect()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def write(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(conn, …)` in one transaction, and return what it returned after the commit.

        What `fn` raises rolls back. A caller that is cancelled is released at once; a function that has begun
        still runs to its end, commit included.
        """
        return await self._engine.write(partial(_call, fn, args, kwargs))

    async def read(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(conn, …)` on one snapshot of the data; it cannot write."""
        return await self._engine.read(partial(_call, fn, args, kwargs))

    async def ping(self) -> bool:
        """Whether the database answers."""
        try:
            return await self.read(_answers)
        except DatabaseUnavailable:
            return False


def _call(fn: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object], conn: Connection) -> T:
    return fn(conn, *args, **kwargs)


def _answers(conn: Connection) -> bool:
    return conn.execute(text("SELECT 1")).scalar_one() == 1
