"""The end of a turn that no process runs, written from its rows alone.

Whoever calls this holds an epoch of the session: it took the turn over, or it ends what another node runs. The next
epoch is taken, so that whoever may still write is fenced.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, select

from amplifier_app_api.models.event import (
    TERMINAL_EVENTS,
    ApprovalResolved,
    ChildEnded,
    Event,
    MessageCompleted,
    MessageDiscarded,
    ToolCompleted,
    TurnEnded,
)
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.storage.approvals import withdraw_approvals
from amplifier_app_api.storage.children import children_told, spent_by_children, status_of_left
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.deltas import PartialBlock, delete_deltas, partial_blocks
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.journal import FINISHED, UNKNOWN, JournalledCall, calls_of, row_of_call
from amplifier_app_api.storage.lifecycle import synthetic_result
from amplifier_app_api.storage.messages import NewMessage, answered_calls, insert_messages, open_tool_calls
from amplifier_app_api.storage.sessions import advance_to_idle
from amplifier_app_api.storage.tables import turns
from amplifier_app_api.storage.turns import OPEN, end_turn
from amplifier_app_api.storage.usage import book, session_spent


class TurnMoved(Exception):
    """Rolls the transaction back: the turn has ended, or the session has another epoch."""


@dataclass(frozen=True, slots=True)
class EndFromRows:
    """How to end a turn. `said` stands in the transcript for calls whose outcome nobody recorded."""

    status: TurnStatus
    stop_reason: StopReason
    said: str
    code: str | None = None
    error: str | None = None


def end_open_turn(
    conn: Connection, turn_id: str, session_id: str, end: EndFromRows, *, epoch: int, within: str
) -> list[StoredEvent]:
    """End a turn, keep what it had said, answer its open calls. `TurnMoved`: it is not there to be ended.

    Gives the events that were written.
    """
    now = utc_now()
    row = conn.execute(select(turns).where(turns.c.turn_id == turn_id, OPEN)).mappings().first()
    if row is None:
        raise TurnMoved
    rows, events = _partial_answer(conn, turn_id, session_id, within)
    text = rows[0].content[0]["text"] if rows else None
    journal = calls_of(conn, turn_id)
    answers, told = _answers(conn, turn_id, journal, end.said)
    rows += answers
    events += [
        ChildEnded(
            child_id=child.child_id,
            external_id=child.external_id,
            agent=child.agent,
            status=child.status or status_of_left(end.status),
        )
        for child in children_told(conn, session_id, turn_id)
    ]
    events += told
    events += [
        ApprovalResolved(
            approval_id=approval.approval_id,
            tool=approval.tool,
            status=approval.status.value,
            decision=approval.decision,
        )
        for approval in withdraw_approvals(conn, turn_id, now=now)
    ]
    # What was started since the last reply is in the journal only.
    tool_calls = max(row["tool_calls"], len(journal))
    own = Spent(TokenUsage.model_validate(row["usage"]), tool_calls=tool_calls, iterations=row["iterations"])
    whole = own
    for below in spent_by_children(conn, turn_id).values():
        whole = whole.plus(below)
    events.append(_terminal(end, text, whole.usage))
    _, so_far = session_spent(conn, session_id)
    counters = advance_to_idle(
        conn,
        session_id,
        epoch=epoch,
        events=len(events),
        messages=len(rows),
        before=so_far.usage,
        spent=whole,
        now=now,
        new_epoch=True,
    )
    if counters is None:
        raise TurnMoved
    book(conn, own, now=now, within=within)
    ended: dict[str, Any] = {"response": text, "code": end.code, "error": end.error, "tool_calls": tool_calls}
    ended["usage"] = whole.usage.model_dump()
    end_turn(conn, turn_id, status=end.status, stop_reason=end.stop_reason, ended_at=now, **ended)
    delete_deltas(conn, session_id, turn_id)
    first = counters.last_position - len(rows) + 1
    insert_messages(conn, rows, session_id=session_id, first_position=first, within=within)
    return insert_events(
        conn,
        events,
        session_id=session_id,
        turn_id=turn_id,
        first_seq=counters.last_seq - len(events) + 1,
        at=now,
        within=within,
    )


def _terminal(end: EndFromRows, response: str | None, usage: TokenUsage) -> TurnEnded:
    fields: dict[str, Any] = {"stop_reason": end.stop_reason, "response": response, "usage": usage}
    return TERMINAL_EVENTS[end.status](**fields, code=end.code, error=end.error)


def _partial_answer(
    conn: Connection, turn_id: str, session_id: str, within: str
) -> tuple[list[NewMessage], list[Event]]:
    """What the last model call had said, as a message; what earlier ones had said does not count."""
    blocks = partial_blocks(conn, session_id, turn_id, within=within)
    events: list[Event] = []
    rows: list[NewMessage] = []
    last = max((block.request for block in blocks), default=0)
    for request in sorted({block.request for block in blocks}):
        said = [block for block in blocks if block.request == request and block.type == "message.delta"]
        if request == last and said:
            row = partial_answer(turn_id, "".join(block.text for block in said))
            rows.append(row)
            events.append(_completed(row, request, said))
        else:
            events.append(MessageDiscarded(request=request, reason="it did not become part of the transcript"))
    return rows, events


def _completed(row: NewMessage, request: int, said: Sequence[PartialBlock]) -> MessageCompleted:
    blocks = [{"block": block.block, "type": "text", "text": block.text} for block in said]
    return MessageCompleted(message_id=row.message_id, request=request, blocks=blocks)


def partial_answer(turn_id: str, text: str) -> NewMessage:
    """The row of an answer that was not finished."""
    content = [{"type": "text", "text": text}]
    return NewMessage(
        message_id=str(uuid.uuid4()),
        turn_id=turn_id,
        role="assistant",
        content=content,
        created_at=utc_now(),
        kernel={"role": "assistant", "content": content},
        metadata={"interrupted": True},
        interrupted=True,
    )


def _answers(
    conn: Connection, turn_id: str, calls: Sequence[JournalledCall], said: str
) -> tuple[list[NewMessage], list[Event]]:
    """Rows that answer the calls without a result, and events for those that had not been told to have ended."""
    answered = Counter(answered_calls(conn, turn_id))
    journal = {call.call_id: call for call in calls}
    rows: list[NewMessage] = []
    events: list[Event] = []
    for call_id, tool in open_tool_calls(conn, turn_id):
        call = journal.get(row_of_call(call_id, answered[call_id] + 1))
        text = _recorded(call) or said
        rows.append(synthetic_result(turn_id, call_id, tool, text))
        if call is None or call.status not in (FINISHED, UNKNOWN):
            events.append(ToolCompleted(call_id=call_id, ok=False, output=text, truncated=False, ms=0))
    return rows, events


def _recorded(call: JournalledCall | None) -> str | None:
    """What a call gave, where the journal has it in plain words."""
    match call.result if call is not None else None:
        case {"result": {"output": str() as text}} | {"raised": str() as text}:
            return text
        case {"result": {"output": output}} if output is not None:
            return orjson.dumps(output).decode()
        case _:
            return None
