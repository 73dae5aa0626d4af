"""Children and upgrades over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings
from runtime_bundles import MODULES, bundle_text, from_folder

ERRAND = '[[tool: errand {"agent": "scout", "instruction": "look"}]] [[then: done]]'


@pytest.fixture
async def services(data_dir: Path) -> AsyncIterator[Services]:
    async with open_services(Settings(data_dir=data_dir, default_config=False, source_roots=(MODULES,))) as opened:
        yield opened


@pytest.fixture
async def config_id(client: httpx2.AsyncClient) -> str:
    """A Config whose agent can be sent on errands."""
    document: dict[str, Any] = yaml.safe_load(bundle_text(tools=[from_folder("tool-errand")]))
    seen = {"module": "provider-scripted", "config": {"replies": ["seen"]}}
    document["agents"] = {"scout": {"description": "s", "providers": [seen]}}
    body = {"name": "delegating", "yaml_content": yaml.safe_dump(document, sort_keys=False)}
    return (await client.post("/configs", json=body)).json()["config_id"]


async def delegate(client: httpx2.AsyncClient, session_id: str) -> dict[str, Any]:
    """Let a session delegate; its newest child."""
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": ERRAND})
    assert answer.json()["response"] == "done", answer.text
    return (await client.get(f"/sessions/{session_id}/children")).json()["sessions"][0]


async def test_children_are_listed_below_their_parent_and_nowhere_else(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    child = await delegate(client, session_id)
    await delegate(client, session_id)

    page = (await client.get(f"/sessions/{session_id}/children", params={"limit": 1})).json()
    rest = (await client.get(f"/sessions/{session_id}/children", params={"cursor": page["next_cursor"]})).json()
    by_filter = (await client.get("/sessions", params={"parent_id": session_id})).json()
    plain = (await client.get("/sessions")).json()

    assert (page["total"], len(page["sessions"]), rest["next_cursor"]) == (2, 1, None)
    assert [one["session_id"] for one in (*page["sessions"], *rest["sessions"])] == [
        one["session_id"] for one in by_filter["sessions"]
    ]
    assert [one["session_id"] for one in plain["sessions"]] == [session_id]
    assert (child["parent_id"], child["agent"], child["activity"]) == (session_id, "scout", "idle")


async def test_a_child_is_read_and_spoken_to_like_any_session(client: httpx2.AsyncClient, session_id: str) -> None:
    child = await delegate(client, session_id)
    path = f"/sessions/{child['session_id']}"

    answer = await client.post(f"{path}/messages", json={"message": "[[text: still here]]"})
    messages = (await client.get(f"{path}/messages")).json()["messages"]

    assert answer.json()["response"] == "still here"
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert (await client.get(f"{path}/children")).json()["sessions"] == []


async def test_children_of_nobody_are_not_found_and_go_with_their_parent(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    child = await delegate(client, session_id)

    missing = await client.get("/sessions/nobody/children")
    await client.delete(f"/sessions/{session_id}")

    assert (missing.status_code, missing.json()["code"]) == (404, "session_not_found")
    assert (await client.get(f"/sessions/{child['session_id']}")).status_code == 404


async def test_a_session_is_upgraded_and_its_children_stay_where_they_are(
    client: httpx2.AsyncClient, config_id: str, session_id: str
) -> None:
    child = await delegate(client, session_id)
    await client.put(f"/configs/{config_id}", json={"yaml_content": bundle_text(replies=["x", "new"])})

    answer = await client.post(f"/sessions/{session_id}/upgrade")

    assert (answer.status_code, answer.json()["revision"]) == (200, 2)
    assert answer.json()["message"] == "Session upgraded successfully"
    said = await client.post(f"/sessions/{session_id}/messages", json={"message": "b"})
    assert (said.json()["response"], said.json()["metadata"]["revision"]) == ("new", 2)
    assert (await client.get(f"/sessions/{child['session_id']}")).json()["revision"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"revision": 9}, 404, "revision_not_found"), ({"revision": 0}, 422, "invalid_request")],
)
async def test_an_upgrade_to_what_is_not_there_is_refused(
    client: httpx2.AsyncClient, session_id: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await client.post(f"/sessions/{session_id}/upgrade", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_upgrade_to_what_cannot_run_is_refused_with_its_problems(
    client: httpx2.AsyncClient, config_id: str, session_id: str
) -> None:
    await client.put(f"/configs/{config_id}", json={"yaml_content": "bundle:\n  name: bare\n"})

    answer = await client.post(f"/sessions/{session_id}/upgrade", json={})

    assert (answer.status_code, answer.json()["code"]) == (422, "config_not_runnable")
    assert answer.json()["errors"]
    assert (await client.get(f"/sessions/{session_id}")).json()["revision"] == 1
    assert (await client.post("/sessions/nobody/upgrade")).status_code == 404
