"""Servers that are killed at random moments of their turns, and what the database says afterwards.

A handful of kills each time; `AMPLIFIER_TEST_LONG=1` makes it sixty on each database. `AMPLIFIER_TEST_SEED` repeats
a run.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from sqlalchemy import Connection, text

from amplifier_app_api.storage import Database
from live_server import LiveServer
from runtime_bundles import MODULES, bundle_text, from_folder

LONG = os.environ.get("AMPLIFIER_TEST_LONG") == "1"
SEED = int(os.environ.get("AMPLIFIER_TEST_SEED") or random.randrange(10**6))
RUNS = 10 if LONG else 1
KILLS = 6 if LONG else 4
SESSIONS = 4
TERMINAL = {"completed", "failed", "cancelled", "interrupted"}


class Crowd:
    """Sessions whose turns run tools that count, and what was sent. In half of them every call is asked about first."""

    def __init__(self, server: LiveServer, ledger: Path, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        tools, doorman = [from_folder("tool-tally", path=str(ledger))], from_folder("hooks-doorman")
        configs = [server.config(bundle_text(tools=tools, hooks=hooks)) for hooks in (None, [doorman])]
        self.sessions = [server.session(configs[number % 2]) for number in range(SESSIONS)]
        self.accepted: list[tuple[str, str]] = []
        self.decided: dict[str, str] = {}
        self._labels = 0

    def send(self) -> None:
        """A turn in every session; what the server answers for is remembered."""
        for session_id in self.sessions:
            body = {"message": self._script(), "when_busy": "queue"}
            try:
                answer = self.server.client.post(f"/sessions/{session_id}/turns", json=body)
            except httpx2.HTTPError:
                return
            assert answer.status_code == 202, answer.text
            self.accepted.append((session_id, answer.json()["turn_id"]))

    def _script(self) -> str:
        rounds = [self._round() for _ in range(self.chance.randint(1, 3))]
        tokens = self.chance.randint(5, 40)
        return f"{' '.join(rounds)} [[pace: ms=3]] [[then: {' '.join(f'w{n}' for n in range(tokens))}]]"

    def _round(self) -> str:
        calls = " | ".join(self._call() for _ in range(self.chance.randint(1, 3)))
        return f"[[tools: {calls}]]"

    def _call(self) -> str:
        self._labels += 1
        name = self.chance.choice(["count", "count", "look", "put"])
        arguments = {"label": f"l{self._labels}", "seconds": round(self.chance.random() * 0.08, 3)}
        return f"{name} {orjson.dumps(arguments).decode()}"

    def decide(self) -> None:
        """Answer what is asked now, one way or the other; what the server answers for is remembered."""
        for approval in self.server.get("/approvals", params={"status": "pending"})["approvals"]:
            identity, decision = approval["approval_id"], self.chance.choice(approval["options"])
            path = f"/sessions/{approval['session_id']}/approvals/{identity}"
            answer = self.server.client.post(path, json={"decision": decision})
            assert answer.status_code in (200, 409), answer.text
            if answer.status_code == 200:
                self.decided[identity] = decision

    def until_the_kill(self) -> None:
        """People answer for a moment of no particular length."""
        deadline = time.monotonic() + self.chance.random() * 0.5
        while time.monotonic() < deadline:
            self.decide()
            time.sleep(0.01)

    def settled(self) -> None:
        """Return when no turn is open any more."""
        deadline = time.monotonic() + 60
        for session_id in self.sessions:
            while self.server.get(f"/sessions/{session_id}")["activity"] != "idle" or self._unfinished(session_id):
                assert time.monotonic() < deadline, f"a turn of {session_id} does not end"
                self.decide()
                time.sleep(0.05)

    def _unfinished(self, session_id: str) -> bool:
        listed = self.server.get(f"/sessions/{session_id}/turns", params={"limit": 20})["turns"]
        return any(turn["status"] not in TERMINAL for turn in listed)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    arguments = () if engine == "sqlite" else ("--database-url", request.getfixturevalue("postgres_url"))
    roots = {"AMPLIFIER_SOURCE_ROOTS": str(MODULES), "AMPLIFIER_HEARTBEAT": "200ms", "AMPLIFIER_NODE_DEAD_AFTER": "1s"}
    with LiveServer(tmp_path / "data", *arguments, **roots) as running:
        yield running


@pytest.mark.parametrize("run", range(RUNS))
def test_whatever_a_kill_interrupts_is_gone_on_with_or_told_and_nothing_counts_twice(
    server: LiveServer, engine: str, request: pytest.FixtureRequest, tmp_path: Path, run: int
) -> None:
    chance = random.Random(f"{SEED} {run}")
    print(f"AMPLIFIER_TEST_SEED={SEED}")
    ledger = tmp_path / "ledger"
    ledger.touch()
    crowd = Crowd(server, ledger, chance)

    for kill in range(KILLS):
        crowd.send()
        crowd.until_the_kill()
        server.kill()
        server.start()
        if kill % 2:
            crowd.settled()  # else the next kill meets turns that are gone on with
    crowd.send()
    crowd.settled()

    address = tmp_path / "data" / "app.db" if engine == "sqlite" else request.getfixturevalue("postgres_url")
    server.terminate()
    rows = asyncio.run(_rows(address))
    audit(rows, crowd.accepted, ledger.read_text().splitlines())
    audit_approvals(rows, crowd.decided)


async def _rows(address: Path | str) -> dict[str, list[dict[str, Any]]]:
    async with Database(address) as db:
        return await db.read(_all_rows)


def _all_rows(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    tables = {
        "turns": "SELECT * FROM turns",
        "sessions": "SELECT * FROM sessions",
        "events": "SELECT * FROM events ORDER BY session_id, seq",
        "messages": "SELECT * FROM messages ORDER BY session_id, position",
        "tool_calls": "SELECT * FROM tool_calls",
        "approvals": "SELECT * FROM approvals",
        "nodes": "SELECT * FROM nodes",
    }
    return {name: [dict(row) for row in conn.execute(text(query)).mappings()] for name, query in tables.items()}


def audit(rows: dict[str, list[dict[str, Any]]], accepted: list[tuple[str, str]], ledger: list[str]) -> None:
    """What must hold whatever happened."""
    turns = {turn["turn_id"]: turn for turn in rows["turns"]}
    events = [{**orjson.loads(event["data"]), "session_id": event["session_id"]} for event in rows["events"]]
    messages = {message["message_id"] for message in rows["messages"]}

    for session_id, turn_id in accepted:
        assert turns[turn_id]["session_id"] == session_id
        assert turns[turn_id]["message_id"] in messages, "an accepted message is in the transcript"
    assert {turn["status"] for turn in turns.values()} <= TERMINAL
    assert rows["nodes"] == []

    for session in rows["sessions"]:
        mine = [event["seq"] for event in events if event["session_id"] == session["session_id"]]
        assert mine == list(range(1, session["last_seq"] + 1)), "the log has no gap"
        positions = [row["position"] for row in rows["messages"] if row["session_id"] == session["session_id"]]
        assert positions == list(range(1, session["last_position"] + 1))
        _valid_history([row for row in rows["messages"] if row["session_id"] == session["session_id"]])

    ends = Counter(event["turn_id"] for event in events if event["type"].removeprefix("turn.") in TERMINAL)
    assert ends == Counter(turns.keys()), "every turn is told to have ended, once"
    for event in events:
        if (status := event["type"].removeprefix("turn.")) in TERMINAL:
            assert turns[event["turn_id"]]["status"] == status

    started = [event for event in events if event["type"] == "tool.started"]
    journal = {(row["turn_id"], row["call_id"].partition("#")[0]) for row in rows["tool_calls"]}
    assert {(event["turn_id"], event["call_id"]) for event in started} == journal
    told = {event["arguments"]["label"] for event in started}
    assert {line.split()[1] for line in ledger} <= told, "no tool runs without its call being on record"
    twice = [line for line, runs in Counter(ledger).items() if runs > 1 and line.startswith("count ")]
    assert twice == [], "what counts is never made twice"


def audit_approvals(rows: dict[str, list[dict[str, Any]]], decided: dict[str, str]) -> None:
    """Every question has one end, which the log tells once; an answer that was taken is the one that counts."""
    approvals = {approval["approval_id"]: approval for approval in rows["approvals"]}
    assert {approval["status"] for approval in approvals.values()} <= {"answered", "withdrawn"}
    for identity, decision in decided.items():
        assert (approvals[identity]["status"], approvals[identity]["decision"]) == ("answered", decision)
    events = [orjson.loads(event["data"]) for event in rows["events"] if event["type"].startswith("approval.")]
    for kind in ("approval.requested", "approval.resolved"):
        told = Counter(event["approval_id"] for event in events if event["type"] == kind)
        assert told == Counter(approvals.keys()), f"each {kind} is told once"
    for event in events:
        if event["type"] == "approval.resolved":
            assert event["status"] == approvals[event["approval_id"]]["status"]


def _valid_history(messages: list[dict[str, Any]]) -> None:
    """Every call is answered before anybody speaks again."""
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls
        calls = orjson.loads(message["tool_calls"]) if message["tool_calls"] else []
        open_calls = {call["id"] for call in calls}
    assert not open_calls


@pytest.mark.postgres
def test_of_a_stopped_server_and_the_one_that_took_over_exactly_one_writes(tmp_path: Path, postgres_url: str) -> None:
    settings = {
        "AMPLIFIER_SOURCE_ROOTS": str(MODULES),
        "AMPLIFIER_HEARTBEAT": "200ms",
        "AMPLIFIER_NODE_DEAD_AFTER": "1s",
    }
    ledger = tmp_path / "ledger"
    ledger.touch()
    database = ("--database-url", postgres_url)
    with (
        LiveServer(tmp_path / "one", *database, **settings) as one,
        LiveServer(tmp_path / "two", *database, **settings) as two,
    ):
        config = one.config(bundle_text(tools=[from_folder("tool-tally", path=str(ledger))]))
        session_id = one.session(config)
        script = '[[tool: count {"label": "a"}]] [[pace: ms=30]] [[then: ' + " ".join(f"w{n}" for n in range(60)) + "]]"
        stream = one.stream(session_id, script)
        while next(stream)["type"] != "message.delta":
            pass
        one.process.send_signal(signal.SIGSTOP)
        turn = two.turn_ended(session_id)
        one.process.send_signal(signal.SIGCONT)

        assert (turn["status"], turn["attempt"]) == ("completed", 2)
        assert turn["response"].split() == [f"w{n}" for n in range(60)]
        *_, last = stream  # whoever listened to the first one hears how it ended
        assert last["type"] == "done"
        assert one.say(session_id, "who writes?")["response"] == "who writes?"
        assert two.say(session_id, "and now?")["response"] == "and now?"

        events = two.log_of(session_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        of_turn = [event["type"] for event in events if event["turn_id"] == turn["turn_id"]]
        assert of_turn.count("message.completed") == 2  # the call, and the answer
        assert (of_turn.count("turn.recovered"), of_turn.count("turn.completed")) == (1, 1)
        assert [message["role"] for message in two.transcript(session_id)[:4]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
    assert ledger.read_text().splitlines() == ["count a"]
