"""SQLite: one thread writes, a few read.

A transaction runs whole in its thread, so a caller that goes away never leaves half of one. Only the one
writer connection writes and checkpoints: it needs no lock of ours, and the SQLite releases whose log can be
damaged by two connections doing so at once never see two.
"""

import asyncio
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.migrate import migrate

logger = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_MS = 5000

_PRAGMAS = (
    f"busy_timeout = {BUSY_TIMEOUT_MS}",  # first: the others may have to wait
    "foreign_keys = ON",
    "temp_store = MEMORY",
    "cache_size = -20000",
)
_WRITER_PRAGMAS = (
    *_PRAGMAS,
    "journal_mode = WAL",
    "synchronous = FULL",  # a commit that was answered survives a power cut
    f"journal_size_limit = {64 * 1024 * 1024}",
)
# Not for what a wrong statement causes: that is a bug, and must look like one.
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL,
}


class SqliteEngine:
    """One database file, opened by one writer connection and up to `READERS` read-only ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: _Writer | None = None
        self._readers: _Readers | None = None

    async def connect(self) -> None:
        if self._writer is not None:
            raise RuntimeError("the database is connected already")
        warn_about_the_log(sqlite3.sqlite_version_info)
        writer = _Writer(self._path)
        try:
            await writer.run(migrate)
        except BaseException:
            await asyncio.to_thread(writer.close)
            raise
        self._writer, self._readers = writer, _Readers(self._path)

    async def disconnect(self) -> None:
        writer, readers = self._writer, self._readers
        self._writer = self._readers = None
        # Readers first: whoever closes last checkpoints, and that must be the writer.
        if readers is not None:
            await asyncio.to_thread(readers.close)
        if writer is not None:
            await asyncio.to_thread(writer.close)

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self._writer is None:
            raise RuntimeError("the database is not connected")
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        if self._readers is None:
            raise RuntimeError("the database is not connected")
        return await self._readers.run(work)


class _Writer:
    """The connection that writes, and the thread it lives in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = _engine(lambda: sqlite3.connect(path, isolation_level=None), _WRITER_PRAGMAS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        return await _submit(self._thread, self._transaction, work)

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        with _file_errors():
            connection = self._connection or self._open()
            driver = _driver(connection)
            driver.execute("BEGIN IMMEDIATE")
            try:
                with connection.begin():
                    return work(connection)
            finally:
                if driver.in_transaction:  # the commit itself failed
                    driver.rollback()

    def _open(self) -> Connection:
        create_file(self._path)
        self._connection = self._engine.connect()
        return self._connection

    def close(self) -> None:
        """Finish what is queued, then close. Blocks."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class _Readers:
    """Read-only connections, opened as they are needed."""

    def __init__(self, path: Path) -> None:
        uri = f"{path.as_uri()}?mode=ro"
        self._engine = _engine(
            # Read in one thread at a time, but not always in the same one.
            lambda: sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False),
            _PRAGMAS,
        )
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")
        self._idle: deque[Connection] = deque()

    async def run(self, work: Callable[[Connection], T]) -> T:
        return await _submit(self._threads, self._snapshot, work)

    def _snapshot(self, work: Callable[[Connection], T]) -> T:
        with _file_errors():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._engine.connect()
            driver = _driver(connection)
            try:
                driver.execute("BEGIN")
                with connection.begin():
                    return work(connection)
            finally:
                if driver.in_transaction:
                    driver.rollback()
                self._idle.append(connection)

    def close(self) -> None:
        """Finish what is queued, then close. Blocks."""
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().close()


def _engine(open_driver: Callable[[], sqlite3.Connection], pragmas: tuple[str, ...]) -> Engine:
    """Makes connections that stay open and share compiled statements. `BEGIN` is ours to say, not the driver's."""

    def opened() -> sqlite3.Connection:
        driver = open_driver()
        try:
            for pragma in pragmas:
                driver.execute(f"PRAGMA {pragma}").close()
        except BaseException:
            driver.close()
            raise
        return driver

    # Parameters hold texts and tags of users; an error that shows them would put them into a log.
    return create_engine("sqlite://", creator=opened, poolclass=NullPool, hide_parameters=True)


def _driver(connection: Connection) -> sqlite3.Connection:
    driver: Any = connection.connection.driver_connection
    return driver


async def _submit(
    threads: ThreadPoolExecutor, run: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]
) -> T:
    future: Future[T] = threads.submit(run, work)
    return await asyncio.wrap_future(future)


def create_file(path: Path) -> None:
    """An empty file that only its owner may read, in a folder made alike where there is none."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseUnavailable(f"The database file {path} cannot be opened: {error.strerror}.") from error


@contextmanager
def _file_errors() -> Generator[None]:
    """The failures of the file, not of a statement, as `DatabaseUnavailable`."""
    try:
        yield
    except (sqlite3.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code: int = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code not in _UNAVAILABLE:
            raise
        raise DatabaseUnavailable(f"The database cannot be used now: {cause}.") from error


def warn_about_the_log(version: tuple[int, int, int]) -> None:
    """Say so when the SQLite this Python links can damage its write-ahead log."""
    if (3, 7, 0) <= version <= (3, 51, 2):
        logger.warning(
            "this SQLite can damage a database that two processes write at once; let no other program write to it",
            extra={"sqlite": ".".join(map(str, version)), "fixed_in": "3.51.3"},
        )
