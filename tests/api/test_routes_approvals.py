"""Approvals and usage over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from amplifier_app_api.models.turn import Budget
from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings
from runtime_bundles import MODULES, bundle_text, from_folder

ASKS = '[[tool: compass {"of": "east"}]] [[then: done]]'


@pytest.fixture
async def services(data_dir: Path) -> AsyncIterator[Services]:
    settings = Settings(data_dir=data_dir, default_config=False, source_roots=(MODULES,))
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
async def session(client: httpx2.AsyncClient) -> str:
    """The path of a session whose tool waits for a person."""
    return await opened(client)


async def opened(client: httpx2.AsyncClient, **body: Any) -> str:
    tools, hooks = [from_folder("tool-compass")], [from_folder("hooks-doorman", options=["allow", "deny"])]
    text = bundle_text(tools=tools, hooks=hooks, replies=[ASKS] * 3)
    config = (await client.post("/configs", json={"name": "asks", "yaml_content": text})).json()
    answer = await client.post("/sessions", json={"config_id": config["config_id"], **body})
    assert answer.status_code == 201, answer.text
    return f"/sessions/{answer.json()['session_id']}"


async def asked(client: httpx2.AsyncClient, session: str) -> dict[str, Any]:
    """Send a message; the approval that its turn waits for."""
    answer = await client.post(f"{session}/messages", json={"message": "go"})
    assert answer.status_code == 202, answer.text
    turn = (await client.get(answer.headers["Location"])).json()
    assert (turn["status"], turn["stop_reason"]) == ("waiting", None)
    [approval] = (await client.get(f"{session}/approvals?status=pending")).json()["approvals"]
    assert approval["turn_id"] == turn["turn_id"]
    return approval


async def ended(client: httpx2.AsyncClient, session: str, turn_id: str, services: Services) -> dict[str, Any]:
    live = services.runtime._live.get(session.rpartition("/")[2], within="default")
    if live is not None and live.turn is not None:
        await asyncio.wait_for(asyncio.shield(live.turn.outcome), 10)
    return (await client.get(f"{session}/turns/{turn_id}")).json()


async def test_a_message_whose_turn_waits_for_a_person_is_accepted_and_goes_on_when_it_is_answered(
    client: httpx2.AsyncClient, session: str, services: Services
) -> None:
    approval = await asked(client, session)
    path = f"{session}/approvals/{approval['approval_id']}"
    assert (await client.get(path)).json() == approval
    assert (await client.get("/approvals")).json()["approvals"] == [approval]
    assert (await client.get(session)).json()["activity"] == "waiting"

    answer = await client.post(path, json={"decision": "allow", "reason": "go ahead"})

    assert answer.status_code == 200
    fields = ("status", "decision", "reason", "decided_by", "remember")
    assert [answer.json()[name] for name in fields] == ["answered", "allow", "go ahead", "anonymous", False]
    turn = await ended(client, session, approval["turn_id"], services)
    assert (turn["status"], turn["response"], turn["tool_calls"]) == ("completed", "done", 1)


async def test_a_second_answer_is_refused_with_what_was_decided(
    client: httpx2.AsyncClient, session: str, services: Services
) -> None:
    approval = await asked(client, session)
    path = f"{session}/approvals/{approval['approval_id']}"
    await client.post(path, json={"decision": "deny"})

    again = await client.post(path, json={"decision": "allow"})

    assert again.status_code == 409
    problem = again.json()
    assert (problem["code"], problem["approval_status"], problem["decision"]) == (
        "already_answered",
        "answered",
        "deny",
    )
    await ended(client, session, approval["turn_id"], services)


async def test_answers_that_cannot_be_taken(client: httpx2.AsyncClient, session: str, services: Services) -> None:
    approval = await asked(client, session)
    path = f"{session}/approvals/{approval['approval_id']}"

    wrong = await client.post(path, json={"decision": "perhaps"})
    empty = await client.post(path, json={})
    unknown = await client.post(f"{session}/approvals/none", json={"decision": "allow"})
    other = await client.post(f"{await opened(client)}/approvals/{approval['approval_id']}", json={"decision": "allow"})

    assert (wrong.status_code, wrong.json()["code"], wrong.json()["errors"][0]["pointer"]) == (
        422,
        "invalid_request",
        "/decision",
    )
    assert (empty.status_code, empty.json()["code"]) == (422, "invalid_request")
    assert [(answer.status_code, answer.json()["code"]) for answer in (unknown, other)] == [
        (404, "approval_not_found")
    ] * 2
    await client.post(path, json={"decision": "deny"})
    await ended(client, session, approval["turn_id"], services)


async def test_approvals_are_listed_in_pages_and_by_status(
    client: httpx2.AsyncClient, session: str, services: Services
) -> None:
    ids = []
    for decision in ("allow", "deny"):
        approval = await asked(client, session)
        ids.append(approval["approval_id"])
        await client.post(f"{session}/approvals/{approval['approval_id']}", json={"decision": decision})
        await ended(client, session, approval["turn_id"], services)

    first = (await client.get(f"{session}/approvals?limit=1")).json()
    second = (await client.get(f"{session}/approvals?limit=1&cursor={first['next_cursor']}")).json()

    assert [page["approvals"][0]["approval_id"] for page in (first, second)] == ids
    assert (first["total"], second["next_cursor"]) == (2, None)
    assert (await client.get("/approvals?status=pending")).json()["approvals"] == []
    assert (await client.get("/approvals?status=answered")).json()["total"] == 2
    assert (await client.get("/approvals?status=lost")).status_code == 422
    assert (await client.get("/sessions/none/approvals")).json()["code"] == "session_not_found"


async def test_a_budget_comes_with_a_message_or_with_a_session(client: httpx2.AsyncClient, services: Services) -> None:
    session = await opened(client, budget={"iterations": 1})
    assert (await client.get(session)).json()["budget"] == Budget(iterations=1).model_dump(mode="json")

    spent = await client.post(f"{session}/messages", json={"message": "go", "budget": {"tool_calls": 0}})

    assert (spent.status_code, spent.json()["stop_reason"]) == (200, "budget")
    refused = await client.post(f"{session}/messages", json={"message": "more"})
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert (refused.json()["budget"], refused.json()["bound"]) == ("session", "iterations")
    stream = await client.post(f"{session}/stream", json={"message": "more"})
    assert (stream.status_code, stream.json()["code"]) == (429, "quota_exceeded")
    unknown = await client.post(f"{session}/messages", json={"message": "go", "budget": {"tokns": 1}})
    assert unknown.status_code == 422


async def test_usage_is_told_by_day(client: httpx2.AsyncClient, session_id: str) -> None:
    await client.post(f"/sessions/{session_id}/messages", json={"message": "hello"})

    answer = (await client.get("/usage")).json()

    [day] = answer["days"]
    assert (day["turns"], day["iterations"], day["tool_calls"], day["cost_usd"]) == (1, 1, 0, None)
    assert day["input_tokens"] > 0
    assert answer["total"] == {name: value for name, value in day.items() if name != "day"}
    assert (await client.get("/usage?from=2020-01-01&to=2020-02-01")).json()["days"] == []
    for query in ("from=2026-02-02&to=2026-01-01", "from=2020-01-01&to=2026-01-01", "from=yesterday"):
        assert (await client.get(f"/usage?{query}")).status_code == 422
