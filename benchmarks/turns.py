"""A plain turn over HTTP, beside the same turn in process, beside the bare kernel.

All three answer the same text from the same modules. Beside them a turn in process has all of foundation: its tools,
its agents and its hooks. Rounds of the four take turns, and every round begins on new sessions, so that they have the
same history and meet the same weather.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from figures import Figure, Samples, flat, ratio, ratio_of_rounds, timed
from in_process import Managers, bare_session, config_text, managers
from running import main
from server import serving
from wire import Connection

from amplifier_app_api.runtime.kernel.loader import ModuleTable

ROUNDS = 12
TURNS = 40
CLIENTS = 16
TURNS_PER_CLIENT = 25
MESSAGE = "Say this again, please: one plain turn without a tool."

Turn = Callable[[], Awaitable[object]]


async def measure() -> list[Figure]:
    """Every figure of this page."""
    table = ModuleTable()
    async with managers() as inside, serving() as server:
        connection = await Connection.open(server.port)
        config = (await inside.configs.create_config("bench", config_text())).config_id
        whole = (await inside.configs.create_config("whole", config_text(bundle="foundation"))).config_id
        body = {"name": "bench", "yaml_content": config_text()}
        remote_config = (await connection.json("POST", "/configs", body))["config_id"]

        async def over_http() -> Turn:
            return await _http_turn(connection, remote_config)

        async def in_process() -> Turn:
            return await _managed_turn(inside, config)

        async def on_kernel() -> Turn:
            session = await bare_session(inside.runtime, config_text(), table)
            return lambda: session.execute(MESSAGE)

        async def with_foundation() -> Turn:
            return await _managed_turn(inside, whole)

        http, managed, bare, full = await _interleaved((over_http, in_process, on_kernel, with_foundation))
        rates = await _rates(server.port, remote_config, inside, config)
        await connection.close()
    return [
        timed("turn over HTTP", flat([samples.wall for samples in http])),
        timed("turn in process", flat([samples.wall for samples in managed])),
        timed("turn on the bare kernel", flat([samples.wall for samples in bare])),
        ratio("HTTP : in process", _ratio(http, managed), at_most=2.5),
        ratio("in process : bare kernel", _ratio(managed, bare)),
        timed("turn in process: CPU", flat([samples.cpu for samples in managed])),
        timed("turn on the bare kernel: CPU", flat([samples.cpu for samples in bare])),
        timed("turn in process, all of foundation", flat([samples.wall for samples in full])),
        timed("turn in process, all of foundation: CPU", flat([samples.cpu for samples in full])),
        *rates,
    ]


def _ratio(above: Sequence[Samples], below: Sequence[Samples]) -> float:
    return ratio_of_rounds([samples.wall for samples in above], [samples.wall for samples in below])


async def _http_turn(connection: Connection, config_id: str) -> Turn:
    session = await connection.json("POST", "/sessions", {"config_id": config_id})
    path = f"/sessions/{session['session_id']}/messages"
    return lambda: connection.json("POST", path, {"message": MESSAGE})


async def _managed_turn(inside: Managers, config_id: str) -> Turn:
    session = await inside.sessions.create_session(config_id)
    return lambda: inside.sessions.send_message(session.session_id, MESSAGE)


async def _interleaved(kinds: Sequence[Callable[[], Awaitable[Turn]]]) -> list[list[Samples]]:
    """What each turn took, per kind and round; who goes first changes with the round."""
    rounds: list[list[Samples]] = [[] for _ in kinds]
    for number in range(ROUNDS + 1):
        for offset in range(len(kinds)):
            kind = (number + offset) % len(kinds)
            turn = await kinds[kind]()
            samples = await _timed_turns(turn)
            if number:  # the first round warms up
                rounds[kind].append(samples)
    return rounds


async def _timed_turns(turn: Turn) -> Samples:
    samples = Samples()
    for _ in range(TURNS):
        await samples.of(turn())
    return samples


async def _rates(port: int, remote_config: str, inside: Managers, config: str) -> list[Figure]:
    """Turns per second of many clients at once, each on a session of its own."""
    connections = [await Connection.open(port) for _ in range(CLIENTS)]
    remote = [await _http_turn(connection, remote_config) for connection in connections]
    managed = [await _managed_turn(inside, config) for _ in range(CLIENTS)]
    samples: dict[str, list[float]] = {"over HTTP": [], "in process": []}
    for _ in range(5):
        samples["over HTTP"].append(await _rate(remote))
        samples["in process"].append(await _rate(managed))
    for connection in connections:
        await connection.close()
    return [Figure(f"{CLIENTS} clients {name}", statistics.median(rates), "turns/s") for name, rates in samples.items()]


async def _rate(turns: Sequence[Turn]) -> float:
    async def client(turn: Turn) -> None:
        for _ in range(TURNS_PER_CLIENT):
            await turn()

    began = time.perf_counter()
    await asyncio.gather(*(client(turn) for turn in turns))
    return len(turns) * TURNS_PER_CLIENT / (time.perf_counter() - began)


if __name__ == "__main__":
    main(measure, limit_seconds=180)
