"""Messages, streams and cancelling, as a client sees them."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
from fastapi import FastAPI

Frames = Callable[[str], list[Any]]


async def test_a_message_waits_for_its_answer(client: httpx2.AsyncClient, config_id: str, session_id: str) -> None:
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": "hello", "context": {"k": 1}})

    assert answer.status_code == 200
    turn = answer.json()
    assert (turn["session_id"], turn["response"]) == (session_id, "hello")
    assert (turn["status"], turn["stop_reason"]) == ("completed", "end_turn")
    assert turn["metadata"] == {"config_id": config_id, "revision": 1}
    session = (await client.get(f"/sessions/{session_id}")).json()
    assert (session["message_count"], session["usage"]) == (1, turn["usage"])


async def test_the_transcript_is_read_in_pages_and_whole(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    for message in ("one", "two"):
        await client.post(f"{path}/messages", json={"message": message})

    whole = (await client.get(path, params={"include": "transcript"})).json()["transcript"]
    page = (await client.get(f"{path}/messages", params={"limit": 3})).json()
    rest = (await client.get(f"{path}/messages", params={"cursor": page["next_cursor"]})).json()

    assert [message["role"] for message in whole] == ["user", "assistant", "user", "assistant"]
    assert [message["position"] for message in whole] == [1, 2, 3, 4]
    assert page["messages"] + rest["messages"] == whole
    assert (page["total"], rest["next_cursor"]) == (4, None)


async def test_a_stream_is_framed_and_numbered(client: httpx2.AsyncClient, session_id: str, frames_of: Frames) -> None:
    answer = await client.post(f"/sessions/{session_id}/stream", json={"message": "hello there"})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.startswith(": open\nretry: 1000\n\n")
    frames = frames_of(answer.text)
    assert [frame.type for frame in frames if frame.type != "message.delta"] == [
        "connected",
        "turn.started",
        "message.user",
        "message.completed",
        "usage.updated",
        "turn.completed",
        "response",
        "done",
    ]
    assert all(frame.data["type"] == frame.type for frame in frames)
    assert [frame.id for frame in frames if frame.type in ("connected", "response", "done")] == [None] * 3
    assert "".join(frame.data["text"] for frame in frames if frame.type == "message.delta") == "hello there"
    assert frames[-2].data["content"] == "hello there"
    assert (frames[-1].data["status"], frames[-1].data["stop_reason"]) == ("completed", "end_turn")


async def test_a_turn_that_fails_is_the_mapped_status_with_the_turn(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    failed = await client.post(f"/sessions/{session_id}/messages", json={"message": "[[error: status=429]]"})

    assert (failed.status_code, failed.json()["code"]) == (429, "provider_rate_limited")
    assert failed.json()["turn_id"]
    assert (await client.get(f"/sessions/{session_id}")).json()["status"] == "active"
    assert (await client.post(f"/sessions/{session_id}/messages", json={"message": "hi"})).status_code == 200


async def test_a_stream_that_fails_ends_with_error_alone(
    client: httpx2.AsyncClient, session_id: str, frames_of: Frames
) -> None:
    answer = await client.post(f"/sessions/{session_id}/stream", json={"message": "[[error: status=400]]"})

    assert answer.status_code == 200
    last = frames_of(answer.text)[-1]
    assert (last.type, last.id, last.data["code"]) == ("error", None, "provider_rejected")
    assert "response" not in [frame.type for frame in frames_of(answer.text)]


async def test_one_turn_at_a_time_and_cancel_keeps_what_was_said(
    client: httpx2.AsyncClient, session_id: str, follow: Any
) -> None:
    path = f"/sessions/{session_id}"
    slow = {"message": "[[slow: tokens=1000 delay_ms=20]]"}
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.post(f"{path}/messages", json=slow))
        frames = await follow(f"{path}/events", until=lambda seen: any(f.type == "message.delta" for f in seen))
        running = next(frame for frame in frames if frame.type == "turn.started").data["turn_id"]

        for refused in (
            await client.post(f"{path}/messages", json={"message": "hi"}),
            await client.post(f"{path}/stream", json={"message": "hi"}),
            await client.patch(path, json={"status": "completed"}),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
            assert refused.json()["turn_id"] == running

        cancelled = await client.post(f"{path}/cancel")

    assert cancelled.json() == {
        "session_id": session_id,
        "turn_id": running,
        "status": "cancelled",
        "message": "Cancellation requested",
    }
    outcome = waiting.result()
    assert (outcome.status_code, outcome.json()["status"], outcome.json()["stop_reason"]) == (
        200,
        "cancelled",
        "user_cancel",
    )
    last = (await client.get(f"{path}/messages")).json()["messages"][-1]
    assert (last["role"], last["interrupted"]) == ("assistant", True)


async def test_nothing_to_cancel_is_no_error(client: httpx2.AsyncClient, session_id: str) -> None:
    for body in (None, {"immediate": False}):
        answer = await client.post(f"/sessions/{session_id}/cancel", json=body)

        assert (answer.status_code, answer.json()["message"]) == (200, "Nothing to cancel")


async def test_a_stream_that_nobody_reads_any_more_goes_on(
    client: httpx2.AsyncClient, app: FastAPI, session_id: str, follow: Any
) -> None:
    body = b'{"message": "[[slow: tokens=20 delay_ms=5]]"}'
    left = await follow(
        f"/sessions/{session_id}/stream",
        body=body,
        until=lambda seen: any(frame.type == "message.delta" for frame in seen),
    )
    assert "done" not in [frame.type for frame in left]

    rest = await follow(
        f"/sessions/{session_id}/events", until=lambda seen: any(frame.type == "turn.completed" for frame in seen)
    )

    assert rest[-1].data["response"].startswith("w0 w1 ")
