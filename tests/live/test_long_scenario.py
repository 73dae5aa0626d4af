"""One piece of work from beginning to end: exploring, an approved edit, a review by an agent, a long history, a crash.

A real server on SQLite, the whole `foundation` bundle with approvals, and the scripted provider: what it is told in
double brackets it does, so every step is decided here and everything else is the real thing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from live_server import LiveServer

CONFIG = """\
bundle:
  name: piece-of-work
includes:
  - bundle: foundation
  - bundle: foundation:behaviors/approval
session:
  context:
    module: context-simple
    config:
      max_tokens: 14000
providers:
  - module: provider-scripted
"""

EXPLORE = (
    '[[tools: glob {"pattern": "**/*.py"} | grep {"pattern": "VERSION"}]] '
    '[[tool: read_file {"file_path": "app.py"}]] [[then: The version is in app.py.]]'
)
EDIT = (
    '[[tool: edit_file {"file_path": "app.py", "old_string": "VERSION = 1", "new_string": "VERSION = 2"}]] '
    "[[then: It is 2 now.]]"
)
REVIEW = (
    # Without what was said before: the agent's provider would do it all again.
    r'[[tool: delegate {"agent": "foundation:reviewer", "context_depth": "none", "instruction": '
    r'"[[tool: read_file {\"file_path\": \"app.py\"}]] [[then: Fit as it is.]]"}]] [[then: Reviewed.]]'
)
LONG = "[[long: tokens=4000]]"
SUMMARY = "The version was 1 and is 2 now, a reviewer found nothing, and all of it is in this history."
SUM_UP = f'[[tool: read_file {{"file_path": "app.py"}}]] [[then: {SUMMARY}]] [[pace: ms=100]]'


def types_of(events: Sequence[dict[str, Any]], *among: str) -> list[str]:
    return [event["type"] for event in events if event["type"] in among]


def tools_of(events: Sequence[dict[str, Any]]) -> list[tuple[str, bool, str]]:
    """The tools that have run: name, whether it succeeded, what it said."""
    names = {event["call_id"]: event["tool"] for event in events if event["type"] == "tool.started"}
    ended = [event for event in events if event["type"] == "tool.completed"]
    return sorted((names[event["call_id"]], event["ok"], event["output"]) for event in ended)


def test_a_piece_of_work_is_explored_edited_reviewed_and_survives_a_crash(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        config_id = server.config(CONFIG)
        session_id = server.session(config_id)
        project = tmp_path / "data" / "workspaces" / "default" / session_id
        (project / "lib").mkdir(parents=True)
        (project / "app.py").write_text("VERSION = 1\n")
        (project / "lib" / "util.py").write_text("def double(n):\n    return 2 * n\n")
        told = 0

        def news() -> list[dict[str, Any]]:
            """The events since the last look."""
            nonlocal told
            events = server.log_of(session_id, after=told)
            told = events[-1]["seq"]
            return events

        it_looks_around(server, session_id, news)
        it_edits_once_a_person_has_said_so(server, session_id, project, news)
        it_has_the_change_reviewed(server, session_id, news)
        it_makes_room_when_the_window_is_full(server, session_id, news)
        it_goes_on_after_the_server_died_in_the_middle_of_a_sentence(server, session_id, news)
        nothing_of_it_is_lost(server, session_id)
        it_can_be_carried_elsewhere(server, session_id, config_id)


def it_looks_around(server: LiveServer, session_id: str, news: Any) -> None:
    """Reading asks nobody."""
    assert server.say(session_id, EXPLORE)["response"] == "The version is in app.py."
    events = news()
    assert tools_of(events) == [
        ("glob", True, "app.py\nlib/util.py"),
        ("grep", True, "app.py"),
        ("read_file", True, "VERSION = 1\n"),
    ]
    assert types_of(events, "approval.requested") == []


def it_edits_once_a_person_has_said_so(server: LiveServer, session_id: str, project: Path, news: Any) -> None:
    path = f"/sessions/{session_id}"
    asked = server.client.post(f"{path}/messages", json={"message": EDIT})
    assert (asked.status_code, asked.json()["status"]) == (202, "waiting")
    [approval] = server.get(f"{path}/approvals", params={"status": "pending"})["approvals"]
    assert (approval["tool"], approval["options"]) == ("edit_file", ["allow", "deny"])
    assert approval["arguments"] == {"file_path": "app.py", "old_string": "VERSION = 1", "new_string": "VERSION = 2"}
    assert server.get(path)["activity"] == "waiting"
    assert (project / "app.py").read_text() == "VERSION = 1\n"

    answered = server.post(f"{path}/approvals/{approval['approval_id']}", {"decision": "allow"})
    assert (answered["status"], answered["decision"]) == ("answered", "allow")
    ended = server.turn_ended(session_id)
    assert asked.headers["Location"] == f"{path}/turns/{ended['turn_id']}"
    assert (ended["status"], ended["response"]) == ("completed", "It is 2 now.")
    assert (project / "app.py").read_text() == "VERSION = 2\n"
    steps = ("approval.requested", "approval.resolved", "tool.started", "tool.completed")
    assert types_of(news(), *steps) == [*steps]


def it_has_the_change_reviewed(server: LiveServer, session_id: str, news: Any) -> None:
    """The agent is a session of its own."""
    answer = server.say(session_id, REVIEW)
    assert answer["response"] == "Reviewed."
    [child] = server.get(f"/sessions/{session_id}/children")["sessions"]
    assert (child["agent"], child["parent_id"], child["activity"]) == ("foundation:reviewer", session_id, "idle")

    its_events = server.log_of(child["session_id"])
    assert tools_of(its_events) == [("read_file", True, "VERSION = 2\n")]
    assert (its_events[-1]["type"], its_events[-1]["response"]) == ("turn.completed", "Fit as it is.")
    assert [event["seq"] for event in its_events] == list(range(1, len(its_events) + 1))

    events = news()
    [(tool, ok, output)] = tools_of(events)
    assert (tool, ok, orjson.loads(output)["response"]) == ("delegate", True, "Fit as it is.")
    [ended] = [event for event in events if event["type"] == "child.ended"]
    assert (ended["child_id"], ended["status"]) == (child["session_id"], "completed")
    assert answer["usage"]["output_tokens"] == 8 + 1 + child["usage"]["output_tokens"]
    assert [session["session_id"] for session in server.get("/sessions")["sessions"]] == [session_id]


def it_makes_room_when_the_window_is_full(server: LiveServer, session_id: str, news: Any) -> None:
    before = len(server.transcript(session_id))
    for _ in range(4):
        assert server.say(session_id, LONG)["response"].endswith(" w3999")
    compacted = [event for event in news() if event["type"] == "context.compacted"]
    assert compacted
    for event in compacted:
        assert event["after"]["tokens"] < event["before"]["tokens"] < 14000
        assert event["after"]["messages"] < event["before"]["messages"]
    assert len(server.transcript(session_id)) == before + 8


def it_goes_on_after_the_server_died_in_the_middle_of_a_sentence(
    server: LiveServer, session_id: str, news: Any
) -> None:
    said = ""
    for event in server.stream(session_id, SUM_UP):
        said += event["text"] if event["type"] == "message.delta" else ""
        if said:
            break
    server.kill()
    server.start()

    ended = server.turn_ended(session_id)
    assert (ended["status"], ended["attempt"], ended["response"]) == ("completed", 2, SUMMARY)
    assert SUMMARY.startswith(said)
    events = news()
    assert tools_of(events) == [("read_file", True, "VERSION = 2\n")]
    among = ("tool.completed", "turn.recovered", "message.discarded", "message.completed", "turn.completed")
    assert types_of(events, *among) == [
        "message.completed",
        "tool.completed",
        "turn.recovered",
        "message.discarded",
        "message.completed",
        "turn.completed",
    ]


def nothing_of_it_is_lost(server: LiveServer, session_id: str) -> None:
    log = server.log_of(session_id)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    turns = server.get(f"/sessions/{session_id}/turns")["turns"]
    used = [turn["usage"]["output_tokens"] for turn in reversed(turns)]
    summary = 8 + len(SUMMARY.split())
    assert used == [8 + 8 + 8 + 5, 8 + 4, 8 + 1 + 8 + 4, 4000, 4000, 4000, 4000, summary]
    assert server.get(f"/sessions/{session_id}")["usage"]["output_tokens"] == sum(used)
    total = server.get("/usage")["total"]
    assert (total["turns"], total["tool_calls"], total["output_tokens"]) == (len(used) + 1, 7, sum(used))
    roles = [message["role"] for message in server.transcript(session_id)]
    explored = ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    with_a_tool = ["user", "assistant", "tool", "assistant"]
    assert roles == explored + with_a_tool * 2 + ["user", "assistant"] * 4 + with_a_tool


def it_can_be_carried_elsewhere(server: LiveServer, session_id: str, config_id: str) -> None:
    exported = server.client.get(f"/sessions/{session_id}/export").content
    lines = exported.splitlines()
    assert orjson.loads(lines[-1]) == {"type": "end", "records": len(lines) - 1}
    imported = server.post("/sessions/import", params={"config_id": config_id}, content=exported)
    copied = [(message["role"], message["content"]) for message in server.transcript(imported["session_id"])]
    assert copied == [(message["role"], message["content"]) for message in server.transcript(session_id)]
