"""Server-sent events: what goes over the wire, and when it ends."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from amplifier_app_api.api.sse import CHUNK_BYTES, OPENING, PING, EventStream


class Frame:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def frame(self) -> bytes:
        return b"data: " + self._data + b"\n\n"


class Script:
    """A follower that plays batches; after the last one it waits until it is closed."""

    def __init__(self, *batches: Sequence[Frame] | None) -> None:
        self._batches = list(batches)
        self.closed = asyncio.Event()
        self.waited: list[float] = []

    async def next_batch(self, timeout: float) -> Sequence[Frame] | None:  # noqa: ASYNC109
        self.waited.append(timeout)
        if self._batches:
            return self._batches.pop(0)
        await self.closed.wait()
        return []

    async def close(self) -> None:
        self.closed.set()


class Browser:
    """The client's end of an ASGI connection."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.got = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        self.got.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]


async def answer(script: Script, browser: Browser) -> None:
    stream = EventStream(script, ping=timedelta(seconds=10))
    async with asyncio.timeout(5):
        await stream({"type": "http"}, browser.receive, browser.send)


async def test_frames_that_are_ready_together_are_one_chunk_and_the_end_closes_the_follower() -> None:
    script, browser = Script([Frame(b"1"), Frame(b"2")], [Frame(b"3")], []), Browser()

    await answer(script, browser)

    assert browser.bodies == [OPENING, b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n", b""]
    assert browser.sent[-1]["more_body"] is False
    assert script.closed.is_set()


async def test_what_is_long_goes_out_in_pieces_so_that_a_reader_is_waited_for() -> None:
    script, browser = Script([Frame(b"1"), Frame(b"x" * 3 * CHUNK_BYTES)], []), Browser()

    await answer(script, browser)

    pieces = browser.bodies[1:-1]
    assert b"".join(pieces) == b"data: 1\n\ndata: " + b"x" * 3 * CHUNK_BYTES + b"\n\n"
    assert [len(piece) for piece in pieces[:-1]] == [CHUNK_BYTES] * 3


async def test_a_reader_that_takes_nothing_any_more_is_left() -> None:
    class Stuck(Browser):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if len(self.sent) == 3:
                await self.left.wait()

    script, browser = Script([Frame(b"1")], [Frame(b"2")]), Stuck()
    stream = EventStream(script, ping=timedelta(seconds=10), patience=timedelta(milliseconds=1))
    async with asyncio.timeout(5):
        await stream({"type": "http"}, browser.receive, browser.send)

    assert browser.bodies == [OPENING, b"data: 1\n\n"]
    assert script.closed.is_set()


async def test_a_reader_for_whom_there_is_nothing_is_not_left() -> None:
    script, browser = Script([Frame(b"1")]), Browser()
    stream = EventStream(script, ping=timedelta(seconds=10), patience=timedelta(milliseconds=1))
    answering = asyncio.create_task(stream({"type": "http"}, browser.receive, browser.send))
    for _ in range(20):
        assert not (await asyncio.wait({answering}, timeout=0.001))[0]
    browser.left.set()
    await answering

    assert browser.bodies == [OPENING, b"data: 1\n\n"]


async def test_the_headers_keep_proxies_from_holding_events_back() -> None:
    browser = Browser()

    await answer(Script([]), browser)

    headers = {name.decode(): value.decode() for name, value in browser.sent[0]["headers"]}
    assert headers == {
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "content-type": "text/event-stream; charset=utf-8",
    }
    assert browser.bodies[0] == b": open\nretry: 1000\n\n"


async def test_silence_is_a_comment() -> None:
    script, browser = Script(None, None, [Frame(b"1")], []), Browser()

    await answer(script, browser)

    assert browser.bodies == [OPENING, PING, PING, b"data: 1\n\n", b""]
    assert script.waited == [10.0] * 4


async def test_a_client_that_leaves_ends_the_stream_and_closes_the_follower() -> None:
    script, browser = Script([Frame(b"1")]), Browser()
    browser.left.set()

    await answer(script, browser)

    assert script.closed.is_set()


async def test_a_connection_that_breaks_is_a_client_that_left() -> None:
    class Broken(Browser):
        async def send(self, message: Any) -> None:
            raise ConnectionResetError

    script = Script([Frame(b"1")])

    await answer(script, Broken())

    assert script.closed.is_set()


async def test_a_bug_in_the_follower_is_not_hidden() -> None:
    class Faulty(Script):
        async def next_batch(self, timeout: float) -> Sequence[Frame] | None:  # noqa: ASYNC109
            raise RuntimeError("bug")

    script = Faulty()

    with pytest.raises(RuntimeError, match="bug"):
        await answer(script, Browser())
    assert script.closed.is_set()
