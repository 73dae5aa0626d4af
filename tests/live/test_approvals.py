"""A person answers after the server was killed and started again."""

from pathlib import Path

import httpx2
import pytest

from live_server import LiveServer, payloads
from runtime_bundles import MODULES, bundle_text, from_folder


@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_a_question_survives_kill_9_and_is_answered_by_another_client(tmp_path: Path, decision: str) -> None:
    tools, hooks = [from_folder("tool-compass")], [from_folder("hooks-doorman", options=["allow", "deny"])]
    text = bundle_text(tools=tools, hooks=hooks, replies=['[[tool: compass {"of": "east"}]] [[then: done]]'])
    with LiveServer(tmp_path / "data", AMPLIFIER_SOURCE_ROOTS=str(MODULES)) as server:
        session = f"/sessions/{server.session(server.config(text))}"
        answer = server.client.post(f"{session}/messages", json={"message": "go"})
        assert answer.status_code == 202
        turn = answer.headers["Location"]
        [before] = server.get("/approvals", params={"status": "pending"})["approvals"]
        server.kill()
        server.start()

        [approval] = server.get("/approvals", params={"status": "pending"})["approvals"]
        assert approval == before
        assert server.get(session)["activity"] == "waiting"
        with httpx2.Client(base_url=server.client.base_url, timeout=30) as somebody:
            path = f"{session}/approvals/{approval['approval_id']}"
            assert somebody.post(path, json={"decision": decision}).status_code == 200
            assert somebody.post(path, json={"decision": decision}).status_code == 409
            with somebody.stream("GET", f"{session}/events", params={"after": 0}) as events:
                seen = []
                for event in payloads(events.iter_lines()):
                    seen.append(event["type"])
                    if event["type"] == "turn.completed":
                        break

        assert server.get(turn)["response"] == "done"
        assert seen.count("approval.requested") == seen.count("approval.resolved") == 1
        assert seen.count("tool.started") == (1 if decision == "allow" else 0)
        assert seen.count("turn.recovered") == 1
