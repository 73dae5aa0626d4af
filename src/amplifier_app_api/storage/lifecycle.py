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
)
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.idempotency import RequestKey, keep_key
from amplifier_app_api.storage.messages import NewMessage
from amplifier_app_api.storage.sessions import (
    SessionRecord,
    advance,
    change_session,
    get_session,
    insert_session,
)


class ParentGone(Exception):
    """Rolls back: the parent of a new child session was deleted."""


def create_session(
    conn: Connection,
    record: SessionRecord,
    *,
    session: Session,
    notices: Sequence[Notice],
    key: RequestKey | None = None,
) -> list[StoredEvent]:
    """Store a session that was opened, with its first events. A child whose parent is gone by now is a `ParentGone`."""
    if session.parent_id is not None and not _held(conn, session.parent_id, within=record.tenant_id):
        raise ParentGone
    news = [SessionCreated(config_id=session.config_id, revision=session.revision), *notices]
    opened = session.model_copy(update={"last_seq": len(news)})
    insert_session(conn, record, session=opened)
    keep_key(conn, key, session.session_id, answer=opened.model_dump(mode="json"))
    return insert_events(
        conn,
        news,
        session_id=session.session_id,
        turn_id=None,
        first_seq=1,
        at=session.created_at,
        within=record.tenant_id,
    )


def _held(conn: Connection, session_id: str, *, within: str) -> bool:
    return get_session(conn, session_id, within=within, to_change=True) is not None


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
