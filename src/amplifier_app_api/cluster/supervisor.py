"""What a node does over and over: look for turns that were left, and keep to its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from sqlalchemy import Connection

from amplifier_app_api.cluster.node import NodeWatch
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.nodes import SeenNode, forget, register
from amplifier_app_api.storage.ownership import Survey, release_all

logger = logging.getLogger(__name__)

FORGOTTEN_AFTER_MS = 3_600_000
"""How long a node that fell silent keeps its row: it may only have been paused."""


class SignOfLife(Protocol):
    """A heartbeat, as the main loop sees it."""

    def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """Fall silent for good."""
        ...

    def tick(self) -> None:
        """The main loop is alive."""
        ...

    def away(self) -> float:
        """For how many seconds the database has not taken a beat, though it was tried."""
        ...


class Charge(Protocol):
    """What a node has to look after."""

    async def look(self, lives: Callable[[SeenNode], bool]) -> Survey:
        """Take over what was left, let go of what is not ours any more."""
        ...

    def let_go_of_all(self) -> None:
        """Stop everything, and write nothing."""
        ...


class Supervisor:
    """A node from its start to its end. Without a `heartbeat` it has the database to itself."""

    def __init__(
        self,
        db: Database,
        watch: NodeWatch,
        charge: Charge,
        *,
        every: timedelta,
        dead_after: timedelta,
        heartbeat: SignOfLife | None = None,
        after_look: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._db = db
        self._watch = watch
        self._charge = charge
        self._every = every.total_seconds()
        self._let_go_after = (dead_after - every).total_seconds()
        self._heartbeat = heartbeat
        self._after_look = after_look
        self._away = False
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Become known, and take over what was left. Returns when that is ours."""
        await self._db.write(register, self._watch.me)
        if self._heartbeat is not None:
            self._heartbeat.start()
        await self._look()
        self._task = asyncio.create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """Look no more. What runs goes on; the node is alive until `leave`."""
        tasks = {task for task in (self._task, self._looking) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def leave(self) -> None:
        """Give everything up. What ran here has ended or was left."""
        if self._heartbeat is not None:
            await self._heartbeat.stop()  # else a last beat brings the row back
        try:
            await self._db.write(_leave, self._watch.me.node_id)
        except DatabaseUnavailable:
            logger.warning("this server could not say that it stops; others will notice")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            if self._heartbeat is not None:
                self._heartbeat.tick()
                self._mind_the_database(self._heartbeat)
            # In a task of its own: a database that does not answer must not hold up the rest.
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_again(), name="look for turns that were left")

    async def _look_again(self) -> None:
        try:
            await self._look()
        except DatabaseUnavailable:
            logger.warning("the database cannot be asked for turns that were left")
        except Exception:
            # The next look may do better, and no other one is made.
            logger.exception("looking for turns that were left failed")

    def _mind_the_database(self, heartbeat: SignOfLife) -> None:
        away = heartbeat.away() > self._let_go_after
        if away and not self._away:
            logger.error("the database has not been reached for too long; the turns that run here are let go of")
            self._charge.let_go_of_all()
        self._away = away

    async def _look(self) -> None:
        found = await self._charge.look(self._watch.lives)
        ended = [seen.identity.node_id for seen in found.gone if self._may_be_forgotten(seen)]
        if ended:
            await self._db.write(forget, ended)
        if self._after_look is not None:
            await self._after_look()

    def _may_be_forgotten(self, seen: SeenNode) -> bool:
        return self._heartbeat is None or self._watch.has_exited(seen.identity) or seen.silent_ms > FORGOTTEN_AFTER_MS


def _leave(conn: Connection, node_id: str) -> None:
    release_all(conn, node_id)
    forget(conn, [node_id])
