"""`GET /sessions/{session_id}/events`: the log of a session, followed from anywhere in it or read as pages."""

from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Query, Response

from amplifier_app_api.api.deps import Paging, SessionId, Sessions, StreamPing
from amplifier_app_api.api.errors import InvalidRequest
from amplifier_app_api.api.negotiation import prefers_json
from amplifier_app_api.api.refusals import READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.api.sse import EventStream
from amplifier_app_api.core.session_manager import SessionNotFound
from amplifier_app_api.errors import ErrorItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.types import types_named
from amplifier_app_api.models.page import Page, PageRequest
from amplifier_app_api.storage.events import StoredEvent

router = json_router(prefix="/sessions/{session_id}", tag="sessions")

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
PAGE_SCHEMA = {
    "type": "object",
    "required": ["events", "total", "limit", "offset", "next_cursor"],
    "properties": {
        "events": {"type": "array", "items": {"type": "object", "required": ["seq", "type"]}},
        "total": {"type": "integer"},
        "limit": {"type": "integer"},
        "offset": {"type": "integer"},
        "next_cursor": {"type": ["string", "null"]},
    },
}
EVENTS_OR_PAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, or one page of the log for who asks for `application/json`",
        "content": {**EVENTS[200]["content"], "application/json": {"schema": PAGE_SCHEMA}},
    }
}


def place_of(text: str, *, pointer: str) -> Place:
    """The place of the last event that the caller saw; -1 is the same as 0, nothing yet.

    Raises InvalidRequest for what is no id of an event.
    """
    place = Place.parse(text)
    if place is None:
        raise _refused("must be the id of an event, or -1 for all", pointer, "The place to go on from")
    return place


async def place_to_go_on(
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="The id of the last event seen; goes before `after`")
    ] = None,
    after: Annotated[
        str | None, Query(max_length=100, description="The same, for clients that cannot send the header; -1: all")
    ] = None,
) -> Place:
    """Where the caller left. Nothing given: the beginning."""
    if last_event_id:
        return place_of(last_event_id, pointer="/header/last-event-id")
    return place_of(after, pointer="/query/after") if after is not None else Place(0)


async def asked_types(
    types: Annotated[
        str | None,
        Query(max_length=1000, description="Only these types, separated by commas; `turn.*` names a family"),
    ] = None,
) -> frozenset[str] | None:
    """The types to show. None: all."""
    if types is None:
        return None
    chosen: set[str] = set()
    for name in types.split(","):
        found = types_named(name.strip())
        if not found:
            raise _refused(f"{name.strip()[:100]!r} is no type of event", "/query/types", "The filter: a name in it")
        chosen |= found
    return frozenset(chosen)


def _refused(detail: str, pointer: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} {detail}", items=[ErrorItem(code="invalid_value", detail=detail, pointer=pointer)])


@router.get(
    "/events",
    status_code=200,
    response_class=EventStream,
    responses={**EVENTS_OR_PAGE, **documented(SessionNotFound, *READING)},
)
async def follow_session(
    session_id: SessionId,
    sessions: Sessions,
    ping: StreamPing,
    page: Paging,
    after: Annotated[Place, Depends(place_to_go_on)],
    types: Annotated[frozenset[str] | None, Depends(asked_types)],
    children: Annotated[bool, Query(description="With what happens in child sessions, as `child.event`")] = False,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Everything that happened in a session after a place in it, then what happens, as it happens.

    With `Accept: application/json` one page of the log: `limit`, `offset` and `cursor` are for that only.
    """
    if prefers_json(accept):
        found = await sessions.page_events(session_id, page, after=after.seq, types=types)
        if found is None:
            raise SessionNotFound(session_id)
        return _page_of(found, page)
    return EventStream(await sessions.follow(session_id, after=after, types=types, children=children), ping=ping)


def _page_of(found: Page[StoredEvent], page: PageRequest) -> Response:
    """The rows hold the events as they go out: nothing is taken apart and put together again."""
    content = {
        "events": [orjson.Fragment(event.data) for event in found.items],
        "total": found.total,
        "limit": page.limit,
        "offset": page.offset,
        "next_cursor": found.next_cursor,
    }
    return Response(orjson.dumps(content), media_type="application/json")
