"""What happens inside a session: messages, streamed or waited for, and cancelling."""

from typing import Any

from amplifier_app_api.api.deps import SessionId, Sessions, StreamPing
from amplifier_app_api.api.events import EVENTS
from amplifier_app_api.api.refusals import CHANGING, OPENING, TURN, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.api.sse import EventStream
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed, SessionNotFound
from amplifier_app_api.models import MessageRequest, MessageResponse
from amplifier_app_api.models.session import CancelRequest, CancelResponse

router = json_router(prefix="/sessions/{session_id}", tag="sessions")

ACCEPTING = (SessionNotFound, SessionBusy, SessionClosed, *OPENING, *CHANGING)


@router.post("/messages", response_model=MessageResponse, responses=documented(*ACCEPTING, *TURN))
async def send_message(session_id: SessionId, body: MessageRequest, sessions: Sessions) -> dict[str, Any]:
    """Send a message and wait for the answer. `status` and `stop_reason` tell how the turn ended."""
    return await sessions.send_message(session_id, body.message, body.context)


@router.post("/stream", status_code=200, response_class=EventStream, responses={**EVENTS, **documented(*ACCEPTING)})
async def stream_message(
    session_id: SessionId, body: MessageRequest, sessions: Sessions, ping: StreamPing
) -> EventStream:
    """Send a message and follow its turn: `connected` first, the turn's events, `done` or `error` last.

    Whoever hangs up stops listening; the turn goes on and can be followed with `GET …/events`.
    """
    return EventStream(await sessions.open_stream(session_id, body.message, body.context), ping=ping)


@router.post("/cancel", responses=documented(SessionNotFound, *CHANGING))
async def cancel_turn(session_id: SessionId, sessions: Sessions, body: CancelRequest | None = None) -> CancelResponse:
    """Stop the running turn and keep what it said. Nothing to cancel is no error."""
    outcome = await sessions.cancel(session_id, immediate=body.immediate if body else True)
    return CancelResponse.model_validate(outcome)
