"""An HTTP client of bare asyncio streams: what it costs is small and known, and it reports streams as they come.

Load generators count answers, not what is inside one; some report nothing at all for an answer that does not end.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

HOST = "127.0.0.1"
READ_BYTES = 256 * 1024


class Connection:
    """A kept-alive connection that sends one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self._reader = reader
        self._writer = writer
        self._port = port

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a port of this machine."""
        reader, writer = await asyncio.open_connection(HOST, port, limit=2**22)
        return cls(reader, writer, port)

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of the answer; anything but success ends the benchmark."""
        status, raw = await self.request(method, path, body)
        if status >= 300:
            raise SystemExit(f"{method} {path} was answered {status}: {raw.decode()}")
        return json.loads(raw) if raw else None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of an answer that has a length."""
        self._send(method, path, body)
        status, head = await self._head()
        length = next(int(line[15:]) for line in head if line.startswith(b"content-length:"))
        return status, await self._reader.readexactly(length)

    async def stream(self, method: str, path: str, body: Any = None) -> "Stream":
        """Begin a request whose answer is a stream of events."""
        sent = time.perf_counter()
        self._send(method, path, body)
        status, _ = await self._head()
        if status != 200:
            raise SystemExit(f"{method} {path} was answered {status}")
        return Stream(self._reader, sent)

    def _send(self, method: str, path: str, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{self._port}\r\nContent-Length: {len(data)}\r\n"
        kind = "Content-Type: application/json\r\n" if data else ""
        self._writer.write(f"{head}{kind}\r\n".encode() + data)

    async def _head(self) -> tuple[int, list[bytes]]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        return int(lines[0].split()[1]), lines[1:]

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()


@dataclass
class Stream:
    """The bytes of a stream with the moment each piece came. They are looked into when the stream is over."""

    reader: asyncio.StreamReader
    sent: float
    pieces: list[tuple[float, float, bytes]] = field(default_factory=list)

    async def read_piece(self) -> bytes:
        """The next bytes, empty at the end of the connection."""
        piece = await self.reader.read(READ_BYTES)
        self.pieces.append((time.perf_counter(), time.time(), piece))
        return piece

    async def read_until(self, mark: bytes) -> None:
        """Read on until `mark` has come."""
        tail = b""
        while mark not in tail:
            piece = await self.read_piece()
            if not piece:
                raise SystemExit(f"the stream ended before {mark!r}")
            tail = tail[-len(mark) :] + piece

    def deltas(self) -> "Deltas":
        """What came as pieces of the answer."""
        return Deltas.of(self)


@dataclass(frozen=True)
class Deltas:
    """The deltas of one stream.

    `frames` may be fewer than the model's tokens: a reader that is behind gets them joined. `first` and `last` are
    moments of `perf_counter`, `lag` is seconds from the stamp of the first delta to its arrival here.
    """

    text: str
    frames: int
    first: float
    last: float
    lag: float

    @classmethod
    def of(cls, stream: Stream) -> "Deltas":
        """Take the frames of a stream apart."""
        text: list[str] = []
        arrivals: list[float] = []
        lag = 0.0
        rest = b""
        for moment, clock, piece in stream.pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not line.startswith(b'data: {"type":"message.delta"'):
                    continue
                delta = json.loads(line[6:])
                if not arrivals:
                    lag = clock - datetime.fromisoformat(delta["at"]).timestamp()
                arrivals.append(moment)
                text.append(delta["text"])
        if not arrivals:
            raise SystemExit("no delta came")
        return cls("".join(text), len(arrivals), arrivals[0], arrivals[-1], lag)
