"""What became of each row."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Kind = Literal["config", "session", "bundle", "setting", "column", "table"]


class Verdict(StrEnum):
    """How much of a row is here now, or would be."""

    CARRIED = "carried"
    IN_PART = "carried in part"
    THERE = "already there"
    NOT_CARRIED = "not carried"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the predecessor's. `reasons` say what was left behind and why."""

    kind: Kind
    identity: str
    verdict: Verdict
    reasons: Sequence[str] = ()


@dataclass
class Report:
    """Every row that was looked at, in order."""

    entries: list[Entry] = field(default_factory=list[Entry])

    def add(self, kind: Kind, identity: str, verdict: Verdict, reasons: Sequence[str] = ()) -> None:
        """Note what became of a row; one that was carried with reasons was carried in part."""
        if verdict is Verdict.CARRIED and reasons:
            verdict = Verdict.IN_PART
        self.entries.append(Entry(kind, identity, verdict, tuple(reasons)))

    @property
    def incomplete(self) -> list[Entry]:
        """What was left behind, whole or in part."""
        return [entry for entry in self.entries if entry.verdict in (Verdict.IN_PART, Verdict.NOT_CARRIED)]

    def counts(self) -> dict[Kind, Counter[Verdict]]:
        """How many rows of each kind had which verdict."""
        counts: dict[Kind, Counter[Verdict]] = {}
        for entry in self.entries:
            counts.setdefault(entry.kind, Counter())[entry.verdict] += 1
        return counts
