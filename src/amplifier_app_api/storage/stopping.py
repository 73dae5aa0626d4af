"""Ending a turn from outside the process that runs it: under a new epoch, so that nothing it still writes counts."""

from sqlalchemy import Connection, update

from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.storage.ending import EndFromRows, TurnMoved, end_open_turn
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.sessions import get_session
from amplifier_app_api.storage.tables import turns
from amplifier_app_api.storage.turns import OPEN


def stop_turn(
    conn: Connection,
    session_id: str,
    turn_id: str,
    *,
    within: str,
    said: str,
    status: TurnStatus = TurnStatus.CANCELLED,
    stop_reason: StopReason = StopReason.USER_CANCEL,
) -> list[StoredEvent] | None:
    """End an open turn. None: it has ended.

    What it streamed is kept as far as it is rows; `said` answers its open tool calls. Its usage so far is booked.
    """
    record = get_session(conn, session_id, within=within, to_change=True)
    if record is None:
        return None
    end = EndFromRows(status, stop_reason, said)
    try:
        return end_open_turn(conn, turn_id, session_id, end, epoch=record.epoch, within=within)
    except TurnMoved:
        return None


def wish_to_stop(conn: Connection, session_id: str, turn_id: str, *, within: str, wish: str = "graceful") -> bool:
    """Ask the owner of an open turn to stop it; it looks at every heartbeat. False: the turn has ended."""
    statement = (
        update(turns)
        .where(turns.c.turn_id == turn_id, turns.c.session_id == session_id, turns.c.tenant_id == within, OPEN)
        .values(cancel=wish)
    )
    return conn.execute(statement).rowcount > 0
