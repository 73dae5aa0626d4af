"""A server that is killed in the middle of a delegated turn: child and parent are gone on with, nothing runs twice."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from live_server import LiveServer
from runtime_bundles import MODULES, bundle_text, from_folder

PATIENCE_SECONDS = 30


def delegating(ledger: Path) -> str:
    tools = [from_folder("tool-errand"), from_folder("tool-tally", path=str(ledger))]
    document: dict[str, Any] = yaml.safe_load(
        bundle_text(
            replies=['[[tool: errand {"agent": "counter", "instruction": "count once"}]] [[then: all counted]]'],
            tools=tools,
        )
    )
    replies = ['[[tool: count {"label": "once", "seconds": 60}]] [[then: counted]]']
    counter = {"module": "provider-scripted", "config": {"replies": replies}}
    document["agents"] = {"counter": {"description": "Counts.", "providers": [counter]}}
    return yaml.safe_dump(document, sort_keys=False)


def until(seen: Callable[[], Any]) -> Any:
    """What `seen` finds, once it finds something: another process tells nothing by itself."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := seen()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def test_a_delegated_call_outlives_kill_9_and_is_answered_by_its_child(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    with LiveServer(tmp_path / "data", AMPLIFIER_SOURCE_ROOTS=str(MODULES)) as server:
        session_id = server.session(server.config(delegating(ledger)))
        turn_id = server.post(f"/sessions/{session_id}/turns", {"message": "go"})["turn_id"]
        until(lambda: ledger.read_text())
        (child,) = server.get(f"/sessions/{session_id}/children")["sessions"]
        assert child["activity"] == "running"

        server.kill()
        server.start()

        def ended() -> dict[str, Any] | None:
            turn = server.get(f"/sessions/{session_id}/turns/{turn_id}")
            return turn if turn["ended_at"] is not None else None

        turn = until(ended)
        told = server.log_of(session_id)
        below = server.transcript(child["session_id"])

    assert (turn["status"], turn["response"], turn["attempt"]) == ("completed", "all counted", 2)
    assert ledger.read_text() == "count once\n"
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert [event["status"] for event in told if event["type"] == "child.ended"] == ["completed"]
    (result,) = [event for event in told if event["type"] == "tool.completed"]
    assert result["ok"] and '"response":"counted"' in result["output"]
    assert [message["role"] for message in below] == ["user", "assistant", "tool", "assistant"]
