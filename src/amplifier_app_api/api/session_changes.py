"""What a session runs, and what runs below it: upgrades and children."""

from amplifier_app_api.api.deps import Paging, SessionId, Sessions
from amplifier_app_api.api.refusals import CHANGING, OPENING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import RevisionNotFound
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed, SessionNotFound
from amplifier_app_api.models import SessionListResponse, SessionResponse
from amplifier_app_api.models.session import UpgradeRequest

router = json_router(prefix="/sessions/{session_id}", tag="sessions")


@router.post(
    "/upgrade", responses=documented(SessionNotFound, RevisionNotFound, SessionBusy, SessionClosed, *OPENING, *CHANGING)
)
async def upgrade_session(
    session_id: SessionId, sessions: Sessions, body: UpgradeRequest | None = None
) -> SessionResponse:
    """Move the session to another revision of its Config; its history stays, and so do its children."""
    session = await sessions.upgrade_session(session_id, None if body is None else body.revision)
    if session is None:
        raise SessionNotFound(session_id)
    return SessionResponse.of(session, "Session upgraded successfully")


@router.get("/children", responses=documented(SessionNotFound, *READING))
async def list_children(session_id: SessionId, sessions: Sessions, page: Paging) -> SessionListResponse:
    """The sessions that this one delegated to, newest change first."""
    if await sessions.get_session(session_id) is None:
        raise SessionNotFound(session_id)
    found = await sessions.page_sessions(page, parent_id=session_id)
    return SessionListResponse(
        sessions=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )
