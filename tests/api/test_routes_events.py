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
