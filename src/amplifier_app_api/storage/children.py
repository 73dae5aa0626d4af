"""Child sessions, and the turns of theirs that a tool call of the parent waits for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, not_, select, update

from amplifier_app_api.models.approval import ApprovalStatus
from amplifier_app_api.models.session import Activity
from amplifier_app_api.models.turn import TokenUsage, TurnStatus
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.storage.sessions import SessionRecord, get_session, record_from_row
from amplifier_app_api.storage.tables import approvals, events, sessions, turns
from amplifier_app_api.storage.turns import OPEN

_CHILD = select(sessions).where(
    sessions.c.tenant_id == bindparam("of_tenant"),
    sessions.c.parent_id == bindparam("of_parent"),
    sessions.c.external_id == bindparam("of_external"),
)
_BIND = (
    update(turns)
    .where(turns.c.turn_id == bindparam("of_turn"))
    .values(parent_turn_id=bindparam("for_turn"), parent_call_id=bindparam("for_call"))
)


@dataclass(frozen=True, slots=True)
class ChildTurn:
    """A turn of a child session that a tool call waits for, or waited for."""

    turn_id: str
    session_id: str
    tenant_id: str
    external_id: str
    agent: str
    status: str
    stop_reason: str | None
    code: str | None
    error: str | None
    response: str | None
    number: int


_CHILD_TURNS = (
    select(
        turns.c.turn_id,
        turns.c.session_id,
        turns.c.tenant_id,
        sessions.c.external_id,
        sessions.c.agent,
        turns.c.status,
        turns.c.stop_reason,
        turns.c.code,
        turns.c.error,
        turns.c.response,
        turns.c.number,
    )
    .join(sessions, sessions.c.session_id == turns.c.session_id)
    .order_by(turns.c.created_at, turns.c.turn_id)
)
_OF_CALL = _CHILD_TURNS.where(
    turns.c.tenant_id == bindparam("of_tenant"),
    turns.c.parent_turn_id == bindparam("for_turn"),
    turns.c.parent_call_id == bindparam("for_call"),
)
_parents = turns.alias("parents")
_ORPHANS = _CHILD_TURNS.where(
    OPEN,
    turns.c.parent_turn_id.is_not(None),
    not_(
        select(_parents.c.turn_id)
        .where(_parents.c.turn_id == turns.c.parent_turn_id, _parents.c.ended_at.is_(None))
        .exists()
    ),
)


def child_of(conn: Connection, parent_id: str, external_id: str, *, within: str) -> SessionRecord | None:
    """The child that a session knows under an id."""
    values = {"of_tenant": within, "of_parent": parent_id, "of_external": external_id}
    row = conn.execute(_CHILD, values).mappings().first()
    return None if row is None else record_from_row(row)


def bind_to_call(conn: Connection, turn_id: str, *, parent_turn_id: str, parent_call_id: str | None) -> None:
    """Note which tool call of the parent waits for a turn that was just accepted."""
    conn.execute(_BIND, {"of_turn": turn_id, "for_turn": parent_turn_id, "for_call": parent_call_id})


def turns_of_call(conn: Connection, parent_turn_id: str, call_id: str, *, within: str) -> Sequence[ChildTurn]:
    """The turns of children that a tool call asked for, the oldest first."""
    found = conn.execute(_OF_CALL, {"of_tenant": within, "for_turn": parent_turn_id, "for_call": call_id})
    return [ChildTurn(*row) for row in found]


def orphaned_turns(conn: Connection) -> Sequence[ChildTurn]:
    """Turns of children that run or wait, of every tenant, though the turn that asked for them has ended."""
    return [ChildTurn(*row) for row in conn.execute(_ORPHANS)]


@dataclass(frozen=True, slots=True)
class ToldChild:
    """A child of which a turn's log tells that its task began, and not how it ended.

    `status` is how its own turn for it ended; None: that has not, or there is none.
    """

    child_id: str
    external_id: str
    agent: str
    status: TurnStatus | None


def children_told(conn: Connection, session_id: str, turn_id: str) -> list[ToldChild]:
    """The children whose end the log of an open turn lacks, one for each task."""
    of_turn = (events.c.session_id == session_id, events.c.turn_id == turn_id)
    # The log is read from its end: a turn that runs is the last of its session.
    began = select(events.c.seq).where(*of_turn, events.c.type == "turn.started").order_by(events.c.seq.desc()).limit(1)
    first = conn.execute(began).scalar_one_or_none()
    told = select(events.c.type, events.c.data).where(
        *of_turn, events.c.seq > (first or 0), events.c.type.in_(("child.started", "child.ended"))
    )
    open_tasks: list[dict[str, Any]] = []
    for row in conn.execute(told.order_by(events.c.seq)):
        said: dict[str, Any] = orjson.loads(row.data)
        if row.type == "child.started":
            open_tasks.append(said)
        elif (begun := next((one for one in open_tasks if one["child_id"] == said["child_id"]), None)) is not None:
            open_tasks.remove(begun)
    return [
        ToldChild(one["child_id"], one["external_id"], one["agent"], _ended_for(conn, one["child_id"], turn_id))
        for one in open_tasks
    ]


def _ended_for(conn: Connection, child_id: str, parent_turn_id: str) -> TurnStatus | None:
    """How the last turn of a child for a turn of its parent ended."""
    row = conn.execute(
        select(turns.c.status, turns.c.ended_at)
        .where(turns.c.parent_turn_id == parent_turn_id, turns.c.session_id == child_id)
        .order_by(turns.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None or row.ended_at is None else TurnStatus(row.status)


def spent_by_children(conn: Connection, turn_id: str) -> dict[str, Spent]:
    """What the turns of children that ended have used for a turn, by their ids, with their own children's.

    The row of a turn that runs has only what it used itself.
    """
    ended = select(turns.c.turn_id, turns.c.usage, turns.c.tool_calls, turns.c.iterations).where(
        turns.c.parent_turn_id == turn_id, turns.c.ended_at.is_not(None)
    )
    return {row.turn_id: _spent_with_children(conn, row) for row in conn.execute(ended).all()}


def _spent_with_children(conn: Connection, row: Any) -> Spent:
    below = spent_by_children(conn, row.turn_id).values()
    return Spent(
        TokenUsage.model_validate(row.usage),  # has that of its children already
        row.tool_calls + sum(spent.tool_calls for spent in below),
        row.iterations + sum(spent.iterations for spent in below),
    )


def status_of_left(parent: TurnStatus) -> TurnStatus:
    """How the turn of a child ends when the turn it works for has ended before it."""
    return TurnStatus.INTERRUPTED if parent is TurnStatus.INTERRUPTED else TurnStatus.CANCELLED


def descendants(conn: Connection, session_id: str, *, within: str) -> list[str]:
    """The children of a session, their children, and so on; those that are further down come first."""
    level, found = [session_id], list[str]()
    while level:
        below = select(sessions.c.session_id).where(sessions.c.tenant_id == within, sessions.c.parent_id.in_(level))
        level = list(conn.execute(below).scalars())
        found = [*level, *found]
    return found


def delete_with_children(conn: Connection, session_id: str, *, within: str) -> list[str]:
    """Remove a session and everything below it with all rows, and give back the ids of what there was."""
    if get_session(conn, session_id, within=within, to_change=True) is None:
        return []
    wanted = [*descendants(conn, session_id, within=within), session_id]
    statement = delete(sessions).where(sessions.c.tenant_id == within, sessions.c.session_id.in_(wanted))
    return list(conn.execute(statement.returning(sessions.c.session_id)).scalars())


def show_asking(conn: Connection, turn_id: str) -> None:
    """A turn waits for a person: so do those that it works for."""
    for above in _above(conn, turn_id):
        _show(conn, above, TurnStatus.WAITING, Activity.WAITING)


def show_answered(conn: Connection, turn_id: str) -> None:
    """A turn waits for nobody any more: neither do those that it works for, unless something else keeps them."""
    for above in _above(conn, turn_id):
        if is_kept(conn, above.turn_id):
            return
        _show(conn, above, TurnStatus.RUNNING, Activity.RUNNING)


def show_child_ended(conn: Connection, turn_id: str, session_id: str) -> None:
    """A child of a turn works no more: when it was what the turn waited for, the turn goes on."""
    if not is_kept(conn, turn_id):
        _show(conn, _Place(turn_id, session_id), TurnStatus.RUNNING, Activity.RUNNING)
        show_answered(conn, turn_id)


def is_kept(conn: Connection, turn_id: str) -> bool:
    """Whether a turn waits for a person: for itself, or because a turn does that works for it."""
    pending = select(approvals.c.approval_id).where(
        approvals.c.turn_id == turn_id, approvals.c.status == ApprovalStatus.PENDING.value
    )
    asking = select(turns.c.turn_id).where(
        turns.c.parent_turn_id == turn_id, turns.c.status == TurnStatus.WAITING.value
    )
    return any(conn.execute(one.limit(1)).first() is not None for one in (pending, asking))


@dataclass(frozen=True, slots=True)
class _Place:
    turn_id: str
    session_id: str


_PARENT = select(_parents.c.turn_id, _parents.c.session_id).where(
    _parents.c.turn_id
    == select(turns.c.parent_turn_id).where(turns.c.turn_id == bindparam("of_turn")).scalar_subquery()
)


def _above(conn: Connection, turn_id: str) -> Iterator[_Place]:
    while (row := conn.execute(_PARENT, {"of_turn": turn_id}).first()) is not None:
        turn_id = row.turn_id
        yield _Place(turn_id, row.session_id)


def _show(conn: Connection, place: _Place, status: TurnStatus, activity: Activity) -> None:
    """Show what an open turn does. Its session's row comes first, as in every write of a turn."""
    is_open = select(turns.c.turn_id).where(turns.c.turn_id == place.turn_id, OPEN).exists()
    session = update(sessions).where(sessions.c.session_id == place.session_id, is_open)
    conn.execute(session.values(activity=activity.value))
    conn.execute(update(turns).where(turns.c.turn_id == place.turn_id, OPEN).values(status=status.value))
