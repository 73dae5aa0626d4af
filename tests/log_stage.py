"""A turn that runs, without a kernel: its recorder on a real database, and readers that come and go."""

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert

from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import Follower
from amplifier_app_api.models.event import (
    Event,
    MessageCompleted,
    MessageDiscarded,
    Notice,
    TurnCompleted,
    TurnQueued,
    TurnStarted,
)
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.runtime.following import Following
from amplifier_app_api.runtime.recorder import Recorder
from amplifier_app_api.runtime.units import Ending, TurnKey, Unit
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import insert_config
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.lifecycle import create_session
from amplifier_app_api.storage.sessions import SessionRecord, advance
from amplifier_app_api.storage.tables import turns

TENANT = "default"


async def new_session(db: Database, *, parent_id: str | None = None, external_id: str | None = None) -> str:
    """A session with nothing but its first event."""
    config_id, session_id, now = str(uuid.uuid4()), str(uuid.uuid4()), utc_now()
    await db.write(
        insert_config,
        config_id,
        name="a",
        within=TENANT,
        yaml_content="bundle: {name: a}\n",
        description=None,
        tags={},
        by="me",
    )
    session = Session(
        session_id=session_id,
        config_id=config_id,
        revision=1,
        status=SessionStatus.ACTIVE,
        parent_id=parent_id,
        external_id=external_id,
        agent=None if parent_id is None else "helper",
        created_at=now,
        updated_at=now,
    )
    record = SessionRecord(
        session=session, tenant_id=TENANT, variables=None, working_dir=None, allow_missing=False, epoch=1
    )
    await db.write(create_session, record, session=session, notices=[])
    return session_id


def log_event(
    conn: Connection, session_id: str, event: Event, turn_id: str | None = None, epoch: int = 1
) -> list[StoredEvent]:
    """Write one event as somebody does who is not the turn's recorder."""
    counters = advance(conn, session_id, epoch=epoch, events=1)
    assert counters is not None
    return insert_events(
        conn,
        [event],
        session_id=session_id,
        turn_id=turn_id,
        first_seq=counters.last_seq,
        at=utc_now(),
        within=TENANT,
    )


def begin_turn(conn: Connection, key: TurnKey, number: int = 1) -> list[StoredEvent]:
    """A turn begins to run, with `turn.started`."""
    now = utc_now()
    row = {
        "turn_id": key.turn_id,
        "tenant_id": key.tenant_id,
        "session_id": key.session_id,
        "number": number,
        "message_id": "m",
        "status": TurnStatus.RUNNING.value,
        "usage": TokenUsage().model_dump(),
        "iterations": 0,
        "tool_calls": 0,
        "requests": 0,
        "attempt": 1,
        "epoch": 1,
        "created_at": now,
        "started_at": now,
    }
    conn.execute(insert(turns), row)
    return log_event(conn, key.session_id, TurnStarted(message_id="m"), key.turn_id)


class TurnStage:
    """One running turn and the process it runs in: its hub, its recorder, what makes rows of deltas."""

    def __init__(self, db: Database, key: TurnKey, hub: EventHub, stored: list[StoredEvent]) -> None:
        self.db = db
        self.key = key
        self.hub = hub
        self.recorder = Recorder(db, hub, key, epoch=1, last_seq=stored[-1].seq, last_position=0)
        self.following = Following(db, hub)
        self.texts: dict[tuple[int, int], str] = {}
        hub.tell(key.session_id, stored)

    @classmethod
    async def begin(cls, db: Database, session_id: str, *, buffer_bytes: int = 2**20) -> "TurnStage":
        hub = EventHub(buffer_bytes)
        hub.delta_log = DeltaLog(db, timedelta(hours=1))  # a test says itself when it writes
        key = TurnKey(TENANT, session_id, str(uuid.uuid4()))
        return cls(db, key, hub, await db.write(begin_turn, key))

    @property
    def delta_log(self) -> DeltaLog:
        assert self.hub.delta_log is not None
        return self.hub.delta_log

    def say(self, text: str, *, request: int = 1, block: int = 0) -> None:
        """The model says more."""
        before = self.texts.get((request, block), "")
        self.recorder.delta("message.delta", request, block, len(before), text)
        self.texts[request, block] = before + text

    def completed(self, request: int = 1) -> MessageCompleted:
        blocks = [
            {"block": block, "type": "text", "text": text}
            for (asked, block), text in sorted(self.texts.items())
            if asked == request
        ]
        return MessageCompleted(message_id=f"m{request}", request=request, blocks=blocks)

    async def complete(self, request: int = 1) -> None:
        """The answer is whole."""
        await self.recorder.write(Unit(events=[self.completed(request)]))

    async def discard(self, request: int = 1) -> None:
        await self.recorder.write(Unit(events=[MessageDiscarded(request=request, reason="again")]))

    async def notice(self) -> None:
        await self.recorder.write(Unit(events=[Notice(level="info", text="n", source="s")]))

    async def somebody_queues(self, *, tell: bool = True) -> list[StoredEvent]:
        """Somebody else writes to the log; `tell` says whether this process hears of it."""
        stored = await self.db.write(log_event, self.key.session_id, TurnQueued(message_id="q"), str(uuid.uuid4()))
        if tell:
            self.hub.tell(self.key.session_id, stored)
        return stored

    async def end(self) -> None:
        """The turn is over."""
        unit = Unit(events=[TurnCompleted(stop_reason="end_turn", response="ok", usage=TokenUsage())])
        ending = Ending(TurnStatus.COMPLETED, StopReason.END_TURN, unit, {}, Spent(), Spent(), TokenUsage())
        assert await self.recorder.end(ending)

    def follow(self, after: str | int = 0) -> "Reader":
        place = Place.parse(str(after))
        assert place is not None
        return Reader(self.following.session(self.key.session_id, place, within=TENANT))

    async def close(self) -> None:
        await self.delta_log.close()
        self.hub.close()


@dataclass
class Reader:
    """Reads a follower; `items` is what it has seen."""

    follower: Follower
    items: list[StreamItem] = field(default_factory=list[StreamItem])

    async def read(self) -> list[StreamItem]:
        """Everything that is there now. A quiet moment makes a follower look into the rows: two are the end of it."""
        new: list[StreamItem] = []
        quiet = 0
        while quiet < 2:
            batch = await self.follower.next_batch(0)
            if batch == []:
                break
            quiet = quiet + 1 if batch is None else 0
            new += batch or []
        self.items += new
        return new

    async def leave(self) -> str:
        """Stop reading; the place to come back to."""
        await self.follower.close()
        return next((item.id for item in reversed(self.items) if item.id is not None), "0")

    @property
    def ids(self) -> list[str | None]:
        return [item.id for item in self.items]

    @property
    def text(self) -> str:
        return "".join(item.delta.text for item in self.items if item.delta is not None)


def shown(items: list[StreamItem]) -> list[tuple[str | None, Any]]:
    """What tests compare: ids, and the text of deltas or else the type."""
    return [(item.id, item.delta.text if item.delta is not None else item.type) for item in items]
