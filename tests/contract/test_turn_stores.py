"""What turns and their writers can rely on in the database, on every engine."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.event import Notice
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.runtime.accept import Incoming, SessionBusy, accept
from amplifier_app_api.runtime.outcome import Outcome
from amplifier_app_api.runtime.recorder import Recorder, TurnOver
from amplifier_app_api.runtime.turn import Accepted
from amplifier_app_api.runtime.units import Ending, Unit
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import insert_config
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.lifecycle import create_session
from amplifier_app_api.storage.messages import NewMessage, all_messages
from amplifier_app_api.storage.sessions import SessionRecord, advance, get_session
from amplifier_app_api.storage.stopping import stop_turn
from amplifier_app_api.storage.turns import end_turn, insert_turn, open_turn_of
from seals import PLAIN

HERE = "default"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


@pytest.fixture
async def session_id(db: Database) -> str:
    config_id, identity, now = str(uuid.uuid4()), str(uuid.uuid4()), utc_now()
    text = "bundle: {name: a}\n"
    await db.write(
        insert_config, config_id, name="a", within=HERE, yaml_content=text, description=None, tags={}, by="me"
    )
    session = Session(
        session_id=identity,
        config_id=config_id,
        revision=1,
        status=SessionStatus.ACTIVE,
        created_at=now,
        updated_at=now,
    )
    record = SessionRecord(
        session=session, tenant_id=HERE, variables=None, working_dir=None, allow_missing=False, epoch=1
    )
    await db.write(create_session, record, session=session, notices=[])
    return identity


async def accepted(db: Database, session_id: str, *, position: int = 0) -> Accepted:
    turn, _ = await accept(
        db,
        Incoming("hi"),
        tenant_id=HERE,
        session_id=session_id,
        node_id="here",
        expected_position=position,
        notices=[],
        seals=PLAIN,
    )
    return turn


def recorder_of(db: Database, turn: Accepted) -> Recorder:
    return Recorder(
        db, EventHub(), turn.key, epoch=turn.epoch, last_seq=turn.last_seq, last_position=turn.last_position
    )


def ending(turn: Accepted, *, new_epoch: bool = False) -> Ending:
    outcome = Outcome(turn.key.turn_id, TurnStatus.COMPLETED, StopReason.END_TURN, "ok", TokenUsage())
    values = {"response": "ok", "code": None, "error": None, "iterations": 1, "tool_calls": 0}
    unit = Unit(events=[outcome.event()])
    return Ending(
        TurnStatus.COMPLETED, StopReason.END_TURN, unit, values, Spent(), Spent(), turn.used, new_epoch=new_epoch
    )


def said(turn: Accepted, text: str, **fields: Any) -> Unit:
    message = NewMessage(
        message_id=str(uuid.uuid4()),
        turn_id=turn.key.turn_id,
        role="assistant",
        content=fields.pop("content", text),
        created_at=utc_now(),
        kernel={"role": "assistant", "content": text},
        **fields,
    )
    return Unit(messages=[message], events=[Notice(level="info", text=text, source="test")])


async def lost(db: Database, turn: Accepted) -> list[StoredEvent] | None:
    """The turn is ended from its rows alone."""
    return await db.write(
        stop_turn,
        turn.key.session_id,
        turn.key.turn_id,
        within=HERE,
        said="Lost.",
        status=TurnStatus.INTERRUPTED,
        stop_reason=StopReason.NODE_LOST,
    )


async def test_a_writer_whose_epoch_is_over_writes_nothing(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)
    old = recorder_of(db, turn)
    await lost(db, turn)

    with pytest.raises(TurnOver):
        await old.write(said(turn, "too late"))

    assert await recorder_of(db, turn).end(ending(turn)) is False
    assert [row.role for row in await db.read(all_messages, session_id, within=HERE)] == ["user"]


async def test_a_session_has_one_open_turn_whoever_asks(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)

    with pytest.raises(SessionBusy) as busy:
        await accepted(db, session_id, position=1)
    with pytest.raises(IntegrityError):
        await db.write(
            insert_turn, str(uuid.uuid4()), session_id, number=2, message_id="m", now=utc_now(), epoch=1, within=HERE
        )

    assert busy.value.facts == {"turn_id": turn.key.turn_id}
    assert await db.read(open_turn_of, session_id) == turn.key.turn_id
    session = (await db.read(get_session, session_id, within=HERE)).session
    assert (session.message_count, session.activity) == (1, "running")


async def test_of_messages_sent_at_once_one_is_accepted(db: Database, session_id: str) -> None:
    outcomes = await asyncio.gather(*(accepted(db, session_id) for _ in range(8)), return_exceptions=True)

    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SessionBusy) for outcome in outcomes) == 7
    assert [row.position for row in await db.read(all_messages, session_id, within=HERE)] == [1]


async def test_numbers_have_no_gap_and_no_repeat_under_eight_writers(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)
    writers = [recorder_of(db, turn) for _ in range(8)]

    async def write(writer: Recorder, number: int) -> None:
        for step in range(5):
            await writer.write(said(turn, f"{number}.{step}"))

    await asyncio.gather(*(write(writer, number) for number, writer in enumerate(writers)))

    events = await db.read(events_after, session_id, 0, limit=500, within=HERE)
    assert [event.seq for event in events] == list(range(1, 3 + 40 + 1))
    rows = await db.read(all_messages, session_id, within=HERE)
    assert [row.position for row in rows] == list(range(1, 1 + 40 + 1))
    assert len({row.content for row in rows}) == 41


async def test_a_turn_ends_once(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)

    ends = await asyncio.gather(*(recorder_of(db, turn).end(ending(turn)) for _ in range(4)))

    assert sorted(ends) == [False, False, False, True]
    events = await db.read(events_after, session_id, 0, limit=50, within=HERE)
    assert [event.type for event in events].count("turn.completed") == 1
    again = await db.write(
        end_turn,
        turn.key.turn_id,
        status=TurnStatus.FAILED,
        stop_reason=StopReason.ERROR,
        ended_at=utc_now(),
    )
    assert again is False


async def test_an_end_under_a_new_epoch_fences_what_the_loop_writes_later(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)
    late = recorder_of(db, turn)

    assert await recorder_of(db, turn).end(ending(turn, new_epoch=True)) is True

    with pytest.raises(TurnOver):
        await late.write(said(turn, "late"))
    assert (await db.read(get_session, session_id, within=HERE)).epoch == turn.epoch + 1


async def test_a_refused_number_is_not_taken(db: Database, session_id: str) -> None:
    before = (await db.read(get_session, session_id, within=HERE)).session.last_seq

    assert await db.write(advance, session_id, epoch=99, events=3) is None

    assert (await db.read(get_session, session_id, within=HERE)).session.last_seq == before


@pytest.mark.parametrize("place", ["tool_calls", "content"])
async def test_an_end_from_rows_answers_the_open_calls_wherever_the_loop_wrote_them(
    db: Database, session_id: str, place: str
) -> None:
    turn = await accepted(db, session_id)
    calls = [{"type": "tool_call", "id": f"c{n}", "name": "look", "input": {}} for n in (1, 2)]
    fields: dict[str, Any] = {"tool_calls": calls} if place == "tool_calls" else {"content": calls}
    recorder = recorder_of(db, turn)
    await recorder.write(said(turn, "", **fields))

    assert await lost(db, turn) is not None

    rows = await db.read(all_messages, session_id, within=HERE)
    assert [(row.tool_call_id, row.content) for row in rows if row.role == "tool"] == [
        ("c1", "Lost."),
        ("c2", "Lost."),
    ]
    events = await db.read(events_after, session_id, 0, limit=50, within=HERE)
    assert [event.type for event in events][-3:] == ["tool.completed", "tool.completed", "turn.interrupted"]
    session = (await db.read(get_session, session_id, within=HERE)).session
    assert (session.activity, session.last_seq) == ("idle", events[-1].seq)
    assert await lost(db, turn) is None


async def test_a_unit_that_no_database_takes_does_not_keep_its_turn_from_ending(db: Database, session_id: str) -> None:
    turn = await accepted(db, session_id)
    recorder = recorder_of(db, turn)
    unit = said(turn, "first")
    twice = Unit(messages=[*unit.messages, *unit.messages], events=unit.events)
    with pytest.raises(IntegrityError):
        await recorder.write(twice)

    assert await recorder.end(ending(turn), alone=True) is True

    assert await db.read(open_turn_of, session_id) is None
