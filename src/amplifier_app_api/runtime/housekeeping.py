"""What is thrown away in the background when its time is over: events of old, keys of repeated requests.

Small transactions with pauses between them: a database that is busy with turns hardly notices.
"""

import asyncio
import logging
from datetime import timedelta

from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.retention import prune_keys, prune_session, sessions_with_old_events

logger = logging.getLogger(__name__)

EVERY = timedelta(hours=1)
BATCH = 100


class Housekeeping:
    """Prunes at the start and then every hour, until it is closed. `events` None keeps the log for ever."""

    def __init__(self, db: Database, *, events: timedelta | None, keys: timedelta) -> None:
        self._db = db
        self._events = events
        self._keys = keys
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def close(self) -> None:
        """Stop, and wait until nothing of it runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            try:
                await self.tidy()
            except DatabaseUnavailable:
                logger.warning("old rows could not be pruned now", exc_info=True)
            except Exception:
                # A background loop: one failure must not end it for the life of the process.
                logger.exception("pruning failed")
            await asyncio.sleep(EVERY.total_seconds())

    async def tidy(self) -> None:
        """Prune everything whose time is over now."""
        before = utc_now() - self._keys
        gone = BATCH
        while gone == BATCH:
            gone = await self._db.write(prune_keys, before, limit=BATCH)
        if self._events is None:
            return
        before = utc_now() - self._events
        stuck: set[str] = set()
        while found := await self._db.read(sessions_with_old_events, before, limit=BATCH + len(stuck)):
            fresh = [(session_id, tenant) for session_id, tenant in found if session_id not in stuck]
            if not fresh:
                return
            for session_id, tenant in fresh:
                pruned = await self._db.write(prune_session, session_id, within=tenant, before=before)
                if pruned is None or not pruned.events:
                    stuck.add(session_id)  # a turn that runs for so long still needs them
