"""How far a reader has come, event by event and piece by piece: what it gets next, and what it has already.

A reader that came back has a `Place`. From there on every event has to be the next number, and every piece has to
begin where the block it continues ended for this reader; what comes twice is left out or cut, and what does not
follow is asked for again (`Behind`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.models.event import SETTLING_TYPES, TERMINAL_TYPES, Delta, DeltaType
from amplifier_app_api.models.fields import parse_time

Block = tuple[str, int, int]
"""A block of an answer: turn, request, number."""

DELTA_TYPES: dict[str, DeltaType] = {"text": "message.delta", "thinking": "reasoning.delta"}


class Behind(Exception):
    """Something between this and what the reader has is missing."""


class PieceOfText(Protocol):
    """A piece of a running answer: in memory or a row."""

    @property
    def turn_id(self) -> str: ...
    @property
    def type(self) -> DeltaType: ...
    @property
    def request(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def at(self) -> datetime: ...


class Seen:
    """What one reader of a session has seen, and what of all that comes is new to it.

    `turn_id` is the turn that a place inside an answer belongs to. The methods append to `out` what the reader gets.
    """

    def __init__(self, session_id: str, place: Place, turn_id: str | None = None) -> None:
        self.seq = place.seq
        self._session_id = session_id
        self._ends: dict[Block, int] = {}
        # Requests and turns that the log has said the last word of, while pieces of them may still be on their way.
        self._settled: set[tuple[str, int]] = set()
        self._ended: set[str] = set()
        self._holes: set[Block] = set()
        self._before: Delta | None = None
        # Pieces told before this event were seen; a place inside an answer says more exactly which.
        self._from_seq = place.seq
        self._inside: Block | None = None
        if place.inside is not None and turn_id is not None:
            self._inside = (turn_id, place.inside.request, place.inside.block)
            self._ends[self._inside] = place.inside.end
            self._from_seq = 0
        self._placed = self._inside is None

    def place_among(self, pieces: Sequence[PieceOfText]) -> None:
        """Find the reader's place among the pieces in the order they were told: what is before it was seen."""
        if self._inside is None or self._placed:
            return
        self._note()
        end = self._ends.get(self._inside, 0)
        last = -1
        for index, piece in enumerate(pieces):
            if _block(piece) == self._inside and piece.offset < end:
                last = index
        for piece in pieces[: last + 1]:
            block = _block(piece)
            if block != self._inside:
                self._ends[block] = max(self._ends.get(block, 0), piece.end)
        self._placed = last >= 0

    def event(self, item: StreamItem, out: list[StreamItem]) -> None:
        """A durable event."""
        seq = item.seq or 0
        if seq <= self.seq:
            return
        self._note()
        if seq > self.seq + 1:
            raise Behind
        if item.type in SETTLING_TYPES:
            self._settle(item, out)
        elif item.type in TERMINAL_TYPES:
            self._forget(item.turn_id)
        self.seq = seq
        out.append(item)

    def begin_at_most(self, seq: int) -> None:
        """The log ends here: a place beyond it is one of another log, and what comes next is new to the reader."""
        self.seq = min(self.seq, seq)
        self._from_seq = min(self._from_seq, seq)

    def skip_to(self, seq: int) -> None:
        """The events up to this number are gone for good."""
        self.seq = max(self.seq, seq)

    def delta(self, item: StreamItem, delta: Delta, out: list[StreamItem]) -> None:
        """A piece as it comes."""
        before = self._before
        if before is not None and delta.continues(before) and delta.seq == self.seq:
            # Nearly all pieces: the end of their block is noted when another comes in between.
            self._before = delta
            out.append(item)
            return
        self._note()
        block = (delta.turn_id, delta.request, delta.block)
        if self._is_over(block):
            return
        end = self._ends.get(block, 0)
        if delta.offset == end and delta.seq == self.seq:
            self._ends[block] = delta.end
            self._before = delta
            out.append(item)
            return
        if delta.seq > self.seq:
            raise Behind
        if delta.end <= end:
            return
        if delta.offset > end:
            if block in self._holes:  # asked for before, and nobody has it: the whole message will say it
                return
            self._holes.add(block)
            raise Behind
        self._ends[block] = delta.end
        rest = delta.text[end - delta.offset :]
        out.append(self._delta(delta.turn_id, delta.type, delta.request, delta.block, end, rest, delta.at))

    def _note(self) -> None:
        """Note how far the block of the last piece was told."""
        before, self._before = self._before, None
        if before is not None:
            self._ends[before.turn_id, before.request, before.block] = before.end

    def pieces(self, pieces: Sequence[PieceOfText], out: list[StreamItem], *, before: int) -> None:
        """Those of the pieces that were told before the event `before`."""
        self._note()
        for piece in pieces:
            if piece.seq < before:
                self._piece(piece, out)

    def _piece(self, piece: PieceOfText, out: list[StreamItem]) -> None:
        block = _block(piece)
        if self._is_over(block):
            return
        end = self._ends.get(block, 0)
        if piece.end <= end:
            return
        if piece.seq < self._from_seq or self._is_before_place(block):
            self._ends[block] = piece.end
            return
        if piece.offset > end:
            return
        self._holes.discard(block)
        self._ends[block] = piece.end
        rest = piece.text[end - piece.offset :]
        out.append(self._delta(piece.turn_id, piece.type, piece.request, piece.block, end, rest, piece.at))

    def caught_up(self) -> None:
        """All that was on its way has come: what comes from now on was told after what the reader has."""
        self._settled.clear()
        self._ended.clear()

    def _is_over(self, block: Block) -> bool:
        if self._settled and block[:2] in self._settled:
            return True
        return bool(self._ended) and block[0] in self._ended

    def _is_before_place(self, block: Block) -> bool:
        """Whether a block comes before the one that the reader was in, whose own pieces nobody has."""
        if self._placed or self._inside is None:
            return False
        return block[0] == self._inside[0] and block[1:] < self._inside[1:]

    def _settle(self, item: StreamItem, out: list[StreamItem]) -> None:
        if item.turn_id is None:
            return
        request = int(item.fields["request"])
        key = (item.turn_id, request)
        begun = {block[2]: end for block, end in self._ends.items() if block[:2] == key}
        if begun:
            if item.type == "message.completed":
                self._rest(item, request, begun, out)
            for number in begun:
                del self._ends[(*key, number)]
        if self._holes:
            self._holes = {block for block in self._holes if block[:2] != key}
        self._settled.add(key)

    def _rest(self, item: StreamItem, request: int, begun: dict[int, int], out: list[StreamItem]) -> None:
        """What the reader lacks of an answer that it had begun to see: the message has it."""
        for block in item.fields["blocks"]:
            kind = DELTA_TYPES.get(block["type"])
            number = block["block"]
            end = begun.get(number, 0)
            # A block from before the one it was in was seen, whether or not we know how far.
            skipped = number not in begun and number < max(begun)
            if kind is None or skipped or item.turn_id is None or len(block["text"]) <= end:
                continue
            at = parse_time(item.fields["at"])
            out.append(self._delta(item.turn_id, kind, request, number, end, block["text"][end:], at))

    def _delta(
        self,
        turn_id: str,
        type: DeltaType,  # noqa: A002 - the name of the field on the wire
        request: int,
        block: int,
        offset: int,
        text: str,
        at: datetime,
    ) -> StreamItem:
        return StreamItem.of_delta(
            Delta(
                type=type,
                session_id=self._session_id,
                turn_id=turn_id,
                seq=self.seq,
                request=request,
                block=block,
                offset=offset,
                text=text,
                at=at,
            )
        )

    def _forget(self, turn_id: str | None) -> None:
        if turn_id is not None:
            self._ended.add(turn_id)
        self._ends = {block: end for block, end in self._ends.items() if block[0] != turn_id}
        self._holes = {block for block in self._holes if block[0] != turn_id}


def _block(piece: PieceOfText) -> Block:
    return (piece.turn_id, piece.request, piece.block)
