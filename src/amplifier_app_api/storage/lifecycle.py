"""What happens to a session outside its turns, each in one transaction."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.event import (
    Event,
    Notice,
    SessionClosed,
    SessionCreated,
    SessionResumed,
    ToolCompleted,
    TurnInterrupted,
)
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.messages import NewMessage, insert_messages, open_tool_calls
from amplifier_app_api.storage.sessions import (
    SessionRecord,
    advance,
    advance_to_idle,
    change_session,
    get_session,
    insert_session,
)
from amplifier_app_api.storage.turns import all_open_turns, end_turn

LOST_CALL = "The server stopped before this call had a result; whether it took effect is not known."


def create_session(
    conn: Connection, record: SessionRecord, *, session: Session, notices: Sequence[Notice]
) -> list[StoredEvent]:
    """Store a session that was opened, with its first events."""
    news = [SessionCreated(config_id=session.config_id, revision=session.revision), *notices]
    insert_session(conn, record, session=session.model_copy(update={"last_seq": len(news)}))
    return insert_events(
        conn,
        news,
        session_id=session.session_id,
        turn_id=None,
        first_seq=1,
        at=session.created_at,
        within=record.tenant_id,
    )


def mark_failed(conn: Connection, session_id: str, error: dict[str, Any], *, within: str) -> None:
    """A session could not be opened: it takes no messages until it is resumed."""
    change_session(conn, session_id, {"status": SessionStatus.FAILED.value, "error": error}, within=within)


def mark_resumed(conn: Connection, session_id: str, *, within: str) -> tuple[Session | None, list[StoredEvent]]:
    """A session that is open takes messages. Its log says so when it did not before."""
    before = get_session(conn, session_id, within=within, to_change=True)
    if before is None or before.session.status is SessionStatus.ACTIVE:
        return (None if before is None else before.session), []
    stored = _log(conn, session_id, [SessionResumed()], epoch=before.epoch, within=within)
    after = change_session(conn, session_id, {"status": SessionStatus.ACTIVE.value, "error": None}, within=within)
    return (None if after is None else after.session), stored


def edit_session(
    conn: Connection, session_id: str, edit: Callable[[Session], Mapping[str, Any]], *, within: str
) -> tuple[Session | None, list[StoredEvent]]:
    """Change what `edit` makes of the session as it is now. Its log says so when it is closed by that.

    Nothing comes in between: what `edit` raises, say because a turn runs, is raised before anything changed.
    """
    before = get_session(conn, session_id, within=within, to_change=True)
    if before is None:
        return None, []
    values = edit(before.session)
    stored: list[StoredEvent] = []
    status = values.get("status")
    if status is not None:
        stored = _log(conn, session_id, [SessionClosed(status=status)], epoch=before.epoch, within=within)
    after = change_session(conn, session_id, values, within=within)
    return (None if after is None else after.session), stored


def sweep_lost_turns(conn: Connection) -> list[str]:
    """End every turn that a server left behind, and give back their ids.

    Only for a server that has the database to itself, before it takes requests: whoever ran these turns is gone.
    """
    lost = all_open_turns(conn)
    for turn_id, session_id, tenant_id in lost:
        _interrupt(conn, turn_id, session_id, tenant_id)
    return [turn_id for turn_id, _, _ in lost]


def _interrupt(conn: Connection, turn_id: str, session_id: str, tenant_id: str) -> None:
    now = utc_now()
    calls = open_tool_calls(conn, turn_id)
    rows = [synthetic_result(turn_id, call_id, tool, LOST_CALL) for call_id, tool in calls]
    news: list[Event] = [
        ToolCompleted(call_id=call_id, ok=False, output=LOST_CALL, truncated=False, ms=0) for call_id, _ in calls
    ]
    news.append(TurnInterrupted(stop_reason=StopReason.NODE_LOST, usage=TokenUsage()))
    record = get_session(conn, session_id, within=tenant_id)
    if record is None:
        return
    counters = advance_to_idle(
        conn, session_id, epoch=record.epoch, events=len(news), messages=len(rows), now=now, new_epoch=True
    )
    if counters is None:
        return
    end_turn(conn, turn_id, status=TurnStatus.INTERRUPTED, stop_reason=StopReason.NODE_LOST, ended_at=now)
    first_position = counters.last_position - len(rows) + 1
    insert_messages(conn, rows, session_id=session_id, first_position=first_position, within=tenant_id)
    first_seq = counters.last_seq - len(news) + 1
    insert_events(conn, news, session_id=session_id, turn_id=turn_id, first_seq=first_seq, at=now, within=tenant_id)


def synthetic_result(turn_id: str, call_id: str, tool: str, said: str) -> NewMessage:
    """The row that answers an open call, so that the history is valid for every provider."""
    return NewMessage(
        message_id=str(uuid.uuid4()),
        turn_id=turn_id,
        role="tool",
        content=said,
        created_at=utc_now(),
        kernel={"role": "tool", "tool_call_id": call_id, "name": tool, "content": said},
        tool_call_id=call_id,
        name=tool,
        metadata={"synthetic": True},
    )


def _log(conn: Connection, session_id: str, news: Sequence[Event], *, epoch: int, within: str) -> list[StoredEvent]:
    counters = advance(conn, session_id, epoch=epoch, events=len(news))
    if counters is None:
        return []
    first = counters.last_seq - len(news) + 1
    return insert_events(conn, news, session_id=session_id, turn_id=None, first_seq=first, at=utc_now(), within=within)
