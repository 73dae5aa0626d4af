"""What a server holds: when it has just started, per live idle session, and after many that came and went."""

import gc
import statistics
import tempfile
from pathlib import Path

from figures import Figure, timed
from in_process import LIVE_SESSIONS, Managers, config_text, managers
from machine import resident_bytes
from running import main
from server import serving
from wire import Connection

STARTS = 5
SESSIONS = 1_000
CYCLES = 2_000
WARM_UP_CYCLES = 300
MB = 1_000_000


async def measure() -> list[Figure]:
    """Every figure of this page."""
    with tempfile.TemporaryDirectory(prefix="bench-bytecode-") as folder:
        served = [*await _starts(Path(folder)), *await _live_sessions(Path(folder))]
    return [*served, *await _growth(with_turn=False), *await _growth(with_turn=True)]


async def _starts(bytecode: Path) -> list[Figure]:
    async with serving(bytecode=bytecode) as server:
        first = server.ready_after
    ready: list[float] = []
    idle: list[float] = []
    for _ in range(STARTS):
        async with serving(bytecode=bytecode) as server:
            ready.append(server.ready_after)
            connection = await Connection.open(server.port)
            await connection.json("GET", "/ready")
            idle.append(resident_bytes(server.pid))
            await connection.close()
    memory = statistics.median(idle)
    return [
        timed("start to ready, empty data folder", ready, at_most_ms=1500),
        Figure("start to ready, nothing compiled yet", first * 1000, "ms"),
        Figure("idle server", memory / MB, "MB", target="< 120 MB", met=memory < 120 * MB),
    ]


async def _live_sessions(bytecode: Path) -> list[Figure]:
    async with serving(bytecode=bytecode, live_sessions=str(LIVE_SESSIONS)) as server:
        connection = await Connection.open(server.port)
        body = {"name": "bench", "yaml_content": config_text()}
        config = (await connection.json("POST", "/configs", body))["config_id"]
        for _ in range(20):  # modules are imported, pools filled
            await connection.json("POST", "/sessions", {"config_id": config})
        before = resident_bytes(server.pid)
        for _ in range(SESSIONS):
            await connection.json("POST", "/sessions", {"config_id": config})
        grown = resident_bytes(server.pid) - before
        await connection.close()
    return [
        Figure("a live idle session", grown / SESSIONS / 1000, "kB"),
        Figure(f"{SESSIONS:,} live idle sessions", grown / MB, "MB", target="< 60 MB", met=grown < 60 * MB),
    ]


async def _growth(*, with_turn: bool) -> list[Figure]:
    """What a session leaves behind that was opened, perhaps used, and deleted.

    Resident memory moves in steps of the allocator; the number of objects says whether something is kept.
    """
    async with managers() as inside:
        config = (await inside.configs.create_config("bench", config_text())).config_id
        await _cycle(inside, config, WARM_UP_CYCLES, with_turn=with_turn)
        objects, before = _settled()
        await _cycle(inside, config, CYCLES // 2, with_turn=with_turn)
        _, half = _settled()
        await _cycle(inside, config, CYCLES // 2, with_turn=with_turn)
        more_objects, after = _settled()
    name = "create, turn, delete" if with_turn else "create, delete"
    kept = (more_objects - objects) / CYCLES
    return [
        Figure(f"growth over {CYCLES:,} x {name}", (after - before) / CYCLES / 1000, "kB per cycle"),
        Figure(f"{name}: of it, in the second {CYCLES // 2:,}", (after - half) / (CYCLES // 2) / 1000, "kB per cycle"),
        Figure(f"{name}: objects kept", kept, "per cycle", target="none", met=kept < 0.5),
    ]


async def _cycle(inside: Managers, config: str, count: int, *, with_turn: bool) -> None:
    for _ in range(count):
        session = await inside.sessions.create_session(config)
        if with_turn:
            await inside.sessions.send_message(session.session_id, "hello")
        await inside.sessions.delete_session(session.session_id)


def _settled() -> tuple[int, int]:
    """How many objects there are, and the resident memory, after a collection."""
    for _ in range(3):
        gc.collect()
    return len(gc.get_objects()), resident_bytes()


if __name__ == "__main__":
    main(measure, limit_seconds=300)
