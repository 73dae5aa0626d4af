"""The sessions in this process's memory: one entry each, locked while it is used, bounded, closed when idle."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.refusals import SessionNotFound, TooManyTurns

logger = logging.getLogger(__name__)

T = TypeVar("T")

LATE_TASK_SECONDS = 1.0
"""How long the end of the process waits for a task that nobody waits for."""


class LiveSessions:
    """The entries, and the tasks that work on them."""

    def __init__(self, *, size: int, idle_close: timedelta) -> None:
        self._size = size
        self._idle_close = idle_close
        self._entries: OrderedDict[str, LiveSession] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lent: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, session_id: str, *, within: str) -> LiveSession | None:
        """The entry of a session of this tenant, when it is in memory."""
        live = self._entries.get(session_id)
        return live if live is not None and live.tenant_id == within else None

    @asynccontextmanager
    async def entry(self, session_id: str, *, within: str) -> AsyncGenerator[LiveSession]:
        """The entry of a session, locked; a new one when it is not in memory. One that was let go of is not used."""
        while True:
            live = self._entries.get(session_id)
            if live is None:
                live = self._entries[session_id] = LiveSession(session_id, within)
            elif live.tenant_id != within:
                raise SessionNotFound(session_id)
            async with live.lock:
                if live.gone:
                    continue
                try:
                    yield live
                finally:
                    if live.opened is None and live.running is None:
                        self.forget(live)
                return

    async def make_room(self, live: LiveSession) -> None:
        """Close what was used longest ago while there are too many. `live` stays, and what runs in another's place."""
        if live.session_id in self._lent:
            return
        while len(self._entries) - sum(session_id in self._entries for session_id in self._lent) > self._size:
            others = (other for other in self._entries.values() if other is not live and other.evictable)
            oldest = next((other for other in others if other.session_id not in self._lent), None)
            if oldest is None:
                raise TooManyTurns("this server holds as many sessions as it may; all of them are busy")
            await self._close_unless_busy(oldest)

    def lend(self, session_id: str) -> None:
        """A session is about to work for another one: it takes no place of its own."""
        self._lent.add(session_id)

    async def take_back(self, session_id: str) -> None:
        """A session works for nobody any more; when nothing happens in it, it is closed."""
        if session_id not in self._lent:
            return
        self._lent.discard(session_id)
        live = self._entries.get(session_id)
        if live is not None and live.runner is not None:
            await asyncio.wait({live.runner})
        if live is not None and live.evictable and not live.gone:
            await self._close_unless_busy(live)

    async def _close_unless_busy(self, live: LiveSession) -> None:
        async with live.lock:  # somebody may have been before us, with a message
            if live.running is None and not live.gone:
                await self.close(live)

    async def close(self, live: LiveSession) -> None:
        """Let go of a session; its lock is held."""
        self.forget(live)
        await self.shut(live)

    async def shut(self, live: LiveSession) -> None:
        """Close what an entry holds, and keep the entry while it is locked. A loop that still runs closes its own."""
        opened, live.opened = live.opened, None
        if opened is not None and (live.runner is None or live.runner.done()):
            await opened.kernel.close()

    def forget(self, live: LiveSession) -> None:
        """Take the entry out of the table."""
        live.awake()
        live.gone = True
        if self._entries.get(live.session_id) is live:
            del self._entries[live.session_id]

    def idle(self, live: LiveSession) -> None:
        """The session was used now; when nothing else happens it is closed after a while."""
        live.awake()
        if live.gone or live.opened is None:
            return
        self._entries.move_to_end(live.session_id)
        delay = self._idle_close.total_seconds()
        live.idle_timer = asyncio.get_running_loop().call_later(delay, self._close_idle, live)

    def _close_idle(self, live: LiveSession) -> None:
        if live.evictable and not live.gone:
            self.own(self._close_unless_busy(live), f"close idle session {live.session_id}")

    def own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something that belongs to the process and not to who asked for it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def whole(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run something to its end even when the caller leaves in the middle."""
        return await asyncio.shield(self.own(work, name))

    async def close_all(self) -> None:
        """Close every session."""
        for live in list(self._entries.values()):
            async with live.lock:
                await self.close(live)

    async def end_tasks(self) -> None:
        """Wait a moment for what still runs, then cancel it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=LATE_TASK_SECONDS)
        for task in late:
            logger.warning("a task did not end in time", extra={"task": task.get_name()})
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=LATE_TASK_SECONDS)
