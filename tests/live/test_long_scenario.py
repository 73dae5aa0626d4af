"""One piece of work from beginning to end: exploring, an approved edit, a review by an agent, a long history, a crash.

A real server on SQLite, the whole `foundation` bundle with approvals, and the scripted provider: what it is told in
double brackets it does, so every step is decided here and everything else is the real thing.
"""

from pathlib import Path
from typing import Any

import httpx2
import orjson

from live_server import LiveServer, payloads

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
    '[[tool: glob {"pattern": "**/*.py"}]] [[tool: grep {"pattern": "VERSION"}]] '
    '[[tool: read_file {"file_path": "app.py"}]] [[then: The version is in app.py.]]'
)
EDIT = (
    '[[tool: edit_file {"file_path": "app.py", "old_string": "VERSION = 1", "new_string": "VERSION = 2"}]] '
    "[[then: It is 2 now.]]"
)
REVIEW = (
    # Without what was said before: the agent's provider would do it all again.
    '[[tool: delegate {"agent": "foundation:reviewer", "instruction": "Look at app.py", "context_depth": "none"}]] '
    "[[then: Reviewed.]]"
)


def say(server: LiveServer, session: str, text: str) -> dict[str, Any]:
    answer = server.client.post(f"{session}/messages", json={"message": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events_of(server: LiveServer, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    headers = {"Accept": "application/json"}
    while True:
        answer = server.client.get(f"{session}/events", params={"limit": 200, **cursor}, headers=headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["events"]
        if answer.json()["next_cursor"] is None:
            return found
        cursor = {"cursor": answer.json()["next_cursor"]}


def tools_of(events: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    names = {event["call_id"]: event["tool"] for event in events if event["type"] == "tool.started"}
    return [(names[event["call_id"]], event["ok"]) for event in events if event["type"] == "tool.completed"]


def test_a_piece_of_work_is_explored_edited_reviewed_and_survives_a_crash(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        session_id = server.session(server.config(CONFIG))
        session = f"/sessions/{session_id}"
        project = tmp_path / "data" / "workspaces" / "default" / session_id
        (project / "lib").mkdir(parents=True)
        (project / "app.py").write_text("VERSION = 1\n")
        (project / "lib" / "util.py").write_text("def double(n):\n    return 2 * n\n")

        # It looks around: reading asks nobody.
        explored = say(server, session, EXPLORE)
        assert explored["response"] == "The version is in app.py."
        assert tools_of(events_of(server, session)) == [("glob", True), ("grep", True), ("read_file", True)]

        # It edits a file, once a person has said so.
        asked = server.client.post(f"{session}/messages", json={"message": EDIT})
        assert asked.status_code == 202
        [approval] = server.get(f"{session}/approvals", params={"status": "pending"})["approvals"]
        assert approval["tool"] == "edit_file"
        assert (project / "app.py").read_text() == "VERSION = 1\n"
        answered = server.client.post(
            f"{session}/approvals/{approval['approval_id']}", json={"decision": approval["options"][0]}
        )
        assert answered.status_code == 200, answered.text
        wait_for(server, session, asked.headers["Location"].rpartition("/")[2])
        assert server.get(asked.headers["Location"])["response"] == "It is 2 now."
        assert (project / "app.py").read_text() == "VERSION = 2\n"

        # It has the change reviewed: the agent is a session of its own.
        assert say(server, session, REVIEW)["response"] == "Reviewed."
        [child] = server.get(f"{session}/children")["sessions"]
        assert (child["agent"], child["parent_id"], child["message_count"]) == ("foundation:reviewer", session_id, 1)
        events = events_of(server, session)
        [ended] = [event for event in events if event["type"] == "child.ended"]
        assert (ended["child_id"], ended["status"]) == (child["session_id"], "completed")
        assert server.get("/sessions")["total"] == 1

        # It talks until the window is full, and makes room.
        for _ in range(4):
            say(server, session, "[[long: tokens=4000]]")
        assert any(event["type"] == "context.compacted" for event in events_of(server, session))
        assert len(server.get(f"{session}/messages", params={"limit": 200})["messages"]) == 24

        # The server dies in the middle of a sentence; the next one goes on with the turn.
        with server.client.stream(
            "POST", f"{session}/stream", json={"message": "[[slow: tokens=60 delay_ms=50]]"}
        ) as it:
            for event in payloads(it.iter_lines()):
                if event["type"] == "message.delta":
                    break
            server.kill()
        server.start()
        newest = server.get(f"{session}/turns")["turns"][0]
        wait_for(server, session, newest["turn_id"])
        finished = server.get(f"{session}/turns/{newest['turn_id']}")
        assert (finished["status"], finished["attempt"]) == ("completed", 2)
        assert finished["response"].split() == [f"w{number}" for number in range(60)]

        # And the work goes on, on everything that was said and done.
        assert say(server, session, '[[tool: read_file {"file_path": "app.py"}]] [[then: Still 2.]]')["response"]
        events = events_of(server, session)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["type"] for event in events].count("turn.recovered") == 1
        exported = server.client.get(f"{session}/export").content.splitlines()
        assert orjson.loads(exported[-1]) == {"type": "end", "records": len(exported) - 1}
        assert server.get(session)["activity"] == "idle"


def wait_for(server: LiveServer, session: str, turn_id: str) -> None:
    """Follow the session until a turn has ended."""
    with (
        httpx2.Client(base_url=server.client.base_url, timeout=30) as reader,
        reader.stream("GET", f"{session}/events", params={"after": 0}) as stream,
    ):
        for event in payloads(stream.iter_lines()):
            if event.get("turn_id") == turn_id and event["type"] == "turn.completed":
                return
    raise AssertionError("the turn did not end")
