"""A server with 100 running turns is killed: how soon the next one is ready, and how soon all of them go on.

Ready includes taking every turn over. A turn goes on when its log says so, and `turn.recovered` is in it; readers ask
for that from the moment the server is ready.
"""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from databases import fresh_postgres
from figures import Figure, timed
from in_process import config_text
from running import main
from server import serving
from wire import Connection

TURNS = 100
TOKENS = 4_000
DELAY_MS = 100
ROUNDS = 3
AT_ONCE = 20
RUNNING = b"event: message.delta"
RECOVERED = b"event: turn.recovered"


@dataclass(frozen=True)
class Restart:
    """What one took, in seconds: `empty` is the start of the server before, `each` from ready to a turn's going on."""

    empty: float
    ready: float
    each: list[float]


async def measure() -> list[Figure]:
    """Every figure of this page."""
    figures = _figures("SQLite", [await _restart() for _ in range(ROUNDS)])
    restarts: list[Restart] = []
    for _ in range(ROUNDS):
        async with fresh_postgres() as address:
            if address is not None:
                restarts.append(await _restart(database_url=address))
    return figures + (_figures("PostgreSQL", restarts) if restarts else [])


async def _restart(**settings: str) -> Restart:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = Path(folder) / "data"
        async with serving(data_dir=data, **settings) as server:
            connection = await Connection.open(server.port)
            body = {"name": "slow", "yaml_content": config_text(tokens=TOKENS, delay_ms=DELAY_MS)}
            config = (await connection.json("POST", "/configs", body))["config_id"]
            paths = [await _running_turn(connection, server.port, config) for _ in range(TURNS)]
            await connection.close()
            empty = server.ready_after
            os.kill(server.pid, signal.SIGKILL)
        async with serving(data_dir=data, **settings) as server:
            ready = time.perf_counter()
            gate = asyncio.Semaphore(AT_ONCE)
            each = await asyncio.gather(*(_recovered(server.port, path, gate) for path in paths))
            os.kill(server.pid, signal.SIGKILL)  # its turns would go on for minutes
        return Restart(empty, server.ready_after, [moment - ready for moment in each])


async def _running_turn(connection: Connection, port: int, config: str) -> str:
    session = await connection.json("POST", "/sessions", {"config_id": config})
    path = f"/sessions/{session['session_id']}"
    await connection.json("POST", f"{path}/turns", {"message": "go"})
    reader = await Connection.open(port)
    await (await reader.stream("GET", f"{path}/events")).read_until(RUNNING)
    await reader.close()
    return path


async def _recovered(port: int, path: str, gate: asyncio.Semaphore) -> float:
    async with gate:
        reader = await Connection.open(port)
        stream = await reader.stream("GET", f"{path}/events?types=turn.recovered")
    await stream.read_until(RECOVERED)
    moment = stream.pieces[-1][0]
    await reader.close()
    return moment


def _figures(name: str, restarts: list[Restart]) -> list[Figure]:
    return [
        timed(f"{name}: start to ready, empty database", [restart.empty for restart in restarts]),
        timed(f"{name}: start to ready, {TURNS} turns taken over", [restart.ready for restart in restarts]),
        timed(f"{name}: ready to a turn's going on", [moment for restart in restarts for moment in restart.each]),
        Figure(
            f"{name}: start to all {TURNS} going on",
            statistics.median(restart.ready + max(restart.each) for restart in restarts) * 1000,
            "ms",
        ),
    ]


if __name__ == "__main__":
    main(measure, limit_seconds=300)
