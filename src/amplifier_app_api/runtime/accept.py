"""Accepting a message: one transaction, after which it cannot be lost."""

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
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.messages import NewMessage
from amplifier_app_api.storage.sessions import accept_message
from amplifier_app_api.storage.turns import insert_turn, open_turn_of


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
    except IntegrityError:
        running = await db.read(open_turn_of, session_id)
        if running is None:  # it ended in between, or the session is gone
            raise SessionMoved from None
        raise SessionBusy("the session is running a turn", facts={"turn_id": running}) from None


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
