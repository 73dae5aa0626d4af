"""What happens inside a session: messages, streamed, waited for or left to themselves; turns, and cancelling."""

from typing import Annotated, Any

from fastapi import Path, Query, Response
from fastapi.responses import JSONResponse

from amplifier_app_api.api.deps import Paging, SessionId, Sessions, StreamPing
from amplifier_app_api.api.events import EVENTS
from amplifier_app_api.api.idempotency import KEYED, Once
from amplifier_app_api.api.refusals import CHANGING, OPENING, READING, TURN, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.api.sse import EventStream
from amplifier_app_api.core.idempotency import KeptAnswer, RequestKey
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed, SessionNotFound, TurnNotFound
from amplifier_app_api.core.session_turns import Opened
from amplifier_app_api.models import MessageRequest, MessageResponse, Turn, TurnStatus
from amplifier_app_api.models.session import CancelRequest, CancelResponse, SteeringResponse, TurnListResponse
from amplifier_app_api.runtime.sending import PENDING, Sent

router = json_router(prefix="/sessions/{session_id}", tag="sessions")

ACCEPTING = (SessionNotFound, SessionBusy, SessionClosed, *KEYED, *OPENING, *CHANGING)
STEERED: dict[int | str, dict[str, Any]] = {
    202: {"model": SteeringResponse, "description": "Handed to the turn that runs (`when_busy: steer`)"}
}
LATER: dict[int | str, dict[str, Any]] = {
    202: {
        "model": MessageResponse | SteeringResponse,
        "description": "The turn waits for a person, or the message was handed to the turn that runs",
    }
}


@router.post("/messages", response_model=MessageResponse, responses={**LATER, **documented(*ACCEPTING, *TURN)})
async def send_message(session_id: SessionId, body: MessageRequest, sessions: Sessions, once: Once) -> Any:
    """Send a message and wait for the answer. `status` and `stop_reason` tell how the turn ended."""

    async def accept(key: RequestKey | None) -> Sent:
        return await sessions.accept_message(
            session_id, body.message, body.context, when_busy=body.when_busy, budget=body.budget, key=key
        )

    async def accepted_before(kept: KeptAnswer) -> Sent:
        return await sessions.sent_before(session_id, kept)

    answer = await sessions.answer_of(await once(accept, accepted_before))
    if answer["status"] in (PENDING, TurnStatus.WAITING):
        return later(answer, answer["turn_id"])
    return answer


@router.post(
    "/stream", status_code=200, response_class=EventStream, responses={**EVENTS, **STEERED, **documented(*ACCEPTING)}
)
async def stream_message(
    session_id: SessionId, body: MessageRequest, sessions: Sessions, ping: StreamPing, once: Once
) -> Response:
    """Send a message and follow its turn: `connected` first, the turn's events, `done` or `error` last.

    Whoever hangs up stops listening; the turn goes on and can be followed with `GET …/events`.
    """

    async def accept(key: RequestKey | None) -> Opened:
        return await sessions.accept_stream(
            session_id, body.message, body.context, when_busy=body.when_busy, budget=body.budget, key=key
        )

    async def accepted_before(kept: KeptAnswer) -> Opened:
        return await sessions.join_stream(session_id, kept)

    opened = await once(accept, accepted_before)
    if opened.follower is None:
        return later(_steering(opened.sent).model_dump(), opened.sent.turn_id)
    return EventStream(opened.follower, ping=ping)


@router.post("/turns", status_code=202, response_model=Turn | SteeringResponse, responses=documented(*ACCEPTING))
async def create_turn(
    session_id: SessionId, body: MessageRequest, sessions: Sessions, response: Response, once: Once
) -> Turn | SteeringResponse:
    """Send a message and wait for nothing: the turn runs, or waits for its place."""

    async def accept(key: RequestKey | None) -> Sent:
        return await sessions.accept_message(
            session_id, body.message, body.context, when_busy=body.when_busy, budget=body.budget, key=key
        )

    async def accepted_before(kept: KeptAnswer) -> Sent:
        return await sessions.sent_before(session_id, kept)

    sent = await once(accept, accepted_before)
    response.headers["Location"] = f"/sessions/{session_id}/turns/{sent.turn_id}"
    turn = await sessions.turn_of(sent)
    return turn if isinstance(turn, Turn) else _steering(turn)


@router.get("/turns", responses=documented(SessionNotFound, *READING))
async def list_turns(
    session_id: SessionId,
    sessions: Sessions,
    page: Paging,
    status: Annotated[TurnStatus | None, Query(description="Only turns with this status")] = None,
) -> TurnListResponse:
    """The turns of a session, the newest first."""
    found = await sessions.page_turns(session_id, page, status=status)
    if found is None:
        raise SessionNotFound(session_id)
    return TurnListResponse(
        turns=found.items, total=found.total, limit=page.limit, offset=page.offset, next_cursor=found.next_cursor
    )


@router.get("/turns/{turn_id}", responses=documented(SessionNotFound, TurnNotFound, *READING))
async def get_turn(session_id: SessionId, turn_id: Annotated[str, Path()], sessions: Sessions) -> Turn:
    """One turn: how far it is, or how it ended."""
    turn = await sessions.get_turn(session_id, turn_id)
    if turn is None:
        raise TurnNotFound(turn_id) if await sessions.get_session(session_id) else SessionNotFound(session_id)
    return turn


@router.post("/turns/{turn_id}/cancel", responses=documented(SessionNotFound, TurnNotFound, *CHANGING))
async def cancel_one_turn(
    session_id: SessionId, turn_id: Annotated[str, Path()], sessions: Sessions, body: CancelRequest | None = None
) -> CancelResponse:
    """Stop one turn, whether it runs or waits. One that has ended stays as it is."""
    outcome = await sessions.cancel_turn(session_id, turn_id, immediate=body.immediate if body else True)
    return CancelResponse.model_validate(outcome)


@router.post("/cancel", responses=documented(SessionNotFound, *CHANGING))
async def cancel_turn(session_id: SessionId, sessions: Sessions, body: CancelRequest | None = None) -> CancelResponse:
    """Stop the turn that runs, or else the next that waits, and keep what it said. Nothing to cancel is no error."""
    outcome = await sessions.cancel(session_id, immediate=body.immediate if body else True)
    return CancelResponse.model_validate(outcome)


def later(answer: dict[str, Any], turn_id: str) -> Response:
    """202: what is asked for is not there yet; `Location` names the turn that it comes from."""
    location = f"/sessions/{answer['session_id']}/turns/{turn_id}"
    return JSONResponse(answer, status_code=202, headers={"Location": location})


def _steering(sent: Sent) -> SteeringResponse:
    return SteeringResponse(session_id=sent.session_id, turn_id=sent.turn_id, message_id=sent.message_id)
