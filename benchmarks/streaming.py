"""Answers of 1,000 tokens, as fast as they can be made, to readers of server-sent events.

A reader takes the bytes as they come and takes them apart when the stream is over. Each must have got the whole
answer, or the benchmark fails. A reader that is behind gets deltas joined, so tokens delivered and frames delivered
are told apart. The readers share the machine's cores with the server.
"""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from figures import Figure, timed
from in_process import config_text
from running import main
from server import serving
from wire import Connection, Deltas, Stream

TOKENS = 1_000
ANSWER = " ".join(f"w{number}" for number in range(TOKENS))
ROUNDS = 7
END = b"event: turn.completed"


@dataclass(frozen=True)
class Run:
    """What all readers of one run got. `begun` is when the message was sent."""

    begun: float
    readers: Sequence[Deltas]

    def __post_init__(self) -> None:
        if any(reader.text != ANSWER for reader in self.readers):
            raise SystemExit("a reader got something else than the answer")

    @property
    def seconds(self) -> float:
        """From the message to the last piece at the last reader."""
        return max(reader.last for reader in self.readers) - self.begun

    @property
    def tokens_per_second(self) -> float:
        """Tokens that reached a reader, all readers together."""
        return len(self.readers) * TOKENS / self.seconds

    @property
    def frames_per_second(self) -> float:
        """Events on the wire."""
        return sum(reader.frames for reader in self.readers) / self.seconds

    @property
    def first_token(self) -> list[float]:
        """Seconds from the message to the first piece, per reader."""
        return [reader.first - self.begun for reader in self.readers]


async def measure() -> list[Figure]:
    """Every figure of this page."""
    one: list[Run] = []
    fan_out: list[Run] = []
    fifty: list[Run] = []
    hundred: list[Run] = []
    async with serving() as server:
        connection = await Connection.open(server.port)
        body = {"name": "tokens", "yaml_content": config_text(tokens=TOKENS, delay_ms=0)}
        config = (await connection.json("POST", "/configs", body))["config_id"]
        for number in range(ROUNDS + 1):
            runs = (
                await _each_its_own(server.port, config, 1),
                await _one_followed_by(server.port, config, 50),
                await _each_its_own(server.port, config, 50),
                await _each_its_own(server.port, config, 100),
            )
            if number:  # the first round warms up
                for kind, run in zip((one, fan_out, fifty, hundred), runs, strict=True):
                    kind.append(run)
        await connection.close()
    return [
        *_figures("1 stream, 1 reader", one),
        *_figures("1 stream, 50 readers", fan_out),
        *_figures("50 streams, a reader each", fifty),
        *_figures("100 streams, a reader each", hundred, at_least=25_000),
        timed("stamp of the first delta to its reader, 1 stream", [r.readers[0].lag for r in one], at_most_ms=2),
    ]


def _figures(name: str, runs: Sequence[Run], *, at_least: float | None = None) -> list[Figure]:
    rate = statistics.median(run.tokens_per_second for run in runs)
    frames = statistics.median(run.frames_per_second for run in runs)
    target = "" if at_least is None else f">= {at_least:,.0f}"
    met = None if at_least is None else frames >= at_least
    return [
        Figure(f"{name}: tokens delivered", rate, "/s"),
        Figure(f"{name}: deltas delivered", frames, "/s", target=target, met=met),
        timed(f"{name}: first token", [seconds for run in runs for seconds in run.first_token]),
    ]


async def _session(connection: Connection, config: str) -> str:
    return (await connection.json("POST", "/sessions", {"config_id": config}))["session_id"]


async def _each_its_own(port: int, config: str, count: int) -> Run:
    """`count` sessions answer at once, each to whoever asked."""
    connections = [await Connection.open(port) for _ in range(count)]
    sessions = [await _session(connection, config) for connection in connections]

    async def read(connection: Connection, session: str) -> Stream:
        stream = await connection.stream("POST", f"/sessions/{session}/stream", {"message": "go"})
        await stream.read_until(END)
        return stream

    streams = await asyncio.gather(*map(read, connections, sessions))
    await _hang_up(connections)
    return Run(min(stream.sent for stream in streams), [stream.deltas() for stream in streams])


async def _one_followed_by(port: int, config: str, count: int) -> Run:
    """One session answers, `count` readers follow it."""
    asker = await Connection.open(port)
    session = await _session(asker, config)
    connections = [await Connection.open(port) for _ in range(count)]
    streams = [await connection.stream("GET", f"/sessions/{session}/events") for connection in connections]
    await asyncio.gather(*(stream.read_until(b"event: session.created") for stream in streams))
    asking = await asker.stream("POST", f"/sessions/{session}/stream", {"message": "go"})
    await asyncio.gather(*(stream.read_until(END) for stream in (asking, *streams)))
    await _hang_up([asker, *connections])
    return Run(asking.sent, [stream.deltas() for stream in streams])


async def _hang_up(connections: Sequence[Connection]) -> None:
    for connection in connections:
        await connection.close()


if __name__ == "__main__":
    main(measure, limit_seconds=240)
