"""`GET /sessions/{session_id}/events`: follow a session, from anywhere in it."""

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Query

from amplifier_app_api.api.deps import SessionId, Sessions, StreamPing
from amplifier_app_api.api.errors import InvalidRequest
from amplifier_app_api.api.refusals import READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.api.sse import EventStream
from amplifier_app_api.core.session_manager import SessionNotFound
from amplifier_app_api.errors import ErrorItem

router = json_router(prefix="/sessions/{session_id}", tag="sessions")

# `<seq>` of a durable event, or `<seq>.<request>.<block>.<offset>` of a delta; digits that fit 64 bits.
PLACE = re.compile(r"(-1|\d{1,18})|(\d{1,18})(\.\d{1,18}){3}", re.ASCII)

EVENT_SCHEMA = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "description": "The type of the event"},
        "id": {"type": "string", "description": "The place to come back to, as `Last-Event-ID`"},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "One line of JSON"},
    },
}
EVENT_EXAMPLE = {"event": "turn.started", "id": "3", "data": '{"seq":3,"type":"turn.started"}'}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, each as the schema says",
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA, "example": EVENT_EXAMPLE}},
    }
}


def place_of(text: str, *, pointer: str) -> int:
    """The number of the last event that the caller saw; -1 is the same as 0, nothing yet.

    A place inside a sentence means the durable event before it. Raises InvalidRequest for anything else.
    """
    if PLACE.fullmatch(text) is None:
        detail = "must be the id of an event, or -1 for all"
        raise InvalidRequest(
            f"The place to go on from {detail}", items=[ErrorItem(code="invalid_value", detail=detail, pointer=pointer)]
        )
    return max(int(text.partition(".")[0]), 0)


async def place_to_go_on(
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="The id of the last event seen; goes before `after`")
    ] = None,
    after: Annotated[
        str | None, Query(max_length=100, description="The same, for clients that cannot send the header; -1: all")
    ] = None,
) -> int:
    """Where the caller left. Nothing given: the beginning."""
    if last_event_id:
        return place_of(last_event_id, pointer="/header/last-event-id")
    return place_of(after, pointer="/query/after") if after is not None else 0


@router.get(
    "/events",
    status_code=200,
    response_class=EventStream,
    responses={**EVENTS, **documented(SessionNotFound, *READING)},
)
async def follow_session(
    session_id: SessionId, sessions: Sessions, ping: StreamPing, after: Annotated[int, Depends(place_to_go_on)]
) -> EventStream:
    """Everything that happened in a session after a place in it, then what happens, as it happens."""
    return EventStream(await sessions.follow(session_id, after=after), ping=ping)
