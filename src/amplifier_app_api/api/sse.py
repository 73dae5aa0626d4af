"""Events on the wire: server-sent events.

Frames that are ready together go out as one chunk, which is what makes many readers cheap; a chunk has an end, so that
a reader that takes its time is waited for. The stream ends when its follower does (a turn is over, the server stops),
when the client leaves, or when it takes nothing any more; either way the follower is closed, and whatever it followed
goes on.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amplifier_app_api.events.stream import Follower, StreamItem

logger = logging.getLogger(__name__)

# The comment shows proxies and clients that bytes flow; browsers would wait seconds before they come back.
OPENING = b": open\nretry: 1000\n\n"
PING = b": hb\n\n"


CHUNK_BYTES = 64 * 1024
PATIENCE = timedelta(seconds=30)


class EventStream(Response):
    """The answer that shows a follower's events as they come, with a comment after every `ping` of silence.

    A client that has not taken a single chunk for the time of `patience` is left.
    """

    media_type = "text/event-stream"

    def __init__(self, follower: Follower, *, ping: timedelta, patience: timedelta = PATIENCE) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._follower = follower
        self._ping = ping.total_seconds()
        self._patience = patience.total_seconds()
        self._begun = self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send), name="sse writer")
        leaving = asyncio.create_task(_client_left(receive), name="sse reader")
        try:
            await self._until_over(writing, leaving)
        finally:
            writing.cancel()
            leaving.cancel()
            outcomes = await asyncio.gather(writing, leaving, return_exceptions=True)
            await self._follower.close()
        for outcome in outcomes:
            # A connection that broke is a client that left.
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome

    async def _until_over(self, *tasks: asyncio.Task[None]) -> None:
        stuck = None  # the chunk that was on its way when we looked before
        while not (await asyncio.wait(tasks, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED))[0]:
            if self._taken < self._begun == stuck:
                logger.info("a reader took nothing for too long; it can come back")
                return
            stuck = self._begun

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send(send, OPENING)
        while (batch := await self._follower.next_batch(self._ping)) is None or batch:
            for chunk in [PING] if batch is None else _chunks(batch):
                await self._send(send, chunk)
            # A follower that always has more never waits; without this other readers would.
            await asyncio.sleep(0)
        await self._send(send, b"", more=False)

    async def _send(self, send: Send, chunk: bytes, *, more: bool = True) -> None:
        self._begun += 1
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
        self._taken = self._begun


def _chunks(batch: Sequence[StreamItem]) -> Iterator[bytes]:
    """The frames of a batch, joined up to the size of a chunk; one that is longer is cut."""
    frames = b"".join(item.frame() for item in batch)
    if len(frames) <= CHUNK_BYTES:
        yield frames
        return
    for start in range(0, len(frames), CHUNK_BYTES):
        yield frames[start : start + CHUNK_BYTES]


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
