"""What turns that wait, messages that steer and keys of requests can rely on in the database, on every engine."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import Budget, TurnStatus
from amplifier_app_api.runtime.accept import Incoming, SessionBusy, accept
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import insert_config
from amplifier_app_api.storage.deltas import StoredDelta, TurnPieces, append_deltas
from amplifier_app_api.storage.events import events_after
from amplifier_app_api.storage.idempotency import KeyTaken, RequestKey, keep_key, kept_answer
from amplifier_app_api.storage.lifecycle import create_session
from amplifier_app_api.storage.messages import all_messages
from amplifier_app_api.storage.queue import (
    Begun,
    NothingToDo,
    QueueFull,
    QueueLimits,
    begin_next,
    cancel_queued,
    end_queued,
    enqueue,
    queue_left_over,
    steer,
    work_to_do,
)
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.steering import SteeringMessage, mark_used, pending_of_turn
from amplifier_app_api.storage.stopping import stop_turn, wish_to_stop
from amplifier_app_api.storage.tables import event_deltas
from amplifier_app_api.storage.turns import QueuedTurn, get_turn, list_turns, next_queued, open_turn_of
from seals import PLAIN

HERE = "default"
NODE = "here"
MANY = QueueLimits(server=100, session=100)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


async def new_session(db: Database) -> str:
    config_id, identity, now = str(uuid.uuid4()), str(uuid.uuid4()), utc_now()
    await db.write(
        insert_config,
        config_id,
        name="a",
        within=HERE,
        yaml_content="bundle: {name: a}\n",
        description=None,
        tags={},
        by="me",
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


@pytest.fixture
async def session_id(db: Database) -> str:
    return await new_session(db)


async def running(db: Database, session_id: str, *, position: int = 0) -> str:
    """A turn that runs; its id."""
    accepted, _ = await accept(
        db,
        Incoming("go"),
        tenant_id=HERE,
        session_id=session_id,
        node_id=NODE,
        expected_position=position,
        notices=[],
        seals=PLAIN,
    )
    return accepted.key.turn_id


def message(text: str, *, budget: Budget | None = None) -> QueuedTurn:
    return QueuedTurn(str(uuid.uuid4()), str(uuid.uuid4()), text, {"n": 1}, budget)


async def queued(db: Database, session_id: str, text: str, **more: Any) -> QueuedTurn:
    turn = message(text)
    assert await db.write(enqueue, session_id, turn, within=HERE, limits=MANY, **more) is not None
    return turn


async def begin(db: Database, session_id: str, *, position: int) -> Begun | None:
    return await db.write(begin_next, session_id, within=HERE, node_id=NODE, expected_position=position, notices=[])


async def log(db: Database, session_id: str) -> list[str]:
    events = await db.read(events_after, session_id, 0, limit=100, within=HERE)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


async def test_a_queued_turn_keeps_its_message_until_it_begins(db: Database, session_id: str) -> None:
    turn = message("later", budget=Budget(tokens=5))
    await db.write(enqueue, session_id, turn, within=HERE, limits=MANY)

    shown = await db.read(get_turn, turn.turn_id, session_id=session_id, within=HERE)
    begun = await begin(db, session_id, position=0)

    assert (shown.status, shown.message, shown.number, shown.budget) == ("queued", "later", 1, Budget(tokens=5))
    assert begun is not None and begun.turn == turn
    (row,) = await db.read(all_messages, session_id, within=HERE)
    assert (row.message_id, row.content, row.context, row.position) == (turn.message_id, "later", {"n": 1}, 1)
    after = await db.read(get_turn, turn.turn_id, session_id=session_id, within=HERE)
    assert (after.status, after.message) == ("running", None) and after.started_at is not None
    record = await db.read(get_session, session_id, within=HERE)
    assert (record.session.message_count, record.owner, record.session.activity) == (1, NODE, "running")
    assert await log(db, session_id) == ["session.created", "turn.queued", "turn.started", "message.user"]


async def test_a_turn_that_waits_does_not_begin_while_another_is_open(db: Database, session_id: str) -> None:
    turn_id = await running(db, session_id)
    await queued(db, session_id, "later")

    with pytest.raises(IntegrityError):
        await begin(db, session_id, position=1)

    assert await db.read(open_turn_of, session_id) == turn_id
    assert await log(db, session_id) == ["session.created", "turn.started", "message.user", "turn.queued"]


async def test_a_turn_begins_only_where_the_transcript_is_known_to_end(db: Database, session_id: str) -> None:
    await queued(db, session_id, "later")

    with pytest.raises(NothingToDo):
        await begin(db, session_id, position=7)

    assert (await begin(db, session_id, position=0)) is not None
    assert await begin(db, session_id, position=1) is None


async def test_of_two_that_begin_the_next_turn_one_does(db: Database, session_id: str) -> None:
    await queued(db, session_id, "later")

    results = await asyncio.gather(*(begin(db, session_id, position=0) for _ in range(2)), return_exceptions=True)

    assert len([result for result in results if isinstance(result, Begun)]) == 1
    assert (await log(db, session_id)).count("turn.started") == 1


async def test_a_message_does_not_go_before_those_that_wait_unless_it_interrupts(db: Database, session_id: str) -> None:
    from amplifier_app_api.models.session import WhenBusy

    turn = await queued(db, session_id, "first")
    options = {
        "tenant_id": HERE,
        "session_id": session_id,
        "node_id": NODE,
        "expected_position": 0,
        "notices": [],
        "seals": PLAIN,
    }

    with pytest.raises(SessionBusy) as refused:
        await accept(db, Incoming("second"), **options)
    await accept(db, Incoming("now", when_busy=WhenBusy.INTERRUPT), **options)

    assert (refused.value.queued, refused.value.turn_id) == (True, turn.turn_id)
    assert (await db.read(next_queued, session_id)) == turn


async def test_limits_hold_for_the_session_and_for_all(db: Database, session_id: str) -> None:
    other = await new_session(db)
    await queued(db, session_id, "one")

    with pytest.raises(QueueFull) as own:
        await db.write(enqueue, session_id, message("two"), within=HERE, limits=QueueLimits(10, 1))
    with pytest.raises(QueueFull) as all_of_them:
        await db.write(enqueue, other, message("two"), within=HERE, limits=QueueLimits(1, 10))

    assert (own.value.of_session, all_of_them.value.of_session) == (True, False)
    assert (await db.read(list_turns, other, PageRequest(), within=HERE)).total == 0


async def test_another_tenant_neither_queues_nor_sees_nor_ends_a_turn(db: Database, session_id: str) -> None:
    turn = await queued(db, session_id, "mine")

    assert await db.write(enqueue, session_id, message("x"), within="other", limits=MANY) is None
    assert await db.write(end_queued, session_id, turn.turn_id, within="other") is None
    assert await db.read(get_turn, turn.turn_id, session_id=session_id, within="other") is None
    assert (await db.read(list_turns, session_id, PageRequest(), within="other")).items == []
    assert await db.write(stop_turn, session_id, turn.turn_id, within="other", said="") is None


async def test_a_turn_that_waits_ends_once_and_its_message_is_kept(db: Database, session_id: str) -> None:
    turn = await queued(db, session_id, "no")
    ways = [
        {"status": TurnStatus.CANCELLED},
        {"status": TurnStatus.FAILED, "code": "module_failed", "error": "it broke"},
    ]

    ended = await asyncio.gather(*(db.write(end_queued, session_id, turn.turn_id, within=HERE, **way) for way in ways))

    assert sorted(result is None for result in ended) == [False, True]
    (row,) = await db.read(all_messages, session_id, within=HERE)
    assert (row.content, row.interrupted) == ("no", True)
    assert len(await log(db, session_id)) == 3
    assert await begin(db, session_id, position=1) is None


async def test_steering_is_for_the_turn_that_runs_and_for_no_other(db: Database, session_id: str) -> None:
    turn_id = await running(db, session_id)
    pieces = [SteeringMessage(str(uuid.uuid4()), session_id, HERE, turn_id, text, None) for text in ("a", "b", "c")]
    for piece in pieces:
        await db.write(steer, piece, limit=10)

    assert await db.read(pending_of_turn, turn_id) == pieces
    assert await db.write(mark_used, pieces[1].message_id) is True
    assert await db.write(mark_used, pieces[1].message_id) is False
    assert await db.write(queue_left_over, session_id, within=HERE) == []
    await db.write(stop_turn, session_id, turn_id, within=HERE, said="")
    with pytest.raises(NothingToDo):
        await db.write(steer, SteeringMessage(str(uuid.uuid4()), session_id, HERE, turn_id, "late", None), limit=10)

    behind = message("behind")
    await db.write(enqueue, session_id, behind, within=HERE, limits=MANY)
    assert (await db.read(work_to_do, limit=10)).left_over == [(session_id, HERE)]
    stored = await db.write(queue_left_over, session_id, within=HERE)
    assert [event.type for event in stored] == ["turn.queued", "turn.queued"]
    assert await db.write(queue_left_over, session_id, within=HERE) == []
    order = []
    for position in (1, 2, 3):
        begun = await begin(db, session_id, position=position)
        order.append(begun.turn.content)
        await db.write(stop_turn, session_id, begun.turn.turn_id, within=HERE, said="")
    assert order == ["a", "c", "behind"]
    assert (await db.read(get_session, session_id, within=HERE)).session.message_count == 5
    await log(db, session_id)


async def test_cancelling_all_that_waits_takes_what_was_left_over_too(db: Database, session_id: str) -> None:
    turn_id = await running(db, session_id)
    await db.write(steer, SteeringMessage(str(uuid.uuid4()), session_id, HERE, turn_id, "left", None), limit=10)
    await queued(db, session_id, "queued")
    await db.write(stop_turn, session_id, turn_id, within=HERE, said="")

    ended, stored = await db.write(cancel_queued, session_id, within=HERE)

    assert len(ended) == 2
    assert [event.type for event in stored] == ["turn.queued", "turn.cancelled", "turn.cancelled"]
    rows = await db.read(all_messages, session_id, within=HERE)
    assert [(row.content, row.interrupted) for row in rows] == [("go", False), ("left", True), ("queued", True)]


async def test_work_is_found_where_a_turn_waits_and_none_is_open_the_oldest_first(db: Database) -> None:
    first, second, busy = [await new_session(db) for _ in range(3)]
    await running(db, busy)
    for place in (busy, second, first, second):
        await queued(db, place, "x")

    found = await db.read(work_to_do, limit=10)

    assert found.to_serve == [(second, HERE), (first, HERE)]
    assert (found.left_over, found.waiting) == ([], 4)


async def test_a_turn_is_ended_from_outside_with_what_it_had_said_and_its_writer_is_fenced(
    db: Database, session_id: str
) -> None:
    turn_id = await running(db, session_id)
    texts = [("message.delta", 0, "Hello "), ("message.delta", 6, "there")]
    piece = [
        StoredDelta(turn_id, number, 1, 0, offset, 3, kind, text, utc_now())  # pyright: ignore[reportArgumentType]
        for number, (kind, offset, text) in enumerate(texts)
    ]
    batch = [TurnPieces(HERE, session_id, turn_id, 1, piece, lambda pieces: pieces)]
    await db.write(append_deltas, batch)
    assert await db.read(_deltas_left) == 2
    assert await db.write(wish_to_stop, session_id, turn_id, within=HERE) is True

    stored = await db.write(stop_turn, session_id, turn_id, within=HERE, said="stopped")

    assert [event.type for event in stored] == ["message.completed", "turn.cancelled"]
    turn = await db.read(get_turn, turn_id, session_id=session_id, within=HERE)
    assert (turn.status, turn.stop_reason, turn.response) == ("cancelled", "user_cancel", "Hello there")
    kept = (await db.read(all_messages, session_id, within=HERE))[-1]
    assert (kept.role, kept.interrupted, kept.content) == ("assistant", True, [{"type": "text", "text": "Hello there"}])
    record = await db.read(get_session, session_id, within=HERE)
    assert (record.epoch, record.session.activity) == (2, "idle")
    assert await db.read(_deltas_left) == 0
    assert await db.write(stop_turn, session_id, turn_id, within=HERE, said="") is None
    assert await db.write(wish_to_stop, session_id, turn_id, within=HERE) is False


def _deltas_left(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(event_deltas)).scalar_one()


async def test_a_key_is_kept_once_and_with_it_only_one_of_two_transactions_is(db: Database, session_id: str) -> None:
    key = RequestKey(HERE, "POST /x", "k", "hash")

    results = await asyncio.gather(
        *(
            db.write(enqueue, session_id, message(str(number)), within=HERE, limits=MANY, key=key)
            for number in range(8)
        ),
        return_exceptions=True,
    )

    made = [result for result in results if not isinstance(result, BaseException)]
    assert len(made) == 1
    assert all(isinstance(result, KeyTaken) for result in results if isinstance(result, BaseException))
    kept = await db.read(kept_answer, key)
    assert (kept.request_hash, kept.resource_id) == ("hash", made[0][0].turn_id)
    assert (await db.read(list_turns, session_id, PageRequest(), within=HERE)).total == 1
    assert await db.read(kept_answer, RequestKey("other", "POST /x", "k", "hash")) is None


async def test_without_a_key_nothing_is_kept(db: Database) -> None:
    await db.write(keep_key, None, "x")
    await db.write(keep_key, None, "x")
