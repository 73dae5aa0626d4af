"""Turns as a resource: created, listed, read and cancelled over HTTP."""

import asyncio
import uuid
from typing import Any

import httpx2
import pytest

SLOW = {"message": "[[slow: tokens=5000 delay_ms=5]]"}


async def begin(client: httpx2.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    """Create a turn; its JSON."""
    answer = await client.post(f"{path}/turns", json={**SLOW, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def end_of(client: httpx2.AsyncClient, path: str, turn_id: str, follow: Any) -> dict[str, Any]:
    """The turn, once its end is in the log."""
    endings = ("turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted")
    await follow(
        f"{path}/events",
        until=lambda seen: any(f.type in endings and f.data["turn_id"] == turn_id for f in seen),
    )
    return (await client.get(f"{path}/turns/{turn_id}")).json()


async def test_a_turn_is_created_at_once_and_read_until_it_has_ended(
    client: httpx2.AsyncClient, session_id: str, follow: Any
) -> None:
    path = f"/sessions/{session_id}"
    answer = await client.post(f"{path}/turns", json={"message": "hello", "budget": {"tokens": 1000}})

    turn = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{path}/turns/{turn['turn_id']}"
    assert (turn["session_id"], turn["number"], turn["attempt"]) == (session_id, 1, 1)
    ended = await end_of(client, path, turn["turn_id"], follow)
    assert (ended["status"], ended["stop_reason"], ended["response"]) == ("completed", "end_turn", "hello")
    assert (ended["iterations"], ended["tool_calls"], ended["code"], ended["error"]) == (1, 0, None, None)
    assert ended["budget"]["tokens"] == 1000
    assert ended["usage"] == (await client.get(path)).json()["usage"]
    assert ended["created_at"] <= ended["started_at"] < ended["ended_at"]


async def test_a_failed_turn_is_read_with_its_code(client: httpx2.AsyncClient, session_id: str, follow: Any) -> None:
    path = f"/sessions/{session_id}"
    turn = await begin(client, path, message="[[error: status=429]]")

    ended = await end_of(client, path, turn["turn_id"], follow)

    assert (ended["status"], ended["stop_reason"], ended["code"]) == ("failed", "error", "provider_rate_limited")
    assert ended["error"] and ended["response"] is None


async def test_turns_are_listed_newest_first_in_pages_and_by_status(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    for message in ("one", "two", "[[error: status=400]]"):
        await client.post(f"{path}/messages", json={"message": message})

    page = (await client.get(f"{path}/turns", params={"limit": 2})).json()
    rest = (await client.get(f"{path}/turns", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    failed = (await client.get(f"{path}/turns", params={"status": "failed"})).json()

    assert [turn["number"] for turn in page["turns"] + rest["turns"]] == [3, 2, 1]
    assert (page["total"], page["limit"], rest["next_cursor"]) == (3, 2, None)
    assert [(turn["number"], turn["code"]) for turn in failed["turns"]] == [(3, "provider_rejected")]
    assert (await client.get(f"{path}/turns", params={"status": "odd"})).status_code == 422
    assert (await client.get(f"{path}/turns", params={"cursor": "odd"})).status_code == 422


async def test_turns_that_are_not_there_are_not_found(client: httpx2.AsyncClient, session_id: str) -> None:
    nobody, path = str(uuid.uuid4()), f"/sessions/{session_id}"

    for method, place, code in (
        ("GET", f"{path}/turns/{nobody}", "turn_not_found"),
        ("POST", f"{path}/turns/{nobody}/cancel", "turn_not_found"),
        ("GET", f"/sessions/{nobody}/turns/{nobody}", "session_not_found"),
        ("POST", f"/sessions/{nobody}/turns/{nobody}/cancel", "session_not_found"),
        ("GET", f"/sessions/{nobody}/turns", "session_not_found"),
    ):
        answer = await client.request(method, place)
        assert (answer.status_code, answer.json()["code"]) == (404, code), place
    refused = await client.post(f"/sessions/{nobody}/turns", json={"message": "hi"})
    assert (refused.status_code, refused.json()["code"]) == (404, "session_not_found")


async def test_a_turn_is_cancelled_by_its_id_whether_it_runs_or_waits(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    running = await begin(client, path)
    waiting = await begin(client, path, when_busy="queue", message="later")
    assert (waiting["status"], waiting["message"]) == ("queued", "later")

    for turn in (waiting, running):
        answer = (await client.post(f"{path}/turns/{turn['turn_id']}/cancel")).json()
        assert answer == {
            "session_id": session_id,
            "turn_id": turn["turn_id"],
            "status": "cancelled",
            "message": "Cancellation requested",
        }
    again = (await client.post(f"{path}/turns/{running['turn_id']}/cancel", json={"immediate": False})).json()
    assert (again["status"], again["message"]) == ("cancelled", "Nothing to cancel")


async def test_a_busy_session_answers_as_it_was_asked_to(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    running = await begin(client, path)

    refused = await client.post(f"{path}/turns", json={"message": "a"})
    steered = await client.post(f"{path}/messages", json={"message": "b", "when_busy": "steer"})
    streamed = await client.post(f"{path}/stream", json={"message": "c", "when_busy": "steer"})
    created = await client.post(f"{path}/turns", json={"message": "d", "when_busy": "steer"})
    odd = await client.post(f"{path}/turns", json={"message": "e", "when_busy": "panic"})
    interrupting = await client.post(f"{path}/messages", json={"message": "f", "when_busy": "interrupt"})

    assert (refused.status_code, refused.json()["turn_id"]) == (409, running["turn_id"])
    for answer in (steered, streamed, created):
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{path}/turns/{running['turn_id']}"
        assert answer.json() == {
            "session_id": session_id,
            "turn_id": running["turn_id"],
            "message_id": answer.json()["message_id"],
            "status": "pending",
        }
    assert (odd.status_code, odd.json()["errors"][0]["pointer"]) == (422, "/when_busy")
    assert (interrupting.status_code, interrupting.json()["response"]) == (200, "f")


async def test_a_message_that_waits_for_its_place_is_answered_in_the_end(
    client: httpx2.AsyncClient, session_id: str, follow: Any
) -> None:
    path = f"/sessions/{session_id}"
    await begin(client, path)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.post(f"{path}/messages", json={"message": "hello", "when_busy": "queue"}))
        await follow(f"{path}/events", until=lambda seen: any(frame.type == "turn.queued" for frame in seen))
        await client.post(f"{path}/cancel")

    assert (waiting.result().status_code, waiting.result().json()["response"]) == (200, "hello")


@pytest.mark.parametrize("budget", [{"tokens": 0}, {"unknown": 1}, {"cost_usd": -1}])
async def test_a_budget_that_makes_no_sense_is_refused(
    client: httpx2.AsyncClient, session_id: str, budget: dict[str, Any]
) -> None:
    answer = await client.post(f"/sessions/{session_id}/turns", json={"message": "hi", "budget": budget})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await client.get(f"/sessions/{session_id}/turns")).json()["total"] == 0
