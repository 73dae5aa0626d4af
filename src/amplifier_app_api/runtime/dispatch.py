"""Turns that wait are begun: one owned task finds them and gives each to a task of its own.

It looks when it is told that something may have changed (a turn was queued, one ended, the server has started, another
node may have left something) and not otherwise. While nothing waits, the end of a turn costs it nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.queue import work_to_do

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""How many sessions are opened for their turns at a time."""
RETRY_SECONDS = 1.0
"""The pause before it looks again after something was in the way."""

Serve = Callable[[str, str], Awaitable[bool]]
"""Begins the next turn of a session: `(session_id, tenant_id)`. False: not now, though it waits."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the dispatcher asks of the runtime."""

    room: Callable[[], int]
    serve: Serve
    queue_left_over: Callable[[str, str], Awaitable[None]]


class Dispatcher:
    """Begins queued turns, the oldest first, while there is room."""

    def __init__(self, db: Database, work: Work) -> None:
        self._db = db
        self._work = work
        self._changed = asyncio.Event()
        self._waiting = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._serving: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Something waits, or may."""
        self._waiting = True
        self._wake()

    def turn_ended(self) -> None:
        """There is room for another turn; it matters only while one waits."""
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        if self._closed:
            return
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dispatcher")

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._round()
            except DatabaseUnavailable:
                self._look_later()
            except Exception:
                # Whatever is wrong with one round, turns that wait must not wait for ever.
                logger.exception("turns that wait could not be looked for")
                self._look_later()

    async def _round(self) -> None:
        self._waiting = True  # a turn that ends while it looks may leave work that it does not see
        found = await self._db.read(work_to_do, limit=AT_ONCE * 4)
        for session_id, tenant_id in found.left_over:
            await self._work.queue_left_over(session_id, tenant_id)
        for session_id, tenant_id in found.to_serve:
            if len(self._serving) >= AT_ONCE or len(self._serving) >= self._work.room():
                break
            if session_id not in self._serving:
                task = asyncio.create_task(self._serve(session_id, tenant_id), name=f"next turn of {session_id}")
                self._serving[session_id] = task
        self._waiting = found.waiting > 0 or bool(found.left_over)
        if found.left_over:
            self._changed.set()

    async def _serve(self, session_id: str, tenant_id: str) -> None:
        done = False
        try:
            done = await self._work.serve(session_id, tenant_id)
        except DatabaseUnavailable:
            pass
        except Exception:
            # It is tried again: the turn was accepted, and nobody else looks after it.
            logger.exception("a turn that waits could not be begun", extra={"session_id": session_id})
        finally:
            del self._serving[session_id]
            if done:
                self.look()
            else:
                self._look_later()

    def _look_later(self) -> None:
        self._waiting = True
        if self._retry is None and not self._closed:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._retry = None
        self._wake()

    def stop(self) -> None:
        """Begin no more turns. Those that wait keep their places in the database."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()

    async def close(self) -> None:
        """Stop, and wait for what is being begun."""
        self.stop()
        tasks = [task for task in (self._task, *self._serving.values()) if task is not None]
        if self._task is not None:
            self._task.cancel()
        if tasks:
            # What is being begun is begun to its end: its turn is then ended like every other.
            await asyncio.wait(tasks)
