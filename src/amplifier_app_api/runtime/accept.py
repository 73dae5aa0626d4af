"""Accepting a message: one transaction, after which it cannot be lost."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.errors import Conflict
from amplifier_app_api.models.event import MessageUser, Notice, TurnStarted
from amplifier_app_api.runtime.recorder import TurnKey, Unit, write_unit
from amplifier_app_api.runtime.turn import Accepted
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.messages import NewMessage, last_message_of
from amplifier_app_api.storage.sessions import accept_message, get_session
from amplifier_app_api.storage.turns import insert_turn, open_turn_of

ASK_AGAIN_SECONDS = (0.1, 0.5, 2.0)
"""Pauses before asking the database what became of a write whose answer was lost."""


class SessionBusy(Conflict):
    """The session runs a turn; `turn_id` names it."""

    code = "session_busy"
    title = "The session is busy"


class SessionMoved(Exception):
    """The session's rows are not what this process has in memory: it must be opened again."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message on its way in. `context` is JSON the model sees with it."""

    text: str
    context: dict[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """What the loop is given: the text, with its context in front."""
        if self.context is None:
            return self.text
        line = orjson.dumps(self.context).decode().replace("<", "\\u003c")
        return f"<message-context>{line}</message-context>\n\n{self.text}"


async def accept(
    db: Database,
    incoming: Incoming,
    *,
    tenant_id: str,
    session_id: str,
    expected_position: int,
    notices: list[Notice],
) -> tuple[Accepted, list[StoredEvent]]:
    """Store a message and the turn that answers it, with the turn's first events.

    `expected_position` is where the transcript ends in this process's memory. `SessionMoved`: the session is closed,
    gone, or somebody else wrote to it. `SessionBusy`: a turn runs.
    """
    key = TurnKey(tenant_id, session_id, str(uuid.uuid4()))
    try:
        return await db.write(_accept, key, incoming, expected_position, notices)
    except DatabaseUnavailable:
        # The commit may have held and only the answer been lost: then there is a turn, and it must run.
        found = await _accepted_all_the_same(db, key, incoming)
        if found is None:
            raise
        return found
    except IntegrityError:
        running = await db.read(open_turn_of, session_id)
        if running is None:  # it ended in between, or the session is gone
            raise SessionMoved from None
        raise SessionBusy("the session is running a turn", facts={"turn_id": running}) from None


async def _accepted_all_the_same(
    db: Database, key: TurnKey, incoming: Incoming
) -> tuple[Accepted, list[StoredEvent]] | None:
    for pause in ASK_AGAIN_SECONDS:
        await asyncio.sleep(pause)
        try:
            return await db.read(_find_accepted, key, incoming)
        except DatabaseUnavailable:
            continue
    return None


def _find_accepted(conn: Connection, key: TurnKey, incoming: Incoming) -> tuple[Accepted, list[StoredEvent]] | None:
    record = get_session(conn, key.session_id, within=key.tenant_id)
    if record is None or open_turn_of(conn, key.session_id) != key.turn_id:
        return None
    last_seq = record.session.last_seq
    stored = [
        event
        for event in events_after(
            conn, key.session_id, 0 if last_seq < 200 else last_seq - 200, limit=200, within=key.tenant_id
        )
        if event.turn_id == key.turn_id
    ]
    position, message_id = last_message_of(conn, key.session_id)
    accepted = Accepted(
        key=key,
        message_id=message_id,
        prompt=incoming.prompt,
        epoch=record.epoch,
        last_seq=last_seq,
        last_position=position,
        config_id=record.session.config_id,
        revision=record.session.revision,
    )
    return accepted, stored


def _accept(
    conn: Connection, key: TurnKey, incoming: Incoming, expected_position: int, notices: list[Notice]
) -> tuple[Accepted, list[StoredEvent]]:
    now = utc_now()
    message_id = str(uuid.uuid4())
    admitted = accept_message(conn, key.session_id, within=key.tenant_id, events=2 + len(notices), now=now)
    if admitted is None:
        raise SessionMoved
    counters = admitted.counters
    if counters.last_position != expected_position + 1:
        running = open_turn_of(conn, key.session_id)
        if running is not None:
            raise SessionBusy("the session is running a turn", facts={"turn_id": running})
        raise SessionMoved
    insert_turn(conn, key.turn_id, key.session_id, now=now, epoch=counters.epoch, within=key.tenant_id)
    message = NewMessage(
        message_id=message_id,
        turn_id=key.turn_id,
        role="user",
        content=incoming.text,
        context=incoming.context,
        created_at=now,
        kernel={"role": "user", "content": incoming.prompt},
    )
    unit = Unit(
        messages=[message],
        events=[
            *notices,
            TurnStarted(message_id=message_id),
            MessageUser(message_id=message_id, content=incoming.text),
        ],
    )
    stored = write_unit(conn, key, unit, last_seq=counters.last_seq, last_position=counters.last_position)
    accepted = Accepted(
        key=key,
        message_id=message_id,
        prompt=incoming.prompt,
        epoch=counters.epoch,
        last_seq=counters.last_seq,
        last_position=counters.last_position,
        config_id=admitted.config_id,
        revision=admitted.revision,
    )
    return accepted, stored
