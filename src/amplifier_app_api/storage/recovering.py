"""How far a turn had come that another process ran, as its rows say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from amplifier_app_api.models.content import Content
from amplifier_app_api.models.turn import Budget, TokenUsage
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.storage.children import ToldChild, children_told, spent_by_children
from amplifier_app_api.storage.deltas import partial_blocks
from amplifier_app_api.storage.journal import JournalledCall, calls_of
from amplifier_app_api.storage.messages import answered_calls, open_tool_calls
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.tables import messages, turns
from amplifier_app_api.storage.turns import OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftTurn:
    """A turn that was left in the middle, with its session.

    `content` and `context` are its message as people see it, `kernel` as the model is given it. `requests` is the
    number of the last model call that left a trace; `abandoned` are those of which pieces are rows. `asking` says
    that a model may just have been asked. `children` are the ids of the tool calls that delegated, `told` the children
    that work for it by its log, `spent_below` is what turns of children that have ended used for it. `works_for` is
    the turn that delegated this one. `cancel` is set when somebody has asked for the turn to be stopped.
    """

    record: SessionRecord
    message_id: str
    content: Content
    context: dict[str, Any] | None
    kernel: dict[str, Any] | None
    budget: Budget | None
    usage: TokenUsage
    iterations: int
    tool_calls: int
    requests: int
    abandoned: Sequence[int]
    asking: bool
    calls: Sequence[JournalledCall]
    open_calls: dict[str, str]
    answered: Sequence[str]
    children: frozenset[str | None]
    told: Sequence[ToldChild]
    spent_below: Mapping[str, Spent]
    works_for: str | None
    cancel: str | None


def left_turn(conn: Connection, turn_id: str, session_id: str, *, within: str) -> LeftTurn | None:
    """The turn, when it is open still."""
    row = conn.execute(select(turns).where(turns.c.turn_id == turn_id, OPEN)).mappings().first()
    record = get_session(conn, session_id, within=within)
    if row is None or record is None:
        return None
    said = conn.execute(
        select(messages.c.content, messages.c.context, messages.c.kernel).where(
            messages.c.message_id == row["message_id"]
        )
    ).first()
    abandoned = sorted({block.request for block in partial_blocks(conn, session_id, turn_id, within=within)})
    open_calls = dict(open_tool_calls(conn, turn_id))
    return LeftTurn(
        record=record,
        message_id=row["message_id"],
        content="" if said is None else said.content,
        context=None if said is None else said.context,
        kernel=None if said is None else said.kernel,
        budget=None if row["budget"] is None else Budget.model_validate(row["budget"]),
        usage=TokenUsage.model_validate(row["usage"]),
        iterations=row["iterations"],
        tool_calls=row["tool_calls"],
        requests=max(row["requests"], *abandoned, 0),
        abandoned=abandoned,
        asking=not open_calls,
        calls=calls_of(conn, turn_id),
        open_calls=open_calls,
        answered=answered_calls(conn, turn_id),
        told=children_told(conn, session_id, turn_id),
        spent_below=spent_by_children(conn, turn_id),
        works_for=row["parent_turn_id"],
        cancel=row["cancel"],
        children=frozenset(
            conn.execute(select(turns.c.parent_call_id).where(turns.c.parent_turn_id == turn_id)).scalars()
        ),
    )
