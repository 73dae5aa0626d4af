"""What must hold of the rows of sessions whatever happened, compared with what their users know."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson
from sqlalchemy import Connection, Table, select

from amplifier_app_api.models.session import WhenBusy
from amplifier_app_api.runtime.recovery import ATTEMPTS
from amplifier_app_api.runtime.sending import PENDING, Sent
from amplifier_app_api.storage.tables import (
    approvals,
    event_deltas,
    events,
    idempotency_keys,
    messages,
    sessions,
    steering,
    tenant_usage,
    tool_calls,
    turns,
)
from histories import refused_by_openai
from property.puppets import INPUT_TOKENS, OUTPUT_TOKENS

Row = Mapping[str, Any]

ENDED = {"completed", "failed", "cancelled", "interrupted"}
OPEN = {"running", "waiting"}
NAMES = ("input_tokens", "output_tokens")


@dataclass(eq=False, slots=True)
class Said:
    """A message that somebody sent. `sent` is the answer; `refused` says that it was a refusal; neither: none came.

    `asked` and `answered` are moments of one clock.
    """

    label: str
    text: str
    session_id: str
    policy: WhenBusy
    asked: int
    answered: int = 0
    sent: Sent | None = None
    refused: bool = False
    key: str | None = None


@dataclass
class Known:
    """What the users know: what they sent, how they answered questions, what ran."""

    said: list[Said] = field(default_factory=list[Said])
    decisions: dict[str, str] = field(default_factory=dict[str, str])
    runs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


class Rows:
    """The rows of one tenant at one moment."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        def of(table: Table, *order: str) -> list[Row]:
            statement = select(table).where(table.c.tenant_id == tenant).order_by(*(table.c[name] for name in order))
            return [row._mapping for row in conn.execute(statement)]

        self.sessions = of(sessions, "created_at")
        self.turns = of(turns, "session_id", "number")
        self.messages = of(messages, "session_id", "position")
        self.events = [{**row, **orjson.loads(row["data"])} for row in of(events, "session_id", "seq")]
        self.deltas = of(event_deltas, "session_id", "number")
        self.calls = of(tool_calls, "session_id", "number")
        self.approvals = of(approvals, "created_at")
        self.steering = of(steering, "created_at")
        self.keys = of(idempotency_keys, "created_at")
        self.usage = of(tenant_usage, "day")

    def of_session(self, rows: Iterable[Row], session_id: str) -> list[Row]:
        """Those of one session."""
        return [row for row in rows if row["session_id"] == session_id]

    def open_turn(self, session_id: str) -> Row | None:
        """The turn that runs or waits in a session."""
        return next((turn for turn in self.of_session(self.turns, session_id) if turn["status"] in OPEN), None)

    def queued(self, session_id: str) -> list[Row]:
        """The turns that wait for their place in a session."""
        return [turn for turn in self.of_session(self.turns, session_id) if turn["status"] == "queued"]

    def turn(self, turn_id: str) -> Row:
        """One turn."""
        return next(turn for turn in self.turns if turn["turn_id"] == turn_id)

    @property
    def unfinished(self) -> bool:
        """Whether something is still to come."""
        turns_left = any(turn["status"] not in ENDED for turn in self.turns)
        return turns_left or any(row["status"] == PENDING for row in self.steering)


def audit(rows: Rows, known: Known) -> None:
    """What holds at every moment."""
    for session in rows.sessions:
        _the_log_and_the_transcript_have_no_gap(rows, session)
        _the_session_says_what_its_turns_do(rows, session)
        _messages_are_there_once(rows, session, known)
        _messages_are_in_order(rows, session["session_id"], known)
    for turn in rows.turns:
        _the_log_tells_of_the_turn(rows, turn)
    _questions_are_answered_once(rows, known)
    _tools_ran_as_the_journal_says(rows, known)
    _usage_adds_up(rows)
    _keys_made_one_thing_each(rows, known)


def audit_the_end(rows: Rows, known: Known) -> None:
    """What holds besides once nothing is left to do."""
    audit(rows, known)
    assert not rows.unfinished
    assert [session["activity"] for session in rows.sessions] == ["idle"] * len(rows.sessions)
    assert rows.deltas == [], "pieces of answers outlive their turns"
    assert [row for row in rows.approvals if row["status"] == "pending"] == []


def _the_log_and_the_transcript_have_no_gap(rows: Rows, session: Row) -> None:
    mine = rows.of_session(rows.events, session["session_id"])
    assert [event["seq"] for event in mine] == list(range(1, session["last_seq"] + 1))
    positions = [row["position"] for row in rows.of_session(rows.messages, session["session_id"])]
    assert positions == list(range(1, session["last_position"] + 1))


def _the_session_says_what_its_turns_do(rows: Rows, session: Row) -> None:
    session_id = session["session_id"]
    mine = rows.of_session(rows.turns, session_id)
    unfinished = [turn["status"] for turn in mine if turn["status"] in OPEN]
    assert len(unfinished) <= 1, "two turns at once"
    assert session["activity"] == (unfinished[0] if unfinished else "idle")
    assert [turn["number"] for turn in mine] == list(range(1, session["turn_count"] + 1))
    if not unfinished:
        kernel = [row["kernel"] for row in rows.of_session(rows.messages, session_id) if row["kernel"] is not None]
        assert refused_by_openai(kernel) == []
    asking = {row["turn_id"] for row in rows.of_session(rows.approvals, session_id) if row["status"] == "pending"}
    assert asking <= {turn["turn_id"] for turn in mine if turn["status"] == "waiting"}
    untold = {row["turn_id"] for row in rows.of_session(rows.approvals, session_id) if not row["told"]} | asking
    assert {turn["turn_id"] for turn in mine if turn["status"] == "waiting"} <= untold
    pieces = {row["turn_id"] for row in rows.of_session(rows.deltas, session_id)}
    assert pieces <= {turn["turn_id"] for turn in mine if turn["status"] in OPEN}


def _messages_are_there_once(rows: Rows, session: Row, known: Known) -> None:
    session_id = session["session_id"]
    users = [row for row in rows.of_session(rows.messages, session_id) if row["role"] == "user"]
    inherited, own = [row for row in users if row["turn_id"] is None], [row for row in users if row["turn_id"]]
    waiting = rows.queued(session_id)
    pending = [row for row in rows.of_session(rows.steering, session_id) if row["status"] == PENDING]
    found = [(row["message_id"], row["content"]) for row in (*own, *pending)]
    found += [(turn["message_id"], turn["queued"]["content"]) for turn in waiting]
    assert session["message_count"] == len(found) + len(inherited)
    times = Counter(text for _, text in found)
    mine = [said for said in known.said if said.session_id == session_id]
    for said in mine:
        if said.refused:
            assert times[said.text] == 0, f"{said.label} was refused"
        elif said.sent is None:
            assert times[said.text] <= 1, f"{said.label} is there twice"
        else:
            assert found.count((said.sent.message_id, said.text)) == times[said.text] == 1, said.label
    assert times.keys() <= {said.text for said in mine}


def _messages_are_in_order(rows: Rows, session_id: str, known: Known) -> None:
    place = {row["message_id"]: row for row in rows.of_session(rows.messages, session_id)}
    told = defaultdict[str, dict[str, int]](dict)
    for event in rows.of_session(rows.events, session_id):
        kind = "end" if event["type"].removeprefix("turn.") in ENDED else event["type"]
        told[event["turn_id"]][kind] = event["seq"]
    begun: list[tuple[Said, Sent, Row]] = []
    for said in known.said:
        if said.session_id == session_id and said.sent is not None and said.sent.message_id in place:
            row = place[said.sent.message_id]
            if row["kernel"] is not None:  # else it was ended while it waited
                begun.append((said, said.sent, row))
    for first, first_sent, before in begun:
        for second, second_sent, after in begun:
            in_turn = first.answered < second.asked and second.policy in (WhenBusy.REJECT, WhenBusy.QUEUE)
            steered = (
                first_sent.status == second_sent.status == PENDING
                and first_sent.turn_id == second_sent.turn_id
                and first.answered < second.asked
            )
            left_over = (
                first_sent.status == PENDING
                and second_sent.status == "queued"
                and told[second_sent.turn_id].get("turn.queued", 0) < told[first_sent.turn_id].get("end", 0)
                and told[second_sent.turn_id].get("turn.started", 0) > told[first_sent.turn_id].get("end", 0)
            )
            if in_turn or steered or left_over:
                assert before["position"] < after["position"], f"{second.label} comes before {first.label}"


def _the_log_tells_of_the_turn(rows: Rows, turn: Row) -> None:
    mine = [event for event in rows.events if event["turn_id"] == turn["turn_id"]]
    count = Counter(event["type"] for event in mine)
    ends = [event["type"] for event in mine if event["type"].removeprefix("turn.") in ENDED]
    assert ends == ([f"turn.{turn['status']}"] if turn["status"] in ENDED else []), turn
    assert not ends or mine[-1]["type"] == ends[0], "something is told of a turn that has ended"
    assert count["turn.started"] == (turn["started_at"] is not None)
    assert turn["attempt"] - 1 <= ATTEMPTS
    assert count["turn.recovered"] or turn["attempt"] == 1 or turn["status"] != "completed"
    completed = [event for event in mine if event["type"] == "message.completed"]
    requests = [event["request"] for event in mine if event["type"] in ("message.completed", "message.discarded")]
    assert len(set(requests)) == len(requests), "two last words about one model call"
    assert all(one < other for one, other in pairwise(event["request"] for event in completed))
    if turn["status"] in ENDED:
        answers = [row for row in rows.messages if row["turn_id"] == turn["turn_id"] and row["role"] == "assistant"]
        assert {event["message_id"] for event in completed} <= {row["message_id"] for row in answers}
    started = [event["call_id"] for event in mine if event["type"] == "tool.started"]
    finished = Counter(event["call_id"] for event in mine if event["type"] == "tool.completed")
    assert max(finished.values(), default=0) <= 1, "a call has two results"
    if ends:
        assert set(started) <= finished.keys()


def _questions_are_answered_once(rows: Rows, known: Known) -> None:
    told = defaultdict[str, list[Row]](list)
    for event in rows.events:
        if event["type"].startswith("approval."):
            told[event["approval_id"]].append(event)
    ended = {turn["turn_id"] for turn in rows.turns if turn["status"] in ENDED}
    assert told.keys() == {row["approval_id"] for row in rows.approvals}
    for row in rows.approvals:
        requested, *resolved = told[row["approval_id"]]
        assert requested["type"] == "approval.requested"
        assert [event["type"] for event in resolved] in ([], ["approval.resolved"])
        assert all((event["status"], event["decision"]) == (row["status"], row["decision"]) for event in resolved)
        if row["turn_id"] in ended:
            assert resolved != [], "nobody was told what became of a question"
        if (decision := known.decisions.get(row["approval_id"])) is not None:
            assert (row["status"], row["decision"]) == ("answered", decision)


def _tools_ran_as_the_journal_says(rows: Rows, known: Known) -> None:
    arguments = {
        (event["turn_id"], event["call_id"]): (event["tool"], event["arguments"]["label"])
        for event in rows.events
        if event["type"] == "tool.started"
    }
    journal = Counter[tuple[str, str]]()
    for row in rows.calls:
        journal[arguments[row["turn_id"], row["call_id"]]] += row["runs"]
        if row["status"] == "finished":
            assert known.runs[arguments[row["turn_id"], row["call_id"]]] >= 1
    assert known.runs <= journal, "a tool ran that is not on record"
    assert [call for call, runs in known.runs.items() if runs > 1 and call[0] != "look"] == []
    allowed = {row["arguments"]["label"] for row in rows.approvals if row["decision"] == "allow"}
    assert {label for tool, label in known.runs if tool == "ask"} <= allowed


def _usage_adds_up(rows: Rows) -> None:
    booked = Counter[str]()
    for turn in rows.turns:
        if turn["status"] in ENDED:
            mine = [event for event in rows.events if event["turn_id"] == turn["turn_id"]]
            whole = sum(event["type"] == "message.completed" for event in mine)
            lost = sum(event["type"] == "turn.recovered" for event in mine)
            asked = turn["usage"]["output_tokens"] // OUTPUT_TOKENS
            assert turn["usage"]["input_tokens"] == asked * INPUT_TOKENS
            assert turn["status"] != "completed" or lost or asked == whole, (
                "an answer was not counted, or counted twice"
            )
            booked.update({name: turn["usage"][name] for name in NAMES})
    summed = Counter[str]()
    for session in rows.sessions:
        mine = [turn["usage"] for turn in rows.of_session(rows.turns, session["session_id"]) if turn["ended_at"]]
        for name in NAMES:
            assert session["usage"][name] == sum(usage[name] for usage in mine)
    for day in rows.usage:
        summed.update({name: day[name] for name in NAMES})
    assert summed == booked, "the tenant used something else than its turns"


def _keys_made_one_thing_each(rows: Rows, known: Known) -> None:
    for kept in rows.keys:
        asked = [said for said in known.said if said.key == kept["key"]]
        sent = {said.sent.message_id for said in asked if said.sent is not None}
        assert len(sent) <= 1, f"{kept['key']} made more than one message"


def shown(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Messages, as they are compared between a session and its copy."""
    return [(row["role"], row["content"], row["tool_call_id"], row["kernel"], row["interrupted"]) for row in rows]


def story(rows: Rows) -> list[str]:
    """The logs, for people who look for what went wrong."""
    lines: list[str] = []
    for session in rows.sessions:
        mine = [turn for turn in rows.turns if turn["session_id"] == session["session_id"]]
        lines.append(f"session {session['session_id'][:4]} epoch {session['epoch']} owner {session['owner']}")
        lines += [f"  turn {turn['turn_id'][:4]} {turn['status']} attempt {turn['attempt']}" for turn in mine]
        for event in rows.of_session(rows.events, session["session_id"]):
            facts = {name: value for name, value in event.items() if name in _FACTS}
            lines.append(f"  {event['seq']} {event['type']} {(event['turn_id'] or '')[:4]} {facts}")
    return lines


_FACTS = ("request", "reason", "call_id", "ok", "attempt", "reused", "unknown", "status", "decision", "blocks")
