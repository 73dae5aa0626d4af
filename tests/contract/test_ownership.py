"""Who owns a session, on every engine: claiming, releasing, taking over, and what a node sees of the others."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from amplifier_app_api.core import ConfigManager
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.accept import Accepted, Incoming, SessionBusy, accept
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.ending import EndFromRows, TurnMoved, end_open_turn
from amplifier_app_api.storage.lifecycle import create_session
from amplifier_app_api.storage.nodes import NodeIdentity, SeenNode, beat, database_ms, forget, register, seen_nodes
from amplifier_app_api.storage.ownership import OpenTurn, claim, epochs_of, release_all, survey, take_over
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from seals import PLAIN

HERE = "default"
LOST = EndFromRows(TurnStatus.INTERRUPTED, StopReason.NODE_LOST, "Lost.")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


@pytest.fixture
async def session_id(db: Database) -> str:
    config = await ConfigManager(db).create_config("test", "bundle:\n  name: test\n")
    now = utc_now()
    session = Session(
        session_id=str(uuid.uuid4()),
        config_id=config.config_id,
        revision=1,
        status=SessionStatus.ACTIVE,
        created_at=now,
        updated_at=now,
    )
    record = SessionRecord(session, HERE, None, None, False, 0)
    await db.write(create_session, record, session=session, notices=[])
    return session.session_id


async def owner_of(db: Database, session_id: str) -> tuple[str | None, int]:
    record = await db.read(get_session, session_id, within=HERE)
    assert record is not None
    return record.owner, record.epoch


async def accepted(db: Database, session_id: str, node_id: str, *, position: int = 0) -> Accepted:
    turn, _ = await accept(
        db,
        Incoming("hi"),
        tenant_id=HERE,
        session_id=session_id,
        node_id=node_id,
        expected_position=position,
        notices=[],
        seals=PLAIN,
    )
    return turn


async def found(db: Database, node_id: str) -> OpenTurn:
    seen = await db.read(survey, node_id, lives=lambda node: False)
    (turn,) = seen.turns
    return turn


def node(**changes: object) -> NodeIdentity:
    return replace(NodeIdentity(str(uuid.uuid4()), "boot", 17, "start"), **changes)


async def test_a_claim_counts_only_when_the_session_changes_hands(db: Database, session_id: str) -> None:
    first = await db.write(claim, session_id, "a", within=HERE)
    again = await db.write(claim, session_id, "a", within=HERE)
    other = await db.write(claim, session_id, "b", within=HERE)

    assert first is not None and again is not None and other is not None
    assert (first.epoch, again.epoch, other.epoch) == (0, 0, 1)
    assert await owner_of(db, session_id) == ("b", 1)
    assert await db.write(claim, session_id, "b", within="other tenant") is None


async def test_a_session_in_which_another_node_runs_a_turn_cannot_be_claimed(db: Database, session_id: str) -> None:
    await accepted(db, session_id, "a")

    assert await db.write(claim, session_id, "b", within=HERE) is None
    mine = await db.write(claim, session_id, "a", within=HERE)
    assert mine is not None and mine.epoch == 0


async def test_accepting_a_message_claims_its_session(db: Database, session_id: str) -> None:
    await accepted(db, session_id, "a")
    assert await owner_of(db, session_id) == ("a", 0)

    with pytest.raises(SessionBusy):
        await accepted(db, session_id, "b", position=1)
    assert await owner_of(db, session_id) == ("a", 0)

    turn = await found(db, "b")
    await db.write(end_open_turn, turn.turn_id, session_id, LOST, epoch=turn.epoch, within=HERE)
    later = await accepted(db, session_id, "b", position=1)
    assert later.epoch == 2
    assert await owner_of(db, session_id) == ("b", 2)


async def test_a_turn_that_was_found_is_taken_once(db: Database, session_id: str) -> None:
    await accepted(db, session_id, "a")
    turn = await found(db, "b")

    taken = await db.write(take_over, turn, "b")
    late = await db.write(take_over, turn, "c")

    assert taken is not None and late is None
    assert (taken.epoch, taken.attempt) == (1, 2)
    assert await owner_of(db, session_id) == ("b", 1)
    again = await db.write(take_over, await found(db, "b"), "b", counted=False)
    assert again is not None and (again.epoch, again.attempt) == (2, 2)


async def test_a_turn_that_has_ended_is_not_taken(db: Database, session_id: str) -> None:
    await accepted(db, session_id, "a")
    turn = await found(db, "b")
    await db.write(end_open_turn, turn.turn_id, session_id, LOST, epoch=turn.epoch, within=HERE)

    assert await db.write(take_over, turn, "b") is None
    with pytest.raises(TurnMoved):
        await db.write(end_open_turn, turn.turn_id, session_id, LOST, epoch=turn.epoch + 1, within=HERE)
    assert await db.read(epochs_of, [session_id]) == {session_id: 1}


async def test_a_node_sees_its_own_turns_and_those_of_nodes_that_are_gone(db: Database, session_id: str) -> None:
    alive, gone = node(), node()
    for one in (alive, gone):
        await db.write(register, one)
    await accepted(db, session_id, gone.node_id)

    def lives(seen: SeenNode) -> bool:
        return seen.identity == alive

    seen = await db.read(survey, "me", lives=lives)
    assert ([turn.owner for turn in seen.turns], [other.identity for other in seen.gone]) == ([gone.node_id], [gone])
    assert (await db.read(survey, "me", lives=lambda other: True)).turns == []
    assert [turn.owner for turn in (await db.read(survey, gone.node_id, lives=lives)).turns] == [gone.node_id]


async def test_a_turn_whose_owner_has_no_row_or_was_released_is_seen_by_all(db: Database, session_id: str) -> None:
    await accepted(db, session_id, "no row")
    assert (await found(db, "me")).owner == "no row"

    await db.write(release_all, "no row")

    assert (await found(db, "me")).owner is None
    taken = await db.write(take_over, await found(db, "me"), "me")
    assert taken is not None and taken.epoch == 1


async def test_a_beat_is_a_moment_of_the_database_and_brings_a_lost_row_back(db: Database) -> None:
    me = node()
    await db.write(register, me)
    before = await db.read(database_ms)
    await db.write(forget, [me.node_id])
    assert await db.read(seen_nodes) == []

    await db.write(beat, me)
    await db.write(beat, me)

    (seen,) = await db.read(seen_nodes)
    assert seen.identity == me
    assert 0 <= seen.silent_ms <= await db.read(database_ms) - before
