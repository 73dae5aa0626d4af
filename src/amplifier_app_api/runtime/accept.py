"""Accepting a message: one transaction, after which it cannot be lost."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.errors import Conflict
from amplifier_app_api.models.content import Content, kernel_content, prompt_of, shown_content
from amplifier_app_api.models.event import MessageUser, Notice, TurnStarted
from amplifier_app_api.models.session import SessionStatus, WhenBusy
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.budget import Budgets
from amplifier_app_api.runtime.journal import RowOfUser, Seals, said_by_user
from amplifier_app_api.runtime.turn import Accepted, Turn
from amplifier_app_api.runtime.units import Effect, TurnKey, Unit, write_unit
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.idempotency import RequestKey, keep_key
from amplifier_app_api.storage.messages import NewMessage, last_message_of
from amplifier_app_api.storage.queue import Begun
from amplifier_app_api.storage.sessions import accept_message, get_session
from amplifier_app_api.storage.turns import insert_turn, next_queued, open_turn_of

ASK_AGAIN_SECONDS = (0.1, 0.5, 2.0)
"""Pauses before asking the database what became of a write whose answer was lost."""


class SessionBusy(Conflict):
    """The session runs a turn, or one waits there; `turn_id` names it. `queued` says that it only waits."""

    code = "session_busy"
    title = "The session is busy"

    queued: bool = False

    @classmethod
    def with_turn(cls, turn_id: str) -> "SessionBusy":
        """A turn runs."""
        return cls("the session is running a turn", facts={"turn_id": turn_id})

    @classmethod
    def with_queue(cls, turn_id: str) -> "SessionBusy":
        """None runs at this moment, but one waits, and it was there before."""
        busy = cls("the session has turns that wait", facts={"turn_id": turn_id})
        busy.queued = True
        return busy

    @property
    def turn_id(self) -> str | None:
        """The turn that is in the way."""
        return self.facts.get("turn_id")


class SessionMoved(Exception):
    """The session's rows are not what this process has in memory: it must be opened again."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message on its way in: a text, or blocks. `context` is JSON the model sees with it.

    `when_busy` is what to do while a turn runs. `key` is kept in the transaction that takes the message.
    """

    content: Content
    context: dict[str, Any] | None = None
    when_busy: WhenBusy = WhenBusy.REJECT
    budget: Budget | None = None
    key: RequestKey | None = None

    @property
    def parent(self) -> Turn | None:
        """The turn that this message's turn works for, in its place; None: it has one of its own."""
        return None

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What else the transaction changes that takes the message."""
        return ()

    @property
    def prompt(self) -> str:
        """What the loop is given: the text, with its context in front."""
        return prompt_of(self.content, self.context)

    @property
    def kernel_content(self) -> Content:
        """What the model is given: the prompt, or the blocks."""
        return self.prompt if isinstance(self.content, str) else kernel_content(self.content, self.context)


async def accept(
    db: Database,
    incoming: Incoming,
    *,
    tenant_id: str,
    session_id: str,
    node_id: str,
    expected_position: int,
    notices: list[Notice],
    seals: Seals,
    budgets: Budgets | None = None,
    expected_revision: int | None = None,
) -> tuple[Accepted, list[StoredEvent]]:
    """Store a message and the turn that answers it, with the turn's first events; the session is then this node's.

    `expected_position` is where the transcript ends in this process's memory, `expected_revision` what it runs there,
    unless that does not matter; `seals` says what of a message its rows may hold. `SessionMoved`: the session is
    closed, gone, or somebody else wrote to it. `SessionBusy`: a turn runs, or others wait, unless the message
    interrupts. `KeyTaken`: a request with the same key was before this one. `QuotaExceeded`: a budget is used up.
    """
    key = TurnKey(tenant_id, session_id, str(uuid.uuid4()))
    try:
        known = (expected_position, expected_revision)
        row = seals.row_of_user(incoming.content, incoming.context, incoming.kernel_content)
        return await db.write(_accept, key, incoming, row, node_id, known, notices, budgets or Budgets())
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
        raise SessionBusy.with_turn(running) from None


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
        content=incoming.kernel_content,
        epoch=record.epoch,
        last_seq=last_seq,
        last_position=position,
        config_id=record.session.config_id,
        revision=record.session.revision,
        used=record.session.usage,
        budget=incoming.budget,
    )
    return accepted, stored


def _accept(
    conn: Connection,
    key: TurnKey,
    incoming: Incoming,
    row: RowOfUser,
    node_id: str,
    known: tuple[int, int | None],
    notices: list[Notice],
    budgets: Budgets,
) -> tuple[Accepted, list[StoredEvent]]:
    now = utc_now()
    message_id = str(uuid.uuid4())
    admitted = accept_message(
        conn,
        key.session_id,
        within=key.tenant_id,
        node_id=node_id,
        events=2 + len(notices),
        now=now,
        ahead=incoming.when_busy is WhenBusy.INTERRUPT,
    )
    if admitted is None:
        raise _why_not(conn, key)
    counters = admitted.counters
    expected_position, expected_revision = known
    other_revision = expected_revision not in (None, admitted.revision)
    if counters.last_position != expected_position + 1 or other_revision:
        running = open_turn_of(conn, key.session_id)
        raise SessionMoved if running is None else SessionBusy.with_turn(running)
    standing = budgets.admit(conn, admitted.budget, admitted.spent, now=now, within=key.tenant_id)
    keep_key(conn, incoming.key, key.turn_id, answer={"config_id": admitted.config_id, "revision": admitted.revision})
    insert_turn(
        conn,
        key.turn_id,
        key.session_id,
        number=admitted.turn_number,
        message_id=message_id,
        now=now,
        epoch=counters.epoch,
        within=key.tenant_id,
        budget=incoming.budget,
    )
    message = NewMessage(
        message_id=message_id,
        turn_id=key.turn_id,
        role="user",
        content=row.content,
        context=row.context,
        created_at=now,
        kernel=row.kernel,
    )
    unit = Unit(
        messages=[message],
        events=[
            *notices,
            TurnStarted(message_id=message_id),
            MessageUser(message_id=message_id, content=shown_content(row.content)),
        ],
        effects=[*incoming.effects],
    )
    stored = write_unit(conn, key, unit, last_seq=counters.last_seq, last_position=counters.last_position)
    accepted = Accepted(
        key=key,
        message_id=message_id,
        prompt=incoming.prompt,
        content=incoming.kernel_content,
        epoch=counters.epoch,
        last_seq=counters.last_seq,
        last_position=counters.last_position,
        config_id=admitted.config_id,
        revision=admitted.revision,
        used=counters.usage,
        budget=incoming.budget,
        standing=standing,
    )
    return accepted, stored


def _why_not(conn: Connection, key: TurnKey) -> Exception:
    """Why a session takes no message now."""
    record = get_session(conn, key.session_id, within=key.tenant_id)
    if record is None or record.session.status is not SessionStatus.ACTIVE:
        return SessionMoved()
    running = open_turn_of(conn, key.session_id)
    if running is not None:
        return SessionBusy.with_turn(running)
    waiting = next_queued(conn, key.session_id)
    return SessionMoved() if waiting is None else SessionBusy.with_queue(waiting.turn_id)


def accepted_from_queue(begun: Begun, *, tenant_id: str, session_id: str, seals: Seals) -> Accepted:
    """What the turn of a message begins with that waited for its place."""
    counters = begun.admitted.counters
    prompt, content = said_by_user(begun.turn.content, begun.turn.context, begun.turn.kernel, seals)
    return Accepted(
        key=TurnKey(tenant_id, session_id, begun.turn.turn_id),
        message_id=begun.turn.message_id,
        prompt=prompt,
        content=content,
        epoch=counters.epoch,
        last_seq=counters.last_seq,
        last_position=counters.last_position,
        config_id=begun.admitted.config_id,
        revision=begun.admitted.revision,
        used=counters.usage,
        budget=begun.turn.budget,
    )
