"""Turns per second of 1, 16 and 64 sessions, and how soon a follower hears of a turn, on SQLite and on PostgreSQL.

Both servers run all the time, and rounds of the two take turns. A client sends its next message when it has the answer
to the one before. Followers are told over a connection of their own.
"""

import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from databases import fresh_postgres
from figures import Figure, ratio, timed
from in_process import config_text
from running import main
from server import Server, serving
from wire import Connection, Stream

SESSIONS = (1, 16, 64)
TURNS = 192
ROUNDS = 5
FOLLOWED = 40
MESSAGE = "Say this again, please: one plain turn without a tool."
END = b"event: turn.completed"


@dataclass
class Engine:
    """A server on one kind of database, and what was measured of it."""

    name: str
    server: Server
    config: str
    rates: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    lags: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def client(self) -> tuple[Connection, str]:
        """A connection, and the path of a new session. One that is not used meanwhile would be closed by the server."""
        connection = await Connection.open(self.server.port)
        opened = await connection.json("POST", "/sessions", {"config_id": self.config})
        return connection, f"/sessions/{opened['session_id']}"


async def measure() -> list[Figure]:
    """Every figure of this page."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(_engine("SQLite"))]
        address = await stack.enter_async_context(fresh_postgres())
        if address is not None:
            engines.append(await stack.enter_async_context(_engine("PostgreSQL", database_url=address)))
        for number in range(ROUNDS + 1):
            for engine in engines:
                await _follow(engine)
                for sessions in SESSIONS:
                    engine.rates[sessions].append(await _rate(engine, sessions))
            if not number:  # the first round warms up
                for engine in engines:
                    engine.rates.clear()
                    engine.answered.clear()
                    engine.started.clear()
                    engine.lags.clear()
    return [figure for engine in engines for figure in _figures(engine)] + _compared(engines)


@asynccontextmanager
async def _engine(name: str, **settings: str) -> AsyncGenerator[Engine]:
    async with serving(**settings) as server:
        connection = await Connection.open(server.port)
        body = {"name": "many", "yaml_content": config_text()}
        config = (await connection.json("POST", "/configs", body))["config_id"]
        await connection.close()
        yield Engine(name, server, config)


async def _rate(engine: Engine, sessions: int) -> float:
    """Turns per second of so many clients at once, each on a session of its own."""
    clients = [await engine.client() for _ in range(sessions)]

    async def client(connection: Connection, path: str) -> None:
        for _ in range(TURNS // sessions):
            await connection.json("POST", f"{path}/messages", {"message": MESSAGE})

    began = time.perf_counter()
    await asyncio.gather(*(client(connection, path) for connection, path in clients))
    seconds = time.perf_counter() - began
    for connection, _ in clients:
        await connection.close()
    return TURNS // sessions * sessions / seconds


async def _follow(engine: Engine) -> None:
    """Begin turns one after the other, with a follower that waits for them."""
    connection, path = await engine.client()
    reader = await Connection.open(engine.server.port)
    stream = await reader.stream("GET", f"{path}/events")
    sent: list[float] = []
    for _ in range(FOLLOWED):
        sent.append(time.time())
        await connection.json("POST", f"{path}/turns", {"message": MESSAGE})
        engine.answered.append(time.time() - sent[-1])
        await stream.read_until(END)
    await reader.close()
    await connection.close()
    heard = _heard(stream)
    begun = [moment for moment, event in heard if event["type"] == "turn.started"]
    engine.started += [moment - before for moment, before in zip(begun, sent, strict=True)]
    for moment, event in heard:
        engine.lags[event["type"]].append(moment - datetime.fromisoformat(event["at"]).timestamp())


def _heard(stream: Stream) -> list[tuple[float, dict[str, Any]]]:
    """The events of a stream, each with the moment it came."""
    heard: list[tuple[float, dict[str, Any]]] = []
    rest = b""
    for _, clock, piece in stream.pieces:
        *lines, rest = (rest + piece).split(b"\n")
        heard += [(clock, json.loads(line[6:])) for line in lines if line.startswith(b'data: {"')]
    return [(moment, event) for moment, event in heard if "at" in event]


def _figures(engine: Engine) -> list[Figure]:
    return [
        timed(f"{engine.name}: POST /turns to its answer", engine.answered),
        timed(f"{engine.name}: POST /turns to turn.started at a follower", engine.started),
        timed(f"{engine.name}: turn.completed, its commit included, to a follower", engine.lags["turn.completed"]),
        timed(f"{engine.name}: a piece of an answer to a follower", engine.lags["message.delta"]),
        *(
            Figure(f"{engine.name}: {sessions} session{'s' * (sessions > 1)}", statistics.median(rates), "turns/s")
            for sessions, rates in engine.rates.items()
        ),
    ]


def _compared(engines: list[Engine]) -> list[Figure]:
    if len(engines) == 1:
        return []
    here, there = engines
    return [
        ratio(
            f"{there.name} : {here.name}, {sessions} sessions",
            statistics.median(a / b for a, b in zip(there.rates[sessions], here.rates[sessions], strict=True)),
        )
        for sessions in SESSIONS
    ]


if __name__ == "__main__":
    main(measure, limit_seconds=300)
