"""The tenth turn of a session beside its 500th and its 1,000th: time, and bytes written to SQLite's log.

Long sessions are grown first; then turns on them and on sessions that have just begun take turns, so that both meet
the same weather. Pages written are read from the index of SQLite's write-ahead log. The bare kernel is measured
alike, to tell what the modules themselves cost when a history is long.
"""

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure, Samples, ratio, timed
from in_process import bare_session, config_text, frames_written, managers
from running import main

from amplifier_app_api.runtime.kernel.loader import ModuleTable

EARLY = 10
LATE = (500, 1_000)
SESSIONS = 3
MEASURED = 8  # turns from the named one on, of every session
MESSAGE = "A message of an ordinary length, which the model is going to repeat word by word, once per turn."
MOST_TIMES = 1.2

Turn = Callable[[], Awaitable[object]]


@dataclass
class Measured:
    """What measured turns took, and what they wrote."""

    taken: Samples = field(default_factory=Samples)
    written: list[int] = field(default_factory=list)

    async def turn(self, turn: Turn, log: Path | None) -> None:
        """One turn. A log that began anew in between says nothing about it."""
        before = 0 if log is None else frames_written(log)
        await self.taken.of(turn())
        if log is not None and (written := frames_written(log) - before) >= 0:
            self.written.append(written)


async def measure() -> list[Figure]:
    """Every figure of this page."""
    figures: list[Figure] = []
    async with managers() as inside:
        config = (await inside.configs.create_config("bench", config_text())).config_id
        table = ModuleTable()

        async def managed() -> Turn:
            session = await inside.sessions.create_session(config)
            return lambda: inside.sessions.send_message(session.session_id, MESSAGE)

        async def bare() -> Turn:
            session = await bare_session(inside.runtime, config_text(), table)
            return lambda: session.execute(MESSAGE)

        figures += await _compared("", managed, inside.log)
        figures += await _compared("bare kernel, ", bare, None)
    return figures


async def _compared(name: str, begin: Callable[[], Awaitable[Turn]], log: Path | None) -> list[Figure]:
    long = [await begin() for _ in range(SESSIONS)]
    done = 0
    figures: list[Figure] = []
    for late in LATE:
        await _run(long, late - 1 - done)
        early_turns, late_turns = Measured(), Measured()
        for old in long:
            young = await begin()
            await _run([young], EARLY - 1)
            for _ in range(MEASURED):
                await early_turns.turn(young, log)
                await late_turns.turn(old, log)
        done = late - 1 + MEASURED
        if not figures:
            figures += _figures(f"{name}turn {EARLY}", early_turns)
        figures += _figures(f"{name}turn {late}", late_turns)
        figures += _ratios(f"{name}turn {late} : turn {EARLY}", late_turns, early_turns)
    return figures


async def _run(turns: list[Turn], count: int) -> None:
    for turn in turns:
        for _ in range(count):
            await turn()


def _figures(name: str, turns: Measured) -> list[Figure]:
    figures = [timed(name, turns.taken.wall), timed(f"{name}: CPU", turns.taken.cpu)]
    if turns.written:
        figures.append(Figure(f"{name}: written", statistics.median(turns.written) / 1024, "KiB"))
    return figures


def _ratios(name: str, above: Measured, below: Measured) -> list[Figure]:
    in_time = statistics.median(above.taken.wall) / statistics.median(below.taken.wall)
    in_cpu = statistics.median(above.taken.cpu) / statistics.median(below.taken.cpu)
    if not above.written:
        return [ratio(f"{name}: time", in_time), ratio(f"{name}: CPU", in_cpu)]
    in_bytes = statistics.median(above.written) / statistics.median(below.written)
    return [
        ratio(f"{name}: time", in_time, at_most=MOST_TIMES),
        ratio(f"{name}: CPU", in_cpu),
        ratio(f"{name}: bytes", in_bytes, at_most=MOST_TIMES),
    ]


if __name__ == "__main__":
    main(measure, limit_seconds=300)
