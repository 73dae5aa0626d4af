"""Sessions of the bundle that ships, as a client has them."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from amplifier_app_api.bundles import default_config_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/howto/use-foundation.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"^```(?:yaml|markdown)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
VARIABLES = dict.fromkeys(re.findall(r"\$\{(\w+)\}", PAGE), "a-value")


async def opened(client: httpx2.AsyncClient, text: str, **variables: str) -> dict[str, Any]:
    """A session of a config with this text."""
    config = (await client.post("/configs", json={"name": "c", "yaml_content": text})).json()
    answer = await client.post("/sessions", json={"config_id": config["config_id"], "variables": variables})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def said(client: httpx2.AsyncClient, session: dict[str, Any], message: str) -> str:
    answer = await client.post(f"/sessions/{session['session_id']}/messages", json={"message": message})
    assert answer.status_code == 200, answer.text
    return answer.json()["response"]


async def test_the_default_config_has_neither_a_problem_nor_a_warning(client: httpx2.AsyncClient) -> None:
    config = (await client.post("/configs", json={"name": "c", "yaml_content": default_config_text()})).json()

    plan = (await client.get(f"/configs/{config['config_id']}/plan")).json()
    found = (await client.post(f"/configs/{config['config_id']}/validate")).json()

    assert (plan["runnable"], plan["problems"], plan["warnings"], plan["variables"]) == (True, [], [], [])
    assert (found["valid"], found["problems"], found["warnings"]) == (True, [], [])


async def test_a_session_of_foundation_answers_and_works_with_files_before_anybody_is_asked(
    client: httpx2.AsyncClient,
) -> None:
    session = await opened(client, default_config_text())
    write = '[[tool: write_file {"file_path": "plan.md", "content": "first, look"}]]'
    find = '[[tool: grep {"pattern": "look", "output_mode": "content"}]]'
    todo = {"content": "Look", "activeForm": "Looking", "status": "in_progress"}
    plan = f'[[tool: todo {{"action": "create", "todos": [{str(todo).replace(chr(39), chr(34))}]}}]]'

    assert session["degraded"] == []
    assert await said(client, session, "Hello") == "Hello"
    assert await said(client, session, f"{plan} {write} {find} [[text: Done.]]") == "Done."

    transcript = (await client.get(f"/sessions/{session['session_id']}/messages")).json()["messages"]
    results = [message["content"] for message in transcript if message["role"] == "tool"]
    assert len(results) == 3
    assert "plan.md:1:first, look" in str(results[2])


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: re.findall(r"name: (\S+)", text)[0])
async def test_a_config_of_the_how_to_opens_as_it_stands(client: httpx2.AsyncClient, text: str) -> None:
    wanted = {name: value for name, value in VARIABLES.items() if f"${{{name}}}" in text}

    session = await opened(client, text, **wanted)

    assert (session["status"], session["degraded"]) == ("active", [])
