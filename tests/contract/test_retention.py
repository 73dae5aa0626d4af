"""Copies, counts and pruning on both engines."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from amplifier_app_api.models.event import Event, Notice
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.runtime.housekeeping import Housekeeping
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import insert_config
from amplifier_app_api.storage.events import events_after, insert_events
from amplifier_app_api.storage.forking import copy_session
from amplifier_app_api.storage.messages import SEALED, NewMessage, insert_messages, kernel_transcript
from amplifier_app_api.storage.retention import prune_session, rows_of_session
from amplifier_app_api.storage.sessions import SessionRecord, advance, get_session, insert_session, pruned_seq_of
from amplifier_app_api.storage.tables import idempotency_keys, messages
from amplifier_app_api.storage.turns import insert_turn

HERE = "default"
OLD = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


def record_of(session_id: str, config_id: str) -> SessionRecord:
    now = utc_now()
    session = Session(
        session_id=session_id,
        config_id=config_id,
        revision=1,
        status=SessionStatus.ACTIVE,
        created_at=now,
        updated_at=now,
    )
    return SessionRecord(
        session=session, tenant_id=HERE, variables=None, working_dir=None, allow_missing=False, epoch=1
    )


@pytest.fixture
async def record(db: Database) -> SessionRecord:
    config = await db.write(
        insert_config,
        str(uuid.uuid4()),
        name="c",
        yaml_content="bundle: {name: c}\n",
        description=None,
        tags={},
        by="t",
        within=HERE,
    )
    record = record_of(str(uuid.uuid4()), config.config_id)
    await db.write(insert_session, record, session=record.session)
    return record


def log(conn: Connection, session_id: str, *moments: datetime, turn_id: str | None = None) -> None:
    for moment in moments:
        counters = advance(conn, session_id, epoch=1, events=1)
        assert counters is not None
        news: list[Event] = [Notice(level="info", text="é", source="t")]
        insert_events(
            conn, news, session_id=session_id, turn_id=turn_id, first_seq=counters.last_seq, at=moment, within=HERE
        )


def say(conn: Connection, session_id: str, *kernels: dict[str, str]) -> None:
    rows = [
        NewMessage(
            message_id=str(uuid.uuid4()),
            turn_id="t",
            role="assistant",
            content="é" * 10,
            created_at=utc_now(),
            kernel=kernel,
        )
        for kernel in kernels
    ]
    insert_messages(conn, rows, session_id=session_id, first_position=1, within=HERE)


async def test_a_copy_has_the_same_rows_under_new_ids_and_sealed_ones_sealed_anew(
    db: Database, record: SessionRecord
) -> None:
    source = record.session.session_id
    kernels = [{"role": "assistant", "content": "a"}, {SEALED: "old"}, {"role": "assistant", "content": "c"}]
    await db.write(say, source, *kernels)
    copy = record_of(str(uuid.uuid4()), record.session.config_id)

    _, stored = await db.write(
        copy_session, copy, source, until=2, reseal=lambda text: f"{text}, sealed anew", now=utc_now()
    )

    def ids(conn: Connection) -> list[str]:
        return list(conn.execute(select(messages.c.message_id)).scalars())

    assert [event.type for event in stored] == ["session.created"]
    assert await db.read(kernel_transcript, copy.session.session_id, within=HERE) == (
        2,
        [kernels[0], {SEALED: "old, sealed anew"}],
    )
    assert await db.read(kernel_transcript, source, within=HERE) == (3, kernels)
    found = await db.read(ids)
    assert len(set(found)) == 5
    assert {str(uuid.UUID(identity, version=4)) for identity in found} == set(found)


async def test_bytes_are_counted_and_not_characters(db: Database, record: SessionRecord) -> None:
    await db.write(say, record.session.session_id, {"role": "assistant", "content": "é"})

    rows = await db.read(rows_of_session, record.session.session_id, within=HERE)

    content, metadata, kernel = 22, 2, len('{"role":"assistant","content":"é"}'.encode())
    assert (rows["messages"].rows, rows["messages"].bytes) == (1, content + metadata + kernel)
    assert rows["events"].bytes == 0
    assert (await db.read(rows_of_session, record.session.session_id, within="other"))["messages"].rows == 0


async def test_a_log_is_pruned_from_its_beginning_up_to_a_moment(db: Database, record: SessionRecord) -> None:
    session_id = record.session.session_id
    await db.write(log, session_id, OLD, OLD + timedelta(days=1), OLD + timedelta(days=2))

    pruned = await db.write(prune_session, session_id, within=HERE, before=OLD + timedelta(days=2))

    assert pruned is not None
    assert (pruned.events, pruned.pruned_seq) == (2, 2)
    assert [event.seq for event in await db.read(events_after, session_id, 0, limit=10, within=HERE)] == [3]
    assert await db.read(pruned_seq_of, session_id, within=HERE) == 2
    await db.write(log, session_id, utc_now())
    assert [event.seq for event in await db.read(events_after, session_id, 0, limit=10, within=HERE)] == [3, 4]


async def test_events_of_a_turn_that_has_not_ended_stay(db: Database, record: SessionRecord) -> None:
    session_id = record.session.session_id
    await db.write(log, session_id, OLD)
    await db.write(insert_turn, "t", session_id, number=1, message_id="m", now=utc_now(), epoch=1, within=HERE)
    await db.write(log, session_id, OLD, OLD, turn_id="t")

    pruned = await db.write(prune_session, session_id, within=HERE, up_to=100)

    assert pruned is not None
    assert (pruned.events, pruned.pruned_seq) == (1, 1)


async def test_another_tenant_prunes_nothing(db: Database, record: SessionRecord) -> None:
    await db.write(log, record.session.session_id, OLD)

    assert await db.write(prune_session, record.session.session_id, within="other", up_to=1) is None
    assert len(await db.read(events_after, record.session.session_id, 0, limit=10, within=HERE)) == 1


def remember(conn: Connection, moment: datetime, count: int) -> None:
    rows = [
        {
            "tenant_id": HERE,
            "route": "POST /configs",
            "key": f"{moment:%s}-{number}",
            "request_hash": "h",
            "resource_id": "r",
            "created_at": moment,
        }
        for number in range(count)
    ]
    conn.execute(insert(idempotency_keys), rows)


async def test_housekeeping_forgets_what_is_old_and_nothing_else(db: Database, record: SessionRecord) -> None:
    session_id, now = record.session.session_id, utc_now()
    await db.write(log, session_id, OLD, OLD, now)
    await db.write(insert_turn, "t", session_id, number=1, message_id="m", now=now, epoch=1, within=HERE)
    await db.write(remember, OLD, 150)
    await db.write(remember, now, 2)

    await Housekeeping(db, events=timedelta(days=7), keys=timedelta(hours=24)).tidy()

    def keys(conn: Connection) -> int:
        return len(conn.execute(select(idempotency_keys.c.key)).all())

    assert await db.read(keys) == 2
    assert [event.seq for event in await db.read(events_after, session_id, 0, limit=10, within=HERE)] == [3]


async def test_housekeeping_ends_where_running_turns_need_what_is_old(db: Database, record: SessionRecord) -> None:
    session_id = record.session.session_id
    await db.write(insert_turn, "t", session_id, number=1, message_id="m", now=OLD, epoch=1, within=HERE)
    await db.write(log, session_id, OLD, OLD, turn_id="t")

    await Housekeeping(db, events=timedelta(days=7), keys=timedelta(hours=24)).tidy()

    assert len(await db.read(events_after, session_id, 0, limit=10, within=HERE)) == 2


async def test_without_a_retention_the_log_is_kept_for_ever(db: Database, record: SessionRecord) -> None:
    await db.write(log, record.session.session_id, OLD)

    await Housekeeping(db, events=None, keys=timedelta(hours=24)).tidy()

    assert len(await db.read(events_after, record.session.session_id, 0, limit=10, within=HERE)) == 1
    assert await db.read(get_session, record.session.session_id, within=HERE) is not None
