"""The event log as rows: numbered per session without a gap, the envelope encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import Connection, insert, select

from amplifier_app_api.models.event import SCHEMA, Event
from amplifier_app_api.models.fields import format_time
from amplifier_app_api.storage.tables import events


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A durable event with its number. `data` is the envelope: one line of JSON."""

    seq: int
    type: str
    turn_id: str | None
    data: bytes


_INSERT = insert(events)


def insert_events(
    conn: Connection,
    new: Sequence[Event],
    *,
    session_id: str,
    turn_id: str | None,
    first_seq: int,
    at: datetime,
    within: str,
) -> list[StoredEvent]:
    """Append events with the numbers from `first_seq` on."""
    if not new:
        return []
    moment = format_time(at)
    stored: list[StoredEvent] = []
    for seq, event in enumerate(new, first_seq):
        fields = event.model_dump(mode="json", by_alias=True)
        envelope = {
            "seq": seq,
            "type": fields.pop("type"),
            "session_id": session_id,
            "turn_id": turn_id,
            "at": moment,
            "schema": SCHEMA,
            **fields,
        }
        stored.append(StoredEvent(seq, event.type, turn_id, orjson.dumps(envelope)))
    conn.execute(
        _INSERT,
        [
            {
                "session_id": session_id,
                "seq": event.seq,
                "tenant_id": within,
                "turn_id": turn_id,
                "type": event.type,
                "at": at,
                "data": event.data.decode(),
            }
            for event in stored
        ],
    )
    return stored


def events_after(conn: Connection, session_id: str, after: int, *, limit: int, within: str) -> list[StoredEvent]:
    """The next events of a session's log, at most `limit`."""
    statement = (
        select(events.c.seq, events.c.type, events.c.turn_id, events.c.data)
        .where(events.c.tenant_id == within, events.c.session_id == session_id, events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    )
    return [StoredEvent(row.seq, row.type, row.turn_id, row.data.encode()) for row in conn.execute(statement)]
