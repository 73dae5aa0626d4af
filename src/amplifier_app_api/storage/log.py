"""Reading the log of a session: from a place on, as a page, and who else is told in it."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, bindparam, func, select

from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.models.session import Activity
from amplifier_app_api.storage.deltas import StoredDelta, deltas_of
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.tables import events, sessions

MOST_BYTES = 256 * 1024
"""How much of a log is read at a time; at least one event is."""

_AFTER = (
    select(events.c.seq, events.c.type, events.c.turn_id, events.c.data)
    .where(events.c.tenant_id == bindparam("of_tenant"), events.c.session_id == bindparam("of_session"))
    .where(events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
    .limit(bindparam("most", type_=Integer))
)
# PostgreSQL sends all that is asked for; how long a text is it knows without reading it.
_NEXT = _AFTER.subquery()
_SIZE = func.octet_length(_NEXT.c.data)
_SIZED = select(_NEXT, (func.sum(_SIZE).over(order_by=_NEXT.c.seq) - _SIZE).label("before")).subquery()
_AFTER_BY_SIZE = (
    select(_SIZED.c.seq, _SIZED.c.type, _SIZED.c.turn_id, _SIZED.c.data)
    .where(_SIZED.c.before < MOST_BYTES)
    .order_by(_SIZED.c.seq)
)

_EXTENT = select(sessions.c.pruned_seq, sessions.c.last_seq).where(
    sessions.c.tenant_id == bindparam("of_tenant"), sessions.c.session_id == bindparam("of_session")
)
_TURN_AT = (
    select(events.c.turn_id)
    .where(
        events.c.tenant_id == bindparam("of_tenant"),
        events.c.session_id == bindparam("of_session"),
        events.c.seq <= bindparam("at_most"),
        events.c.type == "turn.started",
    )
    .order_by(events.c.seq.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class LogPart:
    """What follows a number in a log, as one snapshot has it.

    `more` says that these may not be all the events. `deltas` are the pieces of the running turn that are rows.
    `pruned` is the number up to which events are gone; it is 0 when nothing is missing in front of `events`. Where
    nothing follows `last` is the number of the last event there is, and `gone` says that there is no such session.
    """

    events: list[StoredEvent]
    deltas: list[StoredDelta]
    pruned: int = 0
    last: int | None = None
    gone: bool = False
    more: bool = False


def read_log(conn: Connection, session_id: str, after: int, *, limit: int, deltas: bool, within: str) -> LogPart:
    """The next events of a log, at most `limit` or about `MOST_BYTES`, and the pieces that are rows if `deltas`."""
    found, more = _next_events(conn, session_id, after, limit=limit, within=within)
    pieces = deltas_of(conn, session_id, within=within) if deltas else []
    if found and found[0].seq == after + 1:
        return LogPart(found, pieces, more=more)
    row = conn.execute(_EXTENT, {"of_tenant": within, "of_session": session_id}).first()
    if row is None:
        return LogPart(found, pieces, gone=True)
    pruned = row.pruned_seq if row.pruned_seq > after else 0
    return LogPart(found, pieces, pruned, None if found else row.last_seq, more=more)


def _next_events(
    conn: Connection, session_id: str, after: int, *, limit: int, within: str
) -> tuple[list[StoredEvent], bool]:
    """Events after a number, and whether there may be more of them."""
    statement = _AFTER_BY_SIZE if conn.dialect.name == "postgresql" else _AFTER
    rows = conn.execute(statement, {"of_tenant": within, "of_session": session_id, "after": after, "most": limit})
    found: list[StoredEvent] = []
    size = 0
    with rows:  # SQLite reads a row when it is asked for
        for row in rows:
            found.append(StoredEvent(row.seq, row.type, row.turn_id, row.data.encode()))
            size += len(found[-1].data)
            if size >= MOST_BYTES or len(found) == limit:
                return found, True
    return found, False


def turn_at(conn: Connection, session_id: str, seq: int, *, within: str) -> str | None:
    """The turn that ran when the event with this number was the last."""
    return conn.execute(_TURN_AT, {"of_tenant": within, "of_session": session_id, "at_most": seq}).scalar_one_or_none()


def first_event_of(conn: Connection, session_id: str, turn_id: str, *, within: str) -> int | None:
    """The number of the first event of a turn. None: the log has none of it any more."""
    mine = (events.c.tenant_id == within) & (events.c.session_id == session_id)
    return conn.execute(select(func.min(events.c.seq)).where(mine, events.c.turn_id == turn_id)).scalar_one()


def page_events(
    conn: Connection,
    session_id: str,
    page: PageRequest,
    *,
    after: int = 0,
    types: Collection[str] | None = None,
    within: str,
) -> Page[StoredEvent]:
    """One page of the events after a number, of these types, oldest first, and how many there are of them."""
    mine = (events.c.tenant_id == within) & (events.c.session_id == session_id) & (events.c.seq > after)
    if types is not None:
        mine &= events.c.type.in_(sorted(types))
    total = conn.execute(select(func.count()).select_from(events).where(mine)).scalar_one()
    statement = select(events).where(mine).order_by(events.c.seq).limit(page.limit + 1)
    place = page.after()
    if place is not None:
        if not place[0].isascii() or not place[0].isdigit() or len(place[0]) > 15:
            raise InvalidPage("cursor is not one that this list made")
        statement = statement.where(events.c.seq > int(place[0]))
    else:
        statement = statement.offset(page.offset)
    rows = conn.execute(statement).all()
    items = [StoredEvent(row.seq, row.type, row.turn_id, row.data.encode()) for row in rows[: page.limit]]
    more = len(rows) > page.limit
    return Page(items, total, make_cursor(str(items[-1].seq), session_id) if more else None)


@dataclass(frozen=True, slots=True)
class Child:
    """A child session, as its parent's log names it."""

    session_id: str
    external_id: str
    agent: str


def running_children(conn: Connection, parent_id: str, *, within: str) -> list[Child]:
    """The children of a session that do something now, oldest first."""
    statement = (
        select(sessions.c.session_id, sessions.c.external_id, sessions.c.agent)
        .where(
            sessions.c.tenant_id == within,
            sessions.c.parent_id == parent_id,
            sessions.c.activity != Activity.IDLE.value,
        )
        .order_by(sessions.c.created_at)
    )
    return [Child(row.session_id, row.external_id or "", row.agent or "") for row in conn.execute(statement)]
