"""Pieces of answers that are being made, as rows: what a crash would lose of a running turn, and nothing older.

They are appended in batches for all running turns together, and deleted by the transaction that makes the whole
message a row, gives the request up, or ends the turn.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, delete, insert, select

from amplifier_app_api.models.event import DeltaType
from amplifier_app_api.models.turn import OPEN_STATUSES
from amplifier_app_api.storage.tables import event_deltas, sessions, turns


@dataclass(frozen=True, slots=True)
class StoredDelta:
    """A piece of a block. `number` is its place in its turn, `seq` the last durable event before it.

    `offset` is where it begins in its block, in code points.
    """

    turn_id: str
    number: int
    request: int
    block: int
    offset: int
    seq: int
    type: DeltaType
    text: str
    at: datetime

    @property
    def end(self) -> int:
        """Where the piece ends, in code points."""
        return self.offset + len(self.text)


@dataclass(frozen=True, slots=True)
class TurnPieces:
    """New pieces of one turn, in order.

    `before_insert` is asked once nobody else can write the session any more, and gives those of the pieces that
    are still wanted. `again` says that some of them may be rows already: the answer of an earlier write was lost.
    """

    tenant_id: str
    session_id: str
    turn_id: str
    epoch: int
    pieces: Sequence[StoredDelta]
    before_insert: Callable[[Sequence[StoredDelta]], Sequence[StoredDelta]]
    again: bool = False


_OPEN = [status.value for status in OPEN_STATUSES]
_OPEN_TURNS = (
    select(turns.c.turn_id, sessions.c.epoch)
    .join(sessions, sessions.c.session_id == turns.c.session_id)
    .where(turns.c.turn_id.in_(bindparam("of_turns", expanding=True)), turns.c.status.in_(_OPEN))
)
# Held until the commit: nobody completes a message in between. Sessions that somebody writes right now are passed over.
_WRITABLE = _OPEN_TURNS.with_for_update(read=True, of=sessions, skip_locked=True)
_INSERT = insert(event_deltas)
_OF_TURN = delete(event_deltas).where(
    event_deltas.c.session_id == bindparam("of_session"), event_deltas.c.turn_id == bindparam("of_turn")
)
_OF_REQUESTS = _OF_TURN.where(event_deltas.c.request.in_(bindparam("of_requests", expanding=True)))
_FROM_NUMBER = _OF_TURN.where(event_deltas.c.number >= bindparam("from_number"))
_OF_SESSION = (
    select(event_deltas)
    .where(event_deltas.c.tenant_id == bindparam("of_tenant"), event_deltas.c.session_id == bindparam("of_session"))
    .order_by(event_deltas.c.seq, event_deltas.c.number)
)


def append_deltas(conn: Connection, batch: Sequence[TurnPieces]) -> set[str]:
    """Append the pieces of several turns, and give back those turns that are to be tried again.

    They are the ones that somebody writes to at this moment, which happens on PostgreSQL only. A turn that has ended,
    or whose session has another epoch, is left out for good.
    """
    epochs = _epochs(conn, _WRITABLE, batch)
    written = [turn for turn in batch if epochs.get(turn.turn_id) == turn.epoch]
    missing = [turn for turn in batch if turn.turn_id not in epochs]
    busy = _epochs(conn, _OPEN_TURNS, missing) if missing else {}
    rows: list[dict[str, Any]] = []
    for turn in written:
        if turn.again:
            values = {"of_session": turn.session_id, "of_turn": turn.turn_id, "from_number": turn.pieces[0].number}
            conn.execute(_FROM_NUMBER, values)
        rows += [_row(turn, piece) for piece in turn.before_insert(turn.pieces)]
    if rows:
        conn.execute(_INSERT, rows)
    return {turn.turn_id for turn in missing if busy.get(turn.turn_id) == turn.epoch}


def _epochs(conn: Connection, statement: Executable, batch: Sequence[TurnPieces]) -> dict[str, int]:
    found = conn.execute(statement, {"of_turns": [turn.turn_id for turn in batch]})
    return {row.turn_id: row.epoch for row in found}


def _row(turn: TurnPieces, piece: StoredDelta) -> dict[str, Any]:
    return {
        "session_id": turn.session_id,
        "turn_id": turn.turn_id,
        "number": piece.number,
        "tenant_id": turn.tenant_id,
        "request": piece.request,
        "block": piece.block,
        "offset": piece.offset,
        "seq": piece.seq,
        "type": piece.type,
        "text": piece.text,
        "at": piece.at,
    }


def deltas_of(conn: Connection, session_id: str, *, within: str) -> list[StoredDelta]:
    """The pieces of a session's running turn that are rows, in the order they were told."""
    rows = conn.execute(_OF_SESSION, {"of_tenant": within, "of_session": session_id})
    return [
        StoredDelta(
            turn_id=row.turn_id,
            number=row.number,
            request=row.request,
            block=row.block,
            offset=row.offset,
            seq=row.seq,
            type=row.type,
            text=row.text,
            at=row.at,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class PartialBlock:
    """What the rows have of one block of an answer that did not become a message."""

    request: int
    block: int
    type: DeltaType
    text: str


def partial_blocks(conn: Connection, session_id: str, turn_id: str, *, within: str) -> list[PartialBlock]:
    """The text that a turn streamed and that did not become a message, as far as it is rows; by request and block."""
    blocks: dict[tuple[int, int], list[StoredDelta]] = {}
    for piece in deltas_of(conn, session_id, within=within):
        if piece.turn_id == turn_id:
            blocks.setdefault((piece.request, piece.block), []).append(piece)
    return [
        PartialBlock(request, block, pieces[0].type, "".join(piece.text for piece in pieces))
        for (request, block), pieces in sorted(blocks.items())
    ]


def delete_deltas(conn: Connection, session_id: str, turn_id: str, requests: Collection[int] | None = None) -> None:
    """Remove the pieces of a turn, or of some of its requests: the log says it now, or that it does not count."""
    values: dict[str, Any] = {"of_session": session_id, "of_turn": turn_id}
    if requests is None:
        conn.execute(_OF_TURN, values)
    else:
        conn.execute(_OF_REQUESTS, {**values, "of_requests": list(requests)})
