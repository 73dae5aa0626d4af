"""Makes rows of answers that are being made, for all running turns of this process together.

While something is said, a batch is written every `every`; the task that does so ends when nothing is left to write,
so that an idle server writes nothing. What is settled sooner never becomes a row: a fast turn costs none.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import timedelta

from amplifier_app_api.events.tail import Tail
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.deltas import StoredDelta, TurnPieces, append_deltas
from amplifier_app_api.storage.engine import DatabaseUnavailable

logger = logging.getLogger(__name__)

ALONE = timedelta(milliseconds=250)
TOGETHER = timedelta(milliseconds=50)
"""On PostgreSQL others may follow the session from another process: they read the rows."""

LAST_WRITE_SECONDS = 2.0
TURNS_AT_ONCE = 500
"""How many turns share a transaction."""


class DeltaLog:
    """Takes the tails that have something to write, and the one task that writes."""

    def __init__(self, db: Database, every: timedelta | None = None) -> None:
        self._db = db
        self._every = (every or (ALONE if db.dialect == "sqlite" else TOGETHER)).total_seconds()
        self._waiting: dict[Tail, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._warned = False

    def add(self, tail: Tail) -> None:
        """There is text of this turn that no row has."""
        if self._closed:
            return
        self._waiting[tail] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="write deltas")

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._every)
            await self.flush()

    async def flush(self) -> None:
        """Write what there is now. While the database is away it stays, for the next time."""
        tails, self._waiting = list(self._waiting), {}
        for start in range(0, len(tails), TURNS_AT_ONCE):
            await self._write(tails[start : start + TURNS_AT_ONCE])

    async def _write(self, tails: Sequence[Tail]) -> None:
        taken = [(tail, tail.take()) for tail in tails if tail.unwritten]
        batch = [_pieces_of(tail, pieces) for tail, pieces in taken]
        if not batch:
            return
        try:
            busy = await self._db.write(append_deltas, batch)
        except DatabaseUnavailable:
            self._wait_again([tail for tail, _ in taken], in_doubt=True)
            if not self._warned:
                self._warned = True
                logger.warning("text of running turns could not be stored yet", exc_info=True)
            return
        except Exception:
            # A background loop: what cannot be stored is lost only if this process ends before the message is whole.
            logger.exception("text of running turns could not be stored")
            for tail, pieces in taken:
                tail.wrote(pieces)
            return
        self._warned = False
        for tail, pieces in taken:
            if tail.turn_id not in busy:
                tail.wrote(pieces)
        self._wait_again([tail for tail, _ in taken], in_doubt=False)

    def _wait_again(self, tails: Sequence[Tail], *, in_doubt: bool) -> None:
        """Keep the tails that have something to write still. A turn that has ended closes its tail."""
        for tail in tails:
            if in_doubt:
                tail.failed()
            if not tail.closed and tail.unwritten:
                self._waiting[tail] = None

    async def close(self) -> None:
        """Write what is there, for whoever goes on with the turns, and nothing more."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self.flush()
        self._waiting.clear()


def _pieces_of(tail: Tail, pieces: Sequence[StoredDelta]) -> TurnPieces:
    return TurnPieces(
        tenant_id=tail.tenant_id,
        session_id=tail.session_id,
        turn_id=tail.turn_id,
        epoch=tail.epoch,
        pieces=pieces,
        before_insert=tail.still_wanted,
        again=tail.in_doubt,
    )
