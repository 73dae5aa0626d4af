"""The sign of life of a node, on PostgreSQL.

It is given by a thread with an event loop and a connection of its own, so that a busy pool or a blocked loop does not
make a node look dead. But a node whose main loop does nothing any more is as good as dead: then the thread falls
silent, and others take over.
"""

import asyncio
import logging
import threading
import time
from datetime import timedelta

from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.nodes import NodeIdentity, beat
from amplifier_app_api.storage.postgres import CONNECT_TIMEOUT, connected, server_errors

logger = logging.getLogger(__name__)

STALLED_AFTER_SECONDS = 30.0
"""How long the main loop may say nothing before the node falls silent."""


class Heartbeat:
    """Beats from `start` to `stop`. Times are seconds of this process's clock."""

    def __init__(self, url: URL, node: NodeIdentity, *, every: timedelta, dead_after: timedelta) -> None:
        self._url = url
        self._node = node
        self._every = every.total_seconds()
        self._dead_after = dead_after.total_seconds()
        self._stopped = threading.Event()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        now = time.monotonic()
        self._ticked = now
        self._last = now
        self._steady_since = now
        self._trying_since: float | None = None

    def start(self) -> None:
        """Begin. The node's row is there already."""
        self._thread.start()

    async def stop(self) -> None:
        """Fall silent for good."""
        self._stopped.set()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)
        await asyncio.to_thread(self._thread.join)

    def tick(self) -> None:
        """The main loop is alive."""
        self._ticked = time.monotonic()

    def away(self) -> float:
        """For how long the database has not taken a beat, though it was tried. A process that slept tried nothing."""
        trying = self._trying_since
        if trying is None or time.monotonic() - trying < self._every:
            return 0.0
        return time.monotonic() - self._last

    def steady(self) -> float:
        """For how long beats have been stored without a break."""
        now = time.monotonic()
        return 0.0 if now - self._last > self._dead_after else now - self._steady_since

    def _run(self) -> None:
        asyncio.run(self._beats())

    async def _beats(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        engine = create_async_engine(
            self._url,
            poolclass=NullPool,
            connect_args={
                "timeout": min(CONNECT_TIMEOUT, self._dead_after),
                "command_timeout": self._dead_after,
                "server_settings": {"application_name": "amplifier-api heartbeat"},
            },
        )
        connection: AsyncConnection | None = None
        try:
            while not self._stopped.is_set():
                begun = time.monotonic()
                if begun - self._ticked < STALLED_AFTER_SECONDS:
                    self._trying_since = self._trying_since or begun
                    try:
                        with server_errors():
                            connection = connection or await connected(engine)
                            await _beat(connection, self._node)
                        self._stored(begun)
                    except DatabaseUnavailable:
                        logger.warning("this server's sign of life cannot be stored")
                        connection = await _dropped(connection)
                    except Exception:
                        # The thread must go on: without it others take this node's turns.
                        logger.exception("this server's sign of life could not be stored")
                        connection = await _dropped(connection)
                await self._pause(begun + self._every - time.monotonic())
        finally:
            await _dropped(connection)
            await engine.dispose()

    def _stored(self, begun: float) -> None:
        # Counted from before it was sent: others may have seen it no earlier than that.
        if begun - self._last > self._dead_after:
            self._steady_since = begun
        self._last = begun
        self._trying_since = None

    async def _pause(self, seconds: float) -> None:
        if self._wake is None or self._stopped.is_set():
            return
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return


async def _beat(connection: AsyncConnection, node: NodeIdentity) -> None:
    async with connection.begin():
        await connection.run_sync(beat, node)


async def _dropped(connection: AsyncConnection | None) -> None:
    if connection is not None:
        try:
            await connection.invalidate()
            await connection.close()
        except Exception:
            # A broken connection may break once more while it is closed; it is gone all the same.
            logger.debug("a broken connection could not be closed", exc_info=True)
