"""Following a session from anywhere in it."""

from typing import Any

import httpx2
import pytest


@pytest.fixture
async def path(client: httpx2.AsyncClient, session_id: str) -> str:
    """The events of a session with one finished turn."""
    await client.post(f"/sessions/{session_id}/messages", json={"message": "hello"})
    return f"/sessions/{session_id}/events"


def complete(frames: list[Any]) -> bool:
    return bool(frames) and frames[-1].type == "turn.completed"


async def test_the_log_is_the_stream(path: str, follow: Any) -> None:
    frames = await follow(path, until=complete)

    assert [frame.type for frame in frames] == [
        "session.created",
        "turn.started",
        "message.user",
        "message.completed",
        "usage.updated",
        "turn.completed",
    ]
    assert [frame.id for frame in frames] == ["1", "2", "3", "4", "5", "6"]
    assert [frame.data["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("header", ["3", "3.1.0.12"])
async def test_whoever_comes_back_sees_exactly_the_rest(path: str, follow: Any, header: str) -> None:
    whole = await follow(path, until=complete)

    assert await follow(path, headers={"Last-Event-ID": header}, until=complete) == whole[3:]
    assert await follow(path, query=f"after={header}", until=complete) == whole[3:]


async def test_minus_one_is_all_and_the_header_goes_before_the_query(path: str, follow: Any) -> None:
    whole = await follow(path, until=complete)

    assert await follow(path, query="after=-1", until=complete) == whole
    assert await follow(path, query="after=0", headers={"Last-Event-ID": "5"}, until=complete) == whole[5:]


@pytest.mark.parametrize("place", ["x", "1.2", "1.2.3.4.5", "-2", "1e3", "9" * 30, "٣"])
async def test_a_place_that_is_none_is_422(client: httpx2.AsyncClient, session_id: str, place: str) -> None:
    answer = await client.get(f"/sessions/{session_id}/events", params={"after": place})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == "/query/after"


async def test_a_header_that_is_none_is_422_and_named(client: httpx2.AsyncClient, session_id: str) -> None:
    answer = await client.get(f"/sessions/{session_id}/events", headers={"Last-Event-ID": "garbage"})

    assert answer.json()["errors"][0]["pointer"] == "/header/last-event-id"


async def test_what_happens_later_comes_as_it_happens(client: httpx2.AsyncClient, path: str, follow: Any) -> None:
    async def send_when_listening() -> None:
        await client.post(path.replace("/events", "/messages"), json={"message": "again"})

    frames = await follow(path, query="after=6", until=complete, when_open=send_when_listening)

    assert frames[0].id == "7"
    assert frames[-1].data["response"] == "again"


async def test_only_the_types_that_were_asked_for_come(path: str, follow: Any) -> None:
    frames = await follow(path, query="types=turn.*,message.user", until=complete)

    assert [frame.type for frame in frames] == ["turn.started", "message.user", "turn.completed"]
    assert [frame.id for frame in frames] == ["2", "3", "6"]


@pytest.mark.parametrize("types", ["nothing", "turn.started,nothing", "", "nothing.*", "connected"])
async def test_a_type_that_there_is_not_is_422(client: httpx2.AsyncClient, session_id: str, types: str) -> None:
    answer = await client.get(f"/sessions/{session_id}/events", params={"types": types})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == "/query/types"


async def test_the_log_is_read_in_pages_by_who_asks_for_json(client: httpx2.AsyncClient, path: str) -> None:
    json = {"Accept": "application/json"}
    whole = (await client.get(path, headers=json)).json()
    first = (await client.get(path, headers=json, params={"limit": 4})).json()
    rest = (await client.get(path, headers=json, params={"limit": 4, "cursor": first["next_cursor"]})).json()

    assert [event["seq"] for event in whole["events"]] == [1, 2, 3, 4, 5, 6]
    assert (whole["total"], whole["limit"], whole["offset"], whole["next_cursor"]) == (6, 50, 0, None)
    assert first["events"] + rest["events"] == whole["events"]
    assert (first["total"], rest["next_cursor"]) == (6, None)


async def test_a_page_takes_the_filters_of_the_stream(client: httpx2.AsyncClient, path: str) -> None:
    json = {"Accept": "application/json"}
    page = (await client.get(path, headers=json, params={"types": "turn.*", "after": "2.1.0.7", "offset": 0})).json()

    assert [event["type"] for event in page["events"]] == ["turn.completed"]
    assert page["total"] == 1


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json;q=0.5, text/event-stream"])
async def test_who_takes_a_stream_gets_one(path: str, follow: Any, accept: str) -> None:
    frames = await follow(path, headers={"Accept": accept}, until=complete)

    assert frames[-1].id == "6"


async def test_pages_of_a_session_that_there_is_not_are_404(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/sessions/none/events", headers={"Accept": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


async def test_a_cursor_of_another_list_is_422(client: httpx2.AsyncClient, path: str) -> None:
    cursor = "WyJ4IiwieSJd"
    answer = await client.get(path, headers={"Accept": "application/json"}, params={"cursor": cursor})

    assert answer.status_code == 422


async def test_a_session_without_children_is_followed_with_them_all_the_same(path: str, follow: Any) -> None:
    frames = await follow(path, query="children=true", until=complete)

    assert [frame.id for frame in frames] == ["1", "2", "3", "4", "5", "6"]
