"""What a running turn has said and no row of the log says yet.

The answer that is being made is kept in memory, in the order it was told, until its message is whole or given up:
whoever joins in the middle gets the text so far from here. `DeltaLog` makes rows of it now and then, for the case
that this process ends before the message does.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol

from amplifier_app_api.models.event import DeltaType
from amplifier_app_api.storage.deltas import StoredDelta
from amplifier_app_api.storage.events import StoredEvent

_NUMBERS_OF_ONE_EPOCH = 2**32
"""Rows of a later attempt at the same turn come after those of an earlier one, and never collide with them."""


class Writer(Protocol):
    """Whoever writes a running turn. Everything that the log of its session gets meanwhile is told by it, in order."""

    def saw(self, events: Sequence[StoredEvent]) -> None:
        """Tell events that somebody else wrote, each when all before it are told."""
        ...

    def look(self) -> None:
        """Look into the log for what somebody else wrote, and tell it."""
        ...


class _Nobody:
    """Writes no turn."""

    def saw(self, events: Sequence[StoredEvent]) -> None:
        pass

    def look(self) -> None:
        pass


class Piece:
    """Text of one block that was told in one go, between two durable events. What it grows from is `offset`."""

    __slots__ = ("_parts", "at", "block", "end", "offset", "request", "seq", "turn_id", "type")

    def __init__(self, turn_id: str, type: DeltaType, request: int, block: int, offset: int, seq: int) -> None:  # noqa: A002
        self.turn_id = turn_id
        self.type: DeltaType = type
        self.request = request
        self.block = block
        self.offset = offset
        self.end = offset
        self.seq = seq
        self.at = datetime.now(UTC)
        self._parts: list[str] = []

    def grow(self, text: str, end: int) -> None:
        """Append text; the piece then ends at `end`."""
        self._parts.append(text)
        self.end = end

    @property
    def text(self) -> str:
        """What has come so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""


class Tail:
    """The unfinished answers of one running turn, and how far its session's log was told.

    `seq` is the number of the last event that followers were told. `on_text` is called when there is something to
    make rows of.
    """

    def __init__(
        self,
        *,
        tenant_id: str,
        session_id: str,
        turn_id: str,
        epoch: int,
        seq: int,
        writer: Writer,
        on_text: "Callable[[Tail], None] | None" = None,
    ) -> None:
        self.tenant_id = tenant_id
        self.session_id = session_id
        self.turn_id = turn_id
        self.epoch = epoch
        self.seq = seq
        self.writer: Writer = writer
        self.pieces: list[Piece] = []
        self.closed = False
        self._on_text = on_text
        self._open: Piece | None = None
        self._unwritten: list[Piece] = []
        self._settled: set[int] = set()
        self._kept: set[int] = set()
        self._number = epoch * _NUMBERS_OF_ONE_EPOCH
        self._in_doubt = False

    def append(self, type: DeltaType, request: int, block: int, offset: int, text: str) -> None:  # noqa: A002
        """More text of a block, from `offset` on."""
        piece = self._open
        if (
            piece is None
            or piece.end != offset
            or piece.block != block
            or piece.request != request
            or piece.seq != self.seq
            or piece.type != type
        ):
            piece = self._open = Piece(self.turn_id, type, request, block, offset, self.seq)
            self.pieces.append(piece)
            if self._on_text is not None:
                self._unwritten.append(piece)
                self._on_text(self)
        piece.grow(text, offset + len(text))

    def settling(self, requests: Collection[int]) -> None:
        """A transaction is about to say what became of these requests: no more rows of them are made."""
        self._settled.update(requests)

    def settle(self, requests: Collection[int]) -> None:
        """The log says what became of these requests, and followers were told."""
        self._settled.update(requests)
        self.pieces = [piece for piece in self.pieces if piece.request not in requests]
        self._unwritten = [piece for piece in self._unwritten if piece.request not in requests]
        if self._open is not None and self._open.request in requests:
            self._open = None

    def may_have_rows(self, requests: Collection[int]) -> bool:
        """Whether rows were made of any of these requests, or may have been."""
        return not self._kept.isdisjoint(requests)

    @property
    def has_rows(self) -> bool:
        """Whether rows were made of this turn, or may have been."""
        return bool(self._kept)

    def close(self) -> None:
        """The turn says nothing more."""
        self.closed = True
        self.writer = _Nobody()
        self.pieces = []
        self._unwritten = []
        self._open = None

    # What makes rows of it.

    @property
    def unwritten(self) -> bool:
        """Whether there is text that no row has."""
        return bool(self._unwritten)

    @property
    def in_doubt(self) -> bool:
        """Whether what was taken last may have become rows although its write failed."""
        return self._in_doubt

    def take(self) -> Sequence[StoredDelta]:
        """Everything that no row has, as rows; the same again, and what came since, until `wrote` is called.

        Text that comes from now on begins another piece, so that a row never changes.
        """
        self._open = None
        return [self._stored(index, piece) for index, piece in enumerate(self._unwritten, 1)]

    def _stored(self, index: int, piece: Piece) -> StoredDelta:
        return StoredDelta(
            turn_id=self.turn_id,
            number=self._number + index,
            request=piece.request,
            block=piece.block,
            offset=piece.offset,
            seq=piece.seq,
            type=piece.type,
            text=piece.text,
            at=piece.at,
        )

    def still_wanted(self, pieces: Sequence[StoredDelta]) -> Sequence[StoredDelta]:
        """Those of the pieces whose requests are not settled. Asked in the transaction that makes rows of them."""
        if self.closed:
            return []
        wanted = [piece for piece in pieces if piece.request not in self._settled]
        self._kept.update(piece.request for piece in wanted)
        return wanted

    def wrote(self, pieces: Sequence[StoredDelta]) -> None:
        """These are rows now."""
        self._in_doubt = False
        if not pieces:
            return
        self._number = pieces[-1].number
        written = {(piece.request, piece.block, piece.offset) for piece in pieces}
        self._unwritten = [
            piece for piece in self._unwritten if (piece.request, piece.block, piece.offset) not in written
        ]

    def failed(self) -> None:
        """Whether what was taken has become rows is not known."""
        self._in_doubt = True
