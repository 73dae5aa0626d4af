"""Requests that come late, and those that ask for what no well-behaved client asks for."""

import asyncio
from typing import Any

import httpx2
import orjson
import pytest
from sqlalchemy import Connection, delete

from amplifier_app_api.events.place import Place
from amplifier_app_api.services import Services
from amplifier_app_api.storage.tables import sessions

KEY = {"Idempotency-Key": "once"}


async def say(client: httpx2.AsyncClient, session_id: str, text: str) -> dict[str, Any]:
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


# Late.


async def test_a_stream_that_is_asked_for_again_when_its_events_are_gone_still_gives_the_answer(
    client: httpx2.AsyncClient, session_id: str, follow: Any
) -> None:
    first = await client.post(f"/sessions/{session_id}/stream", json={"message": "hello"}, headers=KEY)
    assert first.status_code == 200
    pruned = await client.post(f"/sessions/{session_id}/prune", json={"older_than": 0})
    assert pruned.json()["pruned_events"] > 0

    async with asyncio.timeout(5):
        again = await client.post(f"/sessions/{session_id}/stream", json={"message": "hello"}, headers=KEY)

    assert again.headers["idempotency-replayed"] == "true"
    told = [line.removeprefix("event: ") for line in again.text.splitlines() if line.startswith("event: ")]
    assert told == ["connected", "response", "done"]
    assert '"content":"hello"' in again.text


async def test_who_follows_a_session_that_another_process_deletes_comes_to_an_end(
    services: Services, client: httpx2.AsyncClient, session_id: str
) -> None:
    follower = await services.sessions.follow(session_id, after=Place(0))
    assert await follower.next_batch(1)

    def gone(conn: Connection) -> None:
        conn.execute(delete(sessions).where(sessions.c.session_id == session_id))

    await services.db.write(gone)

    async with asyncio.timeout(5):
        while (batch := await follower.next_batch(0.01)) is None:
            pass
    assert batch == []
    await follower.close()


async def test_who_comes_from_beyond_the_end_of_the_log_hears_what_happens_next(
    services: Services, client: httpx2.AsyncClient, session_id: str
) -> None:
    follower = await services.sessions.follow(session_id, after=Place(10_000))
    assert await follower.next_batch(0.01) is None

    await say(client, session_id, "hello")

    async with asyncio.timeout(5):
        batch = await follower.next_batch(5)
    assert batch
    assert next(item.seq for item in batch if item.seq is not None) == 2
    await follower.close()


# Strange.


async def exported(client: httpx2.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    await say(client, session_id, "hello")
    body = (await client.get(f"/sessions/{session_id}/export")).content
    return [orjson.loads(line) for line in body.splitlines()]


async def load(client: httpx2.AsyncClient, records: list[dict[str, Any]]) -> httpx2.Response:
    body = b"\n".join(map(orjson.dumps, records))
    return await client.post("/sessions/import", content=body, headers={"Content-Type": "application/x-ndjson"})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("session", "usage", {"cost_usd": "NaN"}),
        ("session", "usage", {"cost_usd": "a lot"}),
        ("session", "usage", {"cost_usd": "1E-999999"}),
        ("session", "usage", {"input_tokens": -1}),
        ("session", "message_count", 2**63),
        ("session", "created_at", "0001-01-01T00:00:00+14:00"),
        ("turn", "number", 2**63 - 1),
        ("turn", "number", 2**64 - 1),
        ("turn", "iterations", 2**63),
        ("turn", "attempt", 2**63),
        ("turn", "usage", {"output_tokens": 2**63}),
        ("turn", "usage", {"cost_usd": "Infinity"}),
        ("turn", "created_at", "0001-01-01T00:00:00+14:00"),
        ("turn", "ended_at", "9999-12-31T23:59:59-14:00"),
        ("message", "created_at", "0001-01-01T00:00:00+14:00"),
    ],
)
async def test_numbers_and_times_that_no_row_can_hold_are_refused_in_an_import(
    client: httpx2.AsyncClient, session_id: str, kind: str, field: str, value: Any
) -> None:
    records = await exported(client, session_id)
    next(record for record in records if record["type"] == kind)[field] = value

    refused = await load(client, records)

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_document")
    assert refused.json()["errors"][0]["line"] is not None


async def test_line_separators_inside_texts_do_not_end_a_line_of_an_import(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    text = "one\u2028two\u2029three\x85four\r\nfive\x0bsix\x1cseven"
    await say(client, session_id, text)
    body = (await client.get(f"/sessions/{session_id}/export")).content

    loaded = await client.post("/sessions/import", content=body, headers={"Content-Type": "application/x-ndjson"})

    assert loaded.status_code == 201, loaded.text
    messages = (await client.get(f"/sessions/{loaded.json()['session_id']}/messages")).json()["messages"]
    assert messages[0]["content"] == text


@pytest.mark.parametrize("cost", ["1E-999999999", "1e-10", "0", "NaN", "Infinity", "-1"])
async def test_a_budget_of_no_amount_is_refused(client: httpx2.AsyncClient, session_id: str, cost: str) -> None:
    body = {"message": "hello", "budget": {"cost_usd": cost}}

    refused = await client.post(f"/sessions/{session_id}/messages", json=body)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert len(refused.content) < 2000
