"""Sessions made of other sessions: forks, exports and imports."""

from typing import Annotated, Any

from fastapi import Query, Request, Response
from starlette.responses import StreamingResponse

from amplifier_app_api.api.deps import Copies, SessionId
from amplifier_app_api.api.idempotency import KEYED, Once
from amplifier_app_api.api.refusals import CHANGING, READING, STORING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import ConfigNotFound
from amplifier_app_api.core.idempotency import RequestKey
from amplifier_app_api.core.imported import InvalidImport
from amplifier_app_api.core.session_copies import ChildSession
from amplifier_app_api.core.session_manager import SessionBusy, SessionNotFound, TurnNotFound
from amplifier_app_api.models import SessionResponse
from amplifier_app_api.models.fields import Text
from amplifier_app_api.models.session import ForkRequest, Session
from amplifier_app_api.models.transfer import MEDIA_TYPE

router = json_router(prefix="/sessions", tag="sessions")

LINES: dict[str, Any] = {
    MEDIA_TYPE: {"schema": {"type": "string", "description": "JSON lines, as `GET …/export` gives them"}}
}


@router.post(
    "/{session_id}/fork",
    status_code=201,
    responses=documented(SessionNotFound, TurnNotFound, SessionBusy, ChildSession, *KEYED, *CHANGING),
)
async def fork_session(
    session_id: SessionId, copies: Copies, response: Response, once: Once, body: ForkRequest | None = None
) -> SessionResponse:
    """A new session that begins with what this one said, up to a turn or to its last finished one."""

    async def fork(key: RequestKey | None) -> Session:
        session = await copies.fork(session_id, body or ForkRequest(), key=key)
        if session is None:
            raise SessionNotFound(session_id)
        return session

    session = await once(fork, copies.made_before)
    response.headers["Location"] = f"/sessions/{session.session_id}"
    return SessionResponse.of(session, "Session forked successfully")


@router.get(
    "/{session_id}/export",
    response_class=StreamingResponse,
    responses={200: {"description": "The session", "content": LINES}, **documented(SessionNotFound, *READING)},
)
async def export_session(session_id: SessionId, copies: Copies) -> StreamingResponse:
    """The session with its Config's text, turns, transcript and log, as JSON lines; the last says that it is whole."""
    lines = await copies.export(session_id)
    if lines is None:
        raise SessionNotFound(session_id)
    headers = {"Content-Disposition": f'attachment; filename="session-{session_id}.jsonl"'}
    return StreamingResponse(lines, media_type=MEDIA_TYPE, headers=headers)


@router.post(
    "/import",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": LINES}},
    responses=documented(InvalidImport, ConfigNotFound, *STORING, *KEYED, *CHANGING),
)
async def import_session(
    request: Request,
    copies: Copies,
    response: Response,
    once: Once,
    config_id: Annotated[Text | None, Query(max_length=200, description="Run this Config")] = None,
) -> SessionResponse:
    """Store a session from the lines of an export: the same transcript, under new ids."""
    body = await request.body()

    async def store(key: RequestKey | None) -> Session:
        return await copies.import_session(body, config_id=config_id, key=key)

    session = await once(store, copies.made_before)
    response.headers["Location"] = f"/sessions/{session.session_id}"
    return SessionResponse.of(session, "Session imported successfully")
