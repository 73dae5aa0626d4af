"""`/sessions`: open one, list them, read, change and delete one, open it again."""

from typing import Annotated, Literal

from fastapi import Query, Response

from amplifier_app_api.api.deps import Paging, SessionId, Sessions
from amplifier_app_api.api.filters import TagFilter
from amplifier_app_api.api.idempotency import KEYED, Once
from amplifier_app_api.api.refusals import CHANGING, OPENING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import ConfigNotFound, RevisionNotFound
from amplifier_app_api.core.fields import tag_pair
from amplifier_app_api.core.idempotency import KeptAnswer, RequestKey
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed, SessionNotFound
from amplifier_app_api.models import Session, SessionCreateRequest, SessionListResponse, SessionResponse, SessionStatus
from amplifier_app_api.models.fields import Text
from amplifier_app_api.models.responses import Acknowledgement
from amplifier_app_api.models.session import MessageListResponse, SessionPatchRequest

router = json_router(prefix="/sessions", tag="sessions")


@router.post("", status_code=201, responses=documented(ConfigNotFound, RevisionNotFound, *KEYED, *OPENING, *CHANGING))
async def create_session(
    body: SessionCreateRequest, sessions: Sessions, response: Response, once: Once
) -> SessionResponse:
    """Open a session that runs a Config. A refusal stores nothing."""

    async def create(key: RequestKey | None) -> Session:
        return await sessions.create_session(
            body.config_id,
            revision=body.revision,
            variables=body.variables,
            title=body.title,
            tags=body.tags,
            working_dir=body.working_dir,
            allow_missing=body.allow_missing,
            budget=body.budget,
            key=key,
        )

    async def created_before(kept: KeptAnswer) -> Session:
        return Session.model_validate(kept.answer)

    session = await once(create, created_before)
    response.headers["Location"] = f"/sessions/{session.session_id}"
    return SessionResponse.of(session, "Session created successfully")


@router.get("", responses=documented(*READING))
async def list_sessions(
    sessions: Sessions,
    page: Paging,
    tag: TagFilter = None,
    status: Annotated[SessionStatus | None, Query(description="Only sessions with this status")] = None,
    config_id: Annotated[Text | None, Query(max_length=200, description="Only sessions of this Config")] = None,
    parent_id: Annotated[Text | None, Query(max_length=200, description="Only children of this session")] = None,
) -> SessionListResponse:
    """The sessions, newest change first. Children are listed only when their parent is named."""
    found = await sessions.page_sessions(
        page, status=status, config_id=config_id, tag=tag_pair(tag), parent_id=parent_id
    )
    return SessionListResponse(
        sessions=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )


@router.get("/{session_id}", responses=documented(SessionNotFound, *READING))
async def get_session(
    session_id: SessionId,
    sessions: Sessions,
    include: Annotated[Literal["transcript"] | None, Query(description="`transcript`: with all its messages")] = None,
) -> SessionResponse:
    """One session; with its transcript when asked for."""
    session = await sessions.get_session(session_id)
    if session is None:
        raise SessionNotFound(session_id)
    transcript = await sessions.transcript(session_id) if include == "transcript" else None
    return SessionResponse.of(session, transcript=transcript)


@router.patch("/{session_id}", responses=documented(SessionNotFound, SessionBusy, SessionClosed, *CHANGING))
async def patch_session(session_id: SessionId, body: SessionPatchRequest, sessions: Sessions) -> SessionResponse:
    """Change title, tags or status; a status other than `active` closes the session."""
    session = await sessions.patch_session(session_id, body.model_dump(exclude_unset=True))
    if session is None:
        raise SessionNotFound(session_id)
    return SessionResponse.of(session, "Session updated successfully")


@router.delete("/{session_id}", responses=documented(SessionNotFound, *READING))
async def delete_session(session_id: SessionId, sessions: Sessions) -> Acknowledgement:
    """Delete a session and everything in it. A running turn is cancelled first."""
    if not await sessions.delete_session(session_id):
        raise SessionNotFound(session_id)
    return Acknowledgement(message="Session deleted successfully")


@router.post("/{session_id}/resume", responses=documented(SessionNotFound, *OPENING, *READING))
async def resume_session(session_id: SessionId, sessions: Sessions) -> SessionResponse:
    """Open the session now; a closed or failed one takes messages again."""
    session = await sessions.resume_session(session_id)
    if session is None:
        raise SessionNotFound(session_id)
    return SessionResponse.of(session, "Session resumed successfully")


@router.get("/{session_id}/messages", responses=documented(SessionNotFound, *READING))
async def list_messages(session_id: SessionId, sessions: Sessions, page: Paging) -> MessageListResponse:
    """The transcript, oldest first."""
    found = await sessions.page_messages(session_id, page)
    if found is None:
        raise SessionNotFound(session_id)
    return MessageListResponse(
        messages=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )
