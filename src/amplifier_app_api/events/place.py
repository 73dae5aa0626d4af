"""A place in the stream of a session: what a reader has seen."""

import re
from dataclasses import dataclass

# Digits that fit 64 bits.
_PLACE = re.compile(r"(-1|\d{1,18})|(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Inside:
    """Inside an answer that was being made: its request, the block, and how many code points of that were seen."""

    request: int
    block: int
    end: int


@dataclass(frozen=True, slots=True)
class Place:
    """After the durable event `seq` and everything before it; with `inside` also after that piece of an answer."""

    seq: int
    inside: Inside | None = None

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """The place that the id of an event names; -1 is the beginning, as 0 is. None: it is no id."""
        found = _PLACE.fullmatch(text)
        if found is None:
            return None
        if found[1] is not None:
            return cls(max(int(found[1]), 0))
        seq, request, block, end = (int(part) for part in found.groups()[1:])
        return cls(seq, Inside(request, block, end))
