"""Figures and how they are shown: a markdown table for people, JSON for `run_all.py`."""

import json
import math
import statistics
import sys
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One measured value. `target` is the bound we set ourselves, as text; empty when there is none."""

    name: str
    value: float
    unit: str
    p95: float | None = None
    target: str = ""
    met: bool | None = None


@dataclass
class Samples:
    """What the same piece of work took, time after time: seconds on the clock, and of this process's processors.

    The second hardly moves when others use the machine; it says nothing of work that another process does.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def of(self, work: Awaitable[T]) -> T:
        """Await `work` and note what it took."""
        began, used = time.perf_counter(), time.process_time()
        result = await work
        self.wall.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - used)
        return result


def timed(name: str, seconds: Sequence[float], *, at_most_ms: float | None = None) -> Figure:
    """Median and 95th percentile of durations, in milliseconds."""
    middle = statistics.median(seconds) * 1000
    target = "" if at_most_ms is None else f"< {at_most_ms:g} ms"
    met = None if at_most_ms is None else middle < at_most_ms
    return Figure(name, middle, "ms", percentile(seconds, 95) * 1000, target, met)


def ratio(name: str, value: float, *, at_most: float | None = None) -> Figure:
    """How many times as much."""
    target = "" if at_most is None else f"<= {at_most:g}x"
    return Figure(name, value, "x", target=target, met=None if at_most is None else value <= at_most)


def ratio_of_rounds(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> float:
    """The median over rounds of the quotient of their medians: what disturbs a whole round cancels out."""
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in zip(above, below, strict=True))


def flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    """All samples of all rounds."""
    return [sample for samples in rounds for sample in samples]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of a hundred samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def show(figures: Sequence[Figure]) -> None:
    """Print the figures: a table, or JSON when the first argument is `--json`."""
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(figure) for figure in figures]))
    else:
        print(table(figures))


def table(figures: Sequence[Figure]) -> str:
    """The figures as a markdown table."""
    lines = ["| what | median | p95 | target | |", "|---|---|---|---|---|"]
    for figure in figures:
        p95 = "" if figure.p95 is None else f"{_short(figure.p95)} {figure.unit}"
        verdict = {None: "", True: "met", False: "**missed**"}[figure.met]
        lines.append(f"| {figure.name} | {_short(figure.value)} {figure.unit} | {p95} | {figure.target} | {verdict} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
