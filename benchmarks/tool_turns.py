"""A turn with one tool call beside a plain one: time, and bytes written; on the bare kernel, too.

A call is journalled: it is a row before the tool runs and has its result when it has run, each with the event that
tells of it. The tool lists an empty directory. Kinds of turn take turns, each on a session of its own, new in every
round, so that all have the same history.
"""

import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from figures import Figure, Samples, ratio, timed
from in_process import Managers, bare_session, config_text, frames_written, managers
from running import main

from amplifier_app_api.runtime.kernel.loader import ModuleTable

ROUNDS = 20
TURNS = 20
MESSAGES = {
    "plain turn": "one plain turn without a tool",
    "turn with one call": "[[tool: list_directory {}]] [[then: done]]",
    "turn with eight calls at once": f"[[tools: {' | '.join(['list_directory {}'] * 8)}]] [[then: done]]",
}

Say = Callable[[str], Awaitable[object]]


@dataclass
class Kind:
    """What turns of one kind took, in one place."""

    taken: Samples = field(default_factory=Samples)
    written: list[int] = field(default_factory=list)


async def measure() -> list[Figure]:
    """Every figure of this page."""
    kinds: defaultdict[tuple[str, str], Kind] = defaultdict(Kind)
    table = ModuleTable()
    async with managers() as inside:
        config = (await inside.configs.create_config("bench", config_text())).config_id
        for number in range(ROUNDS + 1):
            if number == 1:
                kinds.clear()  # the round before warmed up
            for name, message in MESSAGES.items():
                session = (await inside.sessions.create_session(config)).session_id
                await _turns(kinds[name, ""], _managed(inside, session), message, inside)
                bare = await bare_session(inside.runtime, config_text(), table)
                await _turns(kinds[name, "on the bare kernel"], bare.execute, message, None)
    return [figure for name in MESSAGES for figure in _figures(name, kinds)]


def _managed(inside: Managers, session: str) -> Say:
    return lambda message: inside.sessions.send_message(session, message)


async def _turns(kind: Kind, say: Say, message: str, inside: Managers | None) -> None:
    for _ in range(TURNS):
        before = 0 if inside is None else frames_written(inside.log)
        await kind.taken.of(say(message))
        if inside is not None and (written := frames_written(inside.log) - before) >= 0:  # else the log began anew
            kind.written.append(written)


def _figures(name: str, kinds: dict[tuple[str, str], Kind]) -> list[Figure]:
    here, bare, plain = kinds[name, ""], kinds[name, "on the bare kernel"], kinds["plain turn", ""]
    figures = [
        timed(name, here.taken.wall),
        timed(f"{name}: CPU", here.taken.cpu),
        Figure(f"{name}: written", statistics.median(here.written) / 1024, "KiB"),
        ratio(f"{name}, in process : bare kernel: CPU", _quotient(here.taken.cpu, bare.taken.cpu)),
    ]
    if here is not plain:
        figures.append(ratio(f"{name} : plain turn: CPU", _quotient(here.taken.cpu, plain.taken.cpu)))
    return figures


def _quotient(above: list[float], below: list[float]) -> float:
    return statistics.median(above) / statistics.median(below)


if __name__ == "__main__":
    main(measure, limit_seconds=240)
