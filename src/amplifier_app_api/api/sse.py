"""Events on the wire: server-sent events.

Frames that are ready together go out as one chunk, which is what makes many readers cheap. The stream ends when
its follower does (a turn is over, the server stops) or when the client leaves; either way the follower is
closed, and whatever it followed goes on.
"""

import asyncio
import logging
from datetime import timedelta

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amplifier_app_api.events.stream import Follower

logger = logging.getLogger(__name__)

# The comment shows proxies and clients that bytes flow; browsers would wait seconds before they come back.
OPENING = b": open\nretry: 1000\n\n"
PING = b": hb\n\n"


class EventStream(Response):
    """The answer that shows a follower's events as they come, with a comment after every `ping` of silence."""

    media_type = "text/event-stream"

    def __init__(self, follower: Follower, *, ping: timedelta) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._follower = follower
        self._ping = ping.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send), name="sse writer")
        leaving = asyncio.create_task(_client_left(receive), name="sse reader")
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            leaving.cancel()
            outcomes = await asyncio.gather(writing, leaving, return_exceptions=True)
            await self._follower.close()
        for outcome in outcomes:
            # A connection that broke is a client that left.
            if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
                raise outcome

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": OPENING, "more_body": True})
        while (batch := await self._follower.next_batch(self._ping)) is None or batch:
            chunk = PING if batch is None else b"".join(item.frame() for item in batch)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            # A follower that always has more never waits; without this other readers would.
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
