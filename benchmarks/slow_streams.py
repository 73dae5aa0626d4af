"""1,000 sessions that answer at the pace of a model, each to a reader of its own, in one process.

What is measured is how long a piece of an answer is under way, from its stamp in the server to the reader in another
process of the same machine, while all streams run; and what the server holds for one of them. Meanwhile what is being
said is made rows of, in batches for all streams.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from datetime import datetime

from figures import Figure, percentile
from in_process import config_text
from machine import resident_bytes
from running import main
from server import serving
from wire import Connection, Stream

STREAMS = 1_000
TOKENS = 40
DELAY_MS = 500
AT_ONCE = 20
END = b"event: turn.completed"
KB = 1_000


async def measure() -> list[Figure]:
    """Every figure of this page."""
    settings = {"live_sessions": str(STREAMS + 10), "max_running_turns": str(STREAMS + 10)}
    async with serving(**settings) as server:
        connection = await Connection.open(server.port)
        body = {"name": "slow", "yaml_content": config_text(tokens=TOKENS, delay_ms=DELAY_MS)}
        config = (await connection.json("POST", "/configs", body))["config_id"]
        sessions = [
            (await connection.json("POST", "/sessions", {"config_id": config}))["session_id"] for _ in range(STREAMS)
        ]
        idle = resident_bytes(server.pid)
        gate = asyncio.Semaphore(AT_ONCE)
        open_streams: list[tuple[Connection, Stream]] = []

        async def begin(session: str) -> None:
            async with gate:
                reader = await Connection.open(server.port)
                open_streams.append(
                    (reader, await reader.stream("POST", f"/sessions/{session}/stream", {"message": "go"}))
                )

        reading = [asyncio.create_task(begin(session)) for session in sessions]
        await asyncio.gather(*reading)
        all_open = time.time()
        ends = [asyncio.create_task(stream.read_until(END)) for _, stream in open_streams]
        await asyncio.sleep(DELAY_MS / 1000 * TOKENS / 4)
        running = resident_bytes(server.pid)
        unfinished, last_counted = sum(not end.done() for end in ends), time.time()
        await asyncio.gather(*ends)
        for reader, _ in open_streams:
            await reader.close()
        await connection.close()
    if unfinished < STREAMS:
        raise SystemExit(f"only {unfinished} streams ran at once")
    pieces = [piece for _, stream in open_streams for piece in _pieces(stream)]
    if len(pieces) != STREAMS * TOKENS:
        raise SystemExit(f"{len(pieces)} pieces came, not {STREAMS * TOKENS}")
    lags = [lag for arrived, lag in pieces if all_open < arrived - lag < last_counted]
    return [
        Figure(
            f"{STREAMS:,} streams: a piece from the server to its reader",
            statistics.median(lags) * 1000,
            "ms",
            percentile(lags, 95) * 1000,
        ),
        Figure(f"{STREAMS:,} streams: the same, 99th percentile", percentile(lags, 99) * 1000, "ms"),
        Figure("memory of a running stream, beside its live session", (running - idle) / STREAMS / KB, "kB"),
        Figure("the server with all of them", running / KB / KB, "MB"),
    ]


def _pieces(stream: Stream) -> Iterator[tuple[float, float]]:
    """When each piece of the answer arrived, and how many seconds after its stamp."""
    rest = b""
    for _, clock, data in stream.pieces:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b'data: {"type":"message.delta"'):
                yield clock, clock - datetime.fromisoformat(json.loads(line[6:])["at"]).timestamp()


if __name__ == "__main__":
    main(measure, limit_seconds=240)
