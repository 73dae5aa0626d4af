"""PostgreSQL through asyncpg.

A transaction runs in a task of its own: a caller that is cancelled lets go at once, and the transaction still
ends in a commit or a rollback that nobody interrupted.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.migrate import migrate

T = TypeVar("T")

CONNECTIONS = 16
CONNECT_TIMEOUT = 10
STATEMENT_TIMEOUT = 60
IDLE_TIMEOUT = 15
"""Seconds after which the server ends a transaction that says nothing more. A process that is paused or cut off in the
middle of one would keep its rows from everybody else, and a session from whoever is to take it over."""
MIGRATION_LOCK = 0x616D_706C_6900

_TRIES = 5
_TRY_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock: this transaction was the victim
_ENDED = {"57P01", "57P02", "57P05", "25P03"}  # by an operator, by a crash, idle for too long
# Connection, idle for too long, authorization, no such database, resources, operator intervention, its system.
_UNAVAILABLE = ("08", "25P03", "28", "3D", "53", "57P", "58")


class PostgresEngine:
    """A pool of connections to one database."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._engine: AsyncEngine | None = None
        self._snapshots: AsyncEngine | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def connect(self) -> None:
        if self._engine is not None:
            raise RuntimeError("the database is connected already")
        engine = create_async_engine(
            self._url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=STATEMENT_TIMEOUT,
            hide_parameters=True,  # they hold texts of users, and errors are logged
            connect_args={
                "timeout": CONNECT_TIMEOUT,
                "command_timeout": STATEMENT_TIMEOUT,
                "server_settings": {
                    "application_name": "amplifier-api",
                    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
                },
            },
        )
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        event.listen(engine.sync_engine, "handle_error", _notice_lost)
        try:
            await _transaction(engine, _migrate)
        except DatabaseUnavailable as error:
            await engine.dispose()
            # Said to who starts the server; what a caller of the API is told names no host and no user.
            raise DatabaseUnavailable(f"The database {self._url} cannot be used: {_reason(error)}.") from error
        except BaseException:
            await engine.dispose()
            raise
        self._engine = engine
        # One snapshot for all statements of a read, as SQLite gives it.
        self._snapshots = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    async def disconnect(self) -> None:
        engine, self._engine, self._snapshots = self._engine, None, None
        if engine is None:
            return
        if self._running:
            await asyncio.wait(self._running)
        await engine.dispose()

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._run(self._engine, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._run(self._snapshots, work)

    async def _run(self, engine: AsyncEngine | None, work: Callable[[Connection], T]) -> T:
        if engine is None:
            raise RuntimeError("the database is not connected")
        task = asyncio.create_task(_transaction(engine, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


async def _transaction(engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
    lost = False
    tries = 0
    with server_errors():
        while True:
            tries += 1
            committing = False
            try:
                async with aclosing(await connected(engine)) as connection, connection.begin():
                    result = await connection.run_sync(work)
                    committing = True
                return result
            except DBAPIError as error:
                if _sqlstate(error) in _TRY_AGAIN and tries < _TRIES:
                    continue
                # What was not asked to commit is rolled back for certain. Once: work that ends the server must not
                # end it again and again.
                if not error.connection_invalidated or committing or lost:
                    raise
                lost = True


async def connected(engine: AsyncEngine) -> AsyncConnection:
    """A connection, to be closed. `DatabaseUnavailable` when there is none to be had, for whatever reason."""
    try:
        return await engine.connect()
    except DBAPIError as error:
        raise DatabaseUnavailable("The database takes no connection now.") from error


def _migrate(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    migrate(connection)


def _refuse_closed(driver: Any, record: Any, proxy: Any) -> None:
    """After a restart of the server the pool holds dead connections; the driver knows which, without asking."""
    if driver.driver_connection.is_closed():
        raise DisconnectionError


def _notice_lost(context: ExceptionContext) -> None:
    """A farewell that came before the end of the stream leaves a connection that is not closed yet, and of no use:
    the driver refuses every further statement on it."""
    cause = context.original_exception.__cause__
    if isinstance(cause, asyncpg.InternalClientError) or getattr(cause, "sqlstate", None) in _ENDED:
        context.is_disconnect = True


@contextmanager
def server_errors() -> Generator[None]:
    """The failures of the server or of the way to it, not of a statement, as `DatabaseUnavailable`."""
    try:
        yield
    except (OSError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"The database cannot be reached: {type(error).__name__}.") from error
    except DBAPIError as error:
        if error.connection_invalidated or _sqlstate(error).startswith(_UNAVAILABLE):
            raise DatabaseUnavailable("The database cannot be used now.") from error
        raise


def _reason(error: DatabaseUnavailable) -> str:
    cause = error.__cause__
    return str(cause.orig if isinstance(cause, DBAPIError) else cause)


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
