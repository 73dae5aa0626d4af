"""The journal of tool calls: a call is a row before its tool runs, its result is there as soon as it is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from amplifier_app_api.storage.tables import INTEGER, Json, Time, tool_calls

STARTED, FINISHED, UNKNOWN = "started", "finished", "unknown"


@dataclass(frozen=True, slots=True)
class JournalledCall:
    """A tool call as the journal has it.

    `call_id` is the id of the row: that of the call, and for a later call of one turn under the same id that with
    its count. `repeatable` says why the call may be made again, if it may. `result` is what the tool gave.
    """

    call_id: str
    tool: str
    status: str
    repeatable: str | None
    result: Any


_AGAIN = (
    update(tool_calls)
    .where(tool_calls.c.turn_id == bindparam("of_turn"), tool_calls.c.call_id == bindparam("of_call"))
    .values(status=STARTED, runs=tool_calls.c.runs + 1, result=None, ended_at=None)
)
_START = insert(tool_calls)
_CLOSE = (
    update(tool_calls)
    .where(tool_calls.c.turn_id == bindparam("of_turn"), tool_calls.c.call_id == bindparam("of_call"))
    .values(
        status=bindparam("how", type_=tool_calls.c.status.type),
        result=bindparam("given", type_=Json),
        ended_at=bindparam("at", type_=Time),
    )
)
_OF_TURN = (
    select(tool_calls.c.call_id, tool_calls.c.tool, tool_calls.c.status, tool_calls.c.repeatable, tool_calls.c.result)
    .where(tool_calls.c.turn_id == bindparam("of_turn"))
    .order_by(tool_calls.c.number)
)
_COUNT = select(func.count(type_=INTEGER)).where(tool_calls.c.turn_id == bindparam("of_turn"))


def row_of_call(call_id: str, count: int) -> str:
    """The id of a call's row; `count` is how many calls of its turn had its id, this one included."""
    return call_id if count == 1 else f"{call_id}#{count}"


def start_call(
    conn: Connection,
    call_id: str,
    *,
    turn_id: str,
    session_id: str,
    tool: str,
    digest: str,
    repeatable: str | None,
    at: datetime,
    within: str,
) -> None:
    """A tool is about to run."""
    conn.execute(
        _START,
        {
            "turn_id": turn_id,
            "call_id": call_id,
            "tenant_id": within,
            "session_id": session_id,
            "number": conn.execute(_COUNT, {"of_turn": turn_id}).scalar_one() + 1,
            "tool": tool,
            "digest": digest,
            "status": STARTED,
            "repeatable": repeatable,
            "runs": 1,
            "started_at": at,
        },
    )


def start_call_again(conn: Connection, call_id: str, *, turn_id: str) -> None:
    """A tool runs once more for a call that has no result."""
    conn.execute(_AGAIN, {"of_turn": turn_id, "of_call": call_id})


def finish_call(conn: Connection, call_id: str, *, turn_id: str, result: Any, at: datetime) -> None:
    """A tool has run; `result` is JSON."""
    conn.execute(_CLOSE, {"of_turn": turn_id, "of_call": call_id, "how": FINISHED, "given": result, "at": at})


def give_up_call(conn: Connection, call_id: str, *, turn_id: str, at: datetime) -> None:
    """Nobody knows what became of a call, and it is not made again."""
    conn.execute(_CLOSE, {"of_turn": turn_id, "of_call": call_id, "how": UNKNOWN, "given": None, "at": at})


def calls_of(conn: Connection, turn_id: str) -> Sequence[JournalledCall]:
    """The calls of a turn in the order they were started."""
    return [JournalledCall(*row) for row in conn.execute(_OF_TURN, {"of_turn": turn_id})]
