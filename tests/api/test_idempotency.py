"""`Idempotency-Key`: what was asked for once is made once."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from amplifier_app_api.services import Services

KEY = {"Idempotency-Key": "a-key"}
SLOW = "[[slow: tokens=5000 delay_ms=5]]"
Frames = Callable[[str], list[Any]]


def replayed(answer: httpx2.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


async def test_a_config_is_created_once_and_shown_as_it_was(client: httpx2.AsyncClient) -> None:
    body = {"name": "a", "yaml_content": "bundle:\n  name: a\n", "tags": {"k": "v"}}

    first = await client.post("/configs", json=body, headers=KEY)
    await client.patch(f"/configs/{first.json()['config_id']}", json={"name": "b", "yaml_content": "bundle: {name: b}"})
    again = await client.post("/configs", json=body, headers=KEY)

    assert (first.status_code, replayed(first)) == (201, False)
    assert (again.status_code, replayed(again)) == (201, True)
    assert again.json() == first.json()
    assert [again.headers[name] for name in ("etag", "location")] == [
        first.headers[name] for name in ("etag", "location")
    ]
    assert (await client.get("/configs")).json()["total"] == 1


async def test_a_config_that_was_deleted_is_not_made_again_by_its_old_request(client: httpx2.AsyncClient) -> None:
    body = {"name": "a", "yaml_content": "bundle:\n  name: a\n"}
    first = await client.post("/configs", json=body, headers=KEY)
    await client.delete(f"/configs/{first.json()['config_id']}")

    again = await client.post("/configs", json=body, headers=KEY)

    assert (again.status_code, again.json()["code"]) == (404, "config_not_found")
    assert (await client.get("/configs")).json()["total"] == 0
    told = (await client.get("/openapi.json")).json()["paths"]["/configs"]["post"]["responses"]["404"]
    assert list(told["content"]["application/problem+json"]["examples"]) == ["config_not_found"]


async def test_a_session_that_was_deleted_is_told_of_again_and_not_opened_again(
    client: httpx2.AsyncClient, config_id: str
) -> None:
    body = {"config_id": config_id}
    first = await client.post("/sessions", json=body, headers=KEY)
    await client.delete(f"/sessions/{first.json()['session_id']}")

    again = await client.post("/sessions", json=body, headers=KEY)

    assert (again.status_code, again.json()) == (201, first.json())
    assert (await client.get("/sessions")).json()["total"] == 0


async def test_a_session_is_opened_once(client: httpx2.AsyncClient, config_id: str) -> None:
    body = {"config_id": config_id, "title": "mine", "variables": {"SECRET": "hush"}, "budget": {"cost_usd": "0.5"}}

    first = await client.post("/sessions", json=body, headers=KEY)
    again = await client.post("/sessions", json=body, headers=KEY)

    assert (first.status_code, again.status_code, replayed(again)) == (201, 201, True)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert (await client.get("/sessions")).json()["total"] == 1
    assert "hush" not in again.text


async def test_a_name_for_a_bundle_is_registered_once(client: httpx2.AsyncClient) -> None:
    body = {"name": "mine", "uri": "https://example.com/bundle.md"}

    first = await client.post("/bundles", json=body, headers=KEY)
    again = await client.post("/bundles", json=body, headers=KEY)

    assert (first.status_code, again.status_code, replayed(again)) == (201, 201, True)
    assert again.json() == first.json()


async def test_the_same_key_for_something_else_is_refused(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}/messages"
    first = await client.post(path, json={"message": "one"}, headers=KEY)

    other = await client.post(path, json={"message": "two"}, headers=KEY)
    same = await client.post(
        path, content=b'{ "message" : "one" }', headers={**KEY, "Content-Type": "application/json"}
    )

    assert first.status_code == 200
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    assert (same.status_code, replayed(same)) == (200, True)


async def test_a_key_counts_for_one_route_of_one_session(
    client: httpx2.AsyncClient, config_id: str, session_id: str
) -> None:
    other = (await client.post("/sessions", json={"config_id": config_id})).json()["session_id"]
    places = [f"/sessions/{session_id}/messages", f"/sessions/{session_id}/turns", f"/sessions/{other}/messages"]

    body = {"message": "hi", "when_busy": "queue"}
    answers = [await client.post(place, json=body, headers=KEY) for place in places]

    assert [replayed(answer) for answer in answers] == [False, False, False]
    assert len({answer.json()["turn_id"] for answer in answers}) == 3


@pytest.mark.parametrize("key", ["", " ", "a key", "ü", "x" * 256])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, config_id: str, key: str) -> None:
    headers = [(b"idempotency-key", key.encode())]

    answer = await client.post("/sessions", json={"config_id": config_id}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await client.get("/sessions")).json()["total"] == 0


@pytest.mark.parametrize("depth", [300, 900])
async def test_a_key_changes_nothing_in_what_is_wrong_with_a_body(
    client: httpx2.AsyncClient, session_id: str, depth: int
) -> None:
    body = f'{{"message": "hello", "context": {{"deep": {"[" * depth}{"]" * depth}}}}}'
    headers = {"Content-Type": "application/json"}

    without = await client.post(f"/sessions/{session_id}/messages", content=body, headers=headers)
    with_key = await client.post(f"/sessions/{session_id}/messages", content=body, headers={**headers, **KEY})

    assert (without.status_code, without.json()["code"]) == (422, "invalid_request")
    assert (with_key.status_code, with_key.json()["errors"]) == (422, without.json()["errors"])


async def test_a_message_is_answered_again_with_the_answer_it_had(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    first = await client.post(f"{path}/messages", json={"message": "hello"}, headers=KEY)
    await client.post(f"{path}/messages", json={"message": "next"})

    again = await client.post(f"{path}/messages", json={"message": "hello"}, headers=KEY)

    assert (again.status_code, replayed(again), again.json()) == (200, True, first.json())
    assert (await client.get(path)).json()["message_count"] == 2


async def test_a_message_whose_turn_failed_fails_again_and_is_not_sent_again(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    body = {"message": "[[error: status=429]]"}
    first = await client.post(f"/sessions/{session_id}/messages", json=body, headers=KEY)

    again = await client.post(f"/sessions/{session_id}/messages", json=body, headers=KEY)

    assert (again.status_code, replayed(again)) == (429, True)
    for name in ("code", "detail", "turn_id"):
        assert again.json()[name] == first.json()[name]
    assert (await client.get(f"/sessions/{session_id}/turns")).json()["total"] == 1


async def test_a_refusal_is_not_kept(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    await client.post(f"{path}/turns", json={"message": SLOW})
    refused = await client.post(f"{path}/messages", json={"message": "hi"}, headers=KEY)
    await client.post(f"{path}/cancel")

    again = await client.post(f"{path}/messages", json={"message": "hi"}, headers=KEY)

    assert (refused.status_code, again.status_code, replayed(again)) == (409, 200, False)


async def test_a_message_sent_twice_while_its_turn_runs_gets_one_answer_twice(
    client: httpx2.AsyncClient, session_id: str, follow: Any
) -> None:
    path, body = f"/sessions/{session_id}", {"message": SLOW}
    async with asyncio.TaskGroup() as group:
        first = group.create_task(client.post(f"{path}/messages", json=body, headers=KEY))
        await follow(f"{path}/events", until=lambda seen: any(frame.type == "message.delta" for frame in seen))
        second = group.create_task(client.post(f"{path}/messages", json=body, headers=KEY))
        await client.post(f"{path}/turns", json={"message": "behind", "when_busy": "queue"})
        await client.post(f"{path}/cancel")

    assert (replayed(first.result()), replayed(second.result())) == (False, True)
    assert first.result().json() == second.result().json()
    assert first.result().json()["status"] == "cancelled"


async def test_a_stream_that_is_asked_for_again_is_told_from_its_beginning(
    client: httpx2.AsyncClient, session_id: str, frames_of: Frames
) -> None:
    path = f"/sessions/{session_id}/stream"
    first = frames_of((await client.post(path, json={"message": "hello there"}, headers=KEY)).text)

    answer = await client.post(path, json={"message": "hello there"}, headers=KEY)

    again = frames_of(answer.text)
    assert replayed(answer)
    durable = [frame.id for frame in first if frame.type not in ("message.delta", "connected", "response", "done")]
    assert [
        frame.id for frame in again if frame.type not in ("message.delta", "connected", "response", "done")
    ] == durable
    assert again[0].type == "connected"
    assert [frame.data for frame in again[-2:]] == [frame.data for frame in first[-2:]]
    assert (await client.get(f"/sessions/{session_id}")).json()["message_count"] == 1


async def test_a_stream_is_joined_while_its_turn_runs(client: httpx2.AsyncClient, session_id: str, follow: Any) -> None:
    path, body = f"/sessions/{session_id}", b'{"message": "[[slow: tokens=5000 delay_ms=5]]"}'
    headers = {**KEY, "Content-Type": "application/json"}
    told = lambda seen: any(frame.type == "message.delta" for frame in seen)  # noqa: E731 - said twice

    first = await follow(f"{path}/stream", until=told, body=body, headers=headers)
    second = await follow(f"{path}/stream", until=told, body=body, headers=headers)
    await client.post(f"{path}/cancel")

    started = [next(frame for frame in seen if frame.type == "turn.started") for seen in (first, second)]
    assert started[0].data == started[1].data
    assert next(frame for frame in second if frame.type == "message.delta").data["offset"] == 0


async def test_a_turn_is_created_once_and_shown_as_it_is_now(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    first = await client.post(f"{path}/turns", json={"message": SLOW}, headers=KEY)
    queued = await client.post(
        f"{path}/turns", json={"message": "later", "when_busy": "queue"}, headers={"Idempotency-Key": "other"}
    )
    again = await client.post(
        f"{path}/turns", json={"message": "later", "when_busy": "queue"}, headers={"Idempotency-Key": "other"}
    )
    await client.post(f"{path}/turns/{first.json()['turn_id']}/cancel")
    after = await client.post(f"{path}/turns", json={"message": SLOW}, headers=KEY)

    assert [answer.status_code for answer in (first, queued, again, after)] == [202] * 4
    assert (replayed(again), again.json()) == (True, queued.json())
    assert (after.json()["turn_id"], after.json()["status"]) == (first.json()["turn_id"], "cancelled")
    assert after.headers["location"] == first.headers["location"]
    assert (await client.get(f"{path}/turns")).json()["total"] == 2


async def test_a_message_that_steers_is_handed_over_once(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    await client.post(f"{path}/turns", json={"message": SLOW})
    body = {"message": "more", "when_busy": "steer"}

    first = await client.post(f"{path}/messages", json=body, headers=KEY)
    again = await client.post(f"{path}/messages", json=body, headers=KEY)

    assert (first.status_code, again.status_code, replayed(again)) == (202, 202, True)
    assert again.json() == first.json()
    assert (await client.get(path)).json()["message_count"] == 2


async def test_of_many_requests_with_one_key_one_is_carried_out(client: httpx2.AsyncClient, config_id: str) -> None:
    async def create() -> httpx2.Response:
        return await client.post("/sessions", json={"config_id": config_id}, headers=KEY)

    answers = await asyncio.gather(*(create() for _ in range(20)))

    made = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.json()["session_id"] for answer in made}) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code != 201} <= {"key_in_progress"}
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert (await client.get("/sessions")).json()["total"] == 1


async def test_a_request_whose_first_one_is_still_being_carried_out_is_told_so(
    client: httpx2.AsyncClient, config_id: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, begun, go_on = services.runtime.create, asyncio.Event(), asyncio.Event()

    async def held(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await create(*args, **kwargs)

    monkeypatch.setattr(services.runtime, "create", held)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(client.post("/sessions", json={"config_id": config_id}, headers=KEY))
        await begun.wait()
        second = await client.post("/sessions", json={"config_id": config_id}, headers=KEY)
        go_on.set()

    assert (second.status_code, second.json()["code"]) == (409, "key_in_progress")
    assert second.headers["retry-after"] == "1"
    assert first.result().status_code == 201
