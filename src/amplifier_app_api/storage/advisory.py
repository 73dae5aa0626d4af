"""A lock that PostgreSQL keeps for as long as one connection lives."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import URL, NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from amplifier_app_api.storage.postgres import CONNECT_TIMEOUT, server_errors

PROBE_EVERY = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=10)

_HOLDER = text(
    """
    SELECT activity.application_name, host(activity.client_addr) AS address, locks.pid
    FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
      AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (locks.classid::bigint << 32) | locks.objid::bigint = :key
    """
)


@asynccontextmanager
async def advisory_lock(url: URL, key: int, *, on_lost: Callable[[], None] | None = None) -> AsyncGenerator[str | None]:
    """Hold the lock `key` of a database on a connection of its own. Yields None, or who holds it instead.

    `on_lost` is called once when the connection ends before the block does: told by the socket, or by a probe
    where the network swallows everything.
    """
    name = f"amplifier-api {socket.gethostname()[:30]} process {os.getpid()}"
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": CONNECT_TIMEOUT, "server_settings": {"application_name": name}},
    )
    with server_errors():
        connection = await engine.connect()
    try:
        with server_errors():
            holder = await _take(connection, key)
        if holder is not None:
            yield holder
            return
        watch = asyncio.create_task(_watch(connection, on_lost), name="advisory-lock")
        try:
            yield None
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    finally:
        await connection.close()
        await engine.dispose()


async def _take(connection: AsyncConnection, key: int) -> str | None:
    taken = await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key})
    if taken.scalar_one():
        return None
    row = (await connection.execute(_HOLDER, {"key": key})).first()
    if row is None:
        return "it has just let go"
    return f"{row.application_name or f'backend {row.pid}'} at {row.address or 'a local socket'}"


async def _watch(connection: AsyncConnection, on_lost: Callable[[], None] | None) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    closed = asyncio.Event()

    def tell(_: Any) -> None:
        closed.set()

    driver.add_termination_listener(tell)
    while not driver.is_closed():
        try:
            await asyncio.wait_for(closed.wait(), PROBE_EVERY.total_seconds())
        except TimeoutError:
            await _probe(driver)
    if on_lost is not None:
        on_lost()


async def _probe(driver: Any) -> None:
    """Close a connection that does not answer."""
    try:
        await driver.fetchval("SELECT 1", timeout=PROBE_TIMEOUT.total_seconds())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        driver.terminate()
