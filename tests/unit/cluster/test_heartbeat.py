"""The sign of life, and what a node does when it cannot give it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url

from amplifier_app_api.cluster import heartbeat as module
from amplifier_app_api.cluster.heartbeat import Heartbeat
from amplifier_app_api.cluster.node import NodeWatch, this_process
from amplifier_app_api.cluster.supervisor import Supervisor
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.nodes import NodeIdentity, SeenNode, forget, register, seen_nodes
from amplifier_app_api.storage.ownership import Survey

EVERY = timedelta(milliseconds=30)
DEAD_AFTER = timedelta(milliseconds=300)


async def until(seen: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what a thread does: it gives no signal to a test."""
    async with asyncio.timeout(10):
        while not await seen():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    async with Database(postgres_url) as database:
        yield database


def heart(db: Database, node: NodeIdentity) -> Heartbeat:
    return Heartbeat(db.url, node, every=EVERY, dead_after=DEAD_AFTER)


async def test_a_node_beats_until_it_stops_and_not_after(db: Database) -> None:
    me = this_process()
    await db.write(register, me)
    beating = heart(db, me)
    beating.start()
    await db.write(forget, [me.node_id])

    async def is_back() -> bool:
        return [seen.identity for seen in await db.read(seen_nodes)] == [me]

    await until(is_back)
    assert beating.away() == 0.0
    await beating.stop()

    await db.write(forget, [me.node_id])
    assert await db.read(seen_nodes) == []


async def test_a_node_whose_main_loop_says_nothing_falls_silent(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    await db.write(register, me)
    monkeypatch.setattr(module, "STALLED_AFTER_SECONDS", 0.0)
    beating = heart(db, me)
    beating.start()

    async def is_silent() -> bool:
        (seen,) = await db.read(seen_nodes)
        return seen.silent_ms > 300

    await until(is_silent)
    assert beating.steady() == 0.0
    assert beating.away() == 0.0  # it did not try
    await beating.stop()


async def test_a_node_that_cannot_reach_the_database_knows_it() -> None:
    url = make_url("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    beating = Heartbeat(url, this_process(), every=EVERY, dead_after=DEAD_AFTER)
    beating.start()

    async def is_away() -> bool:
        return beating.away() > DEAD_AFTER.total_seconds()

    await until(is_away)
    assert beating.steady() == 0.0
    await beating.stop()


class Silence:
    """A heartbeat whose database comes and goes as a test says."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.ticks = 0

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def tick(self) -> None:
        self.ticks += 1

    def away(self) -> float:
        return self.seconds


class Turns:
    """What a node looks after, counted."""

    def __init__(self) -> None:
        self.looks = 0
        self.let_go = 0
        self.gone: list[SeenNode] = []

    async def look(self, lives: Callable[[SeenNode], bool]) -> Survey:
        self.looks += 1
        return Survey([], self.gone)

    def let_go_of_all(self) -> None:
        self.let_go += 1


async def test_turns_are_let_go_of_once_for_every_time_the_database_is_away(tmp_path: Path) -> None:
    me, silence, turns = this_process(), Silence(), Turns()
    watch = NodeWatch(me, alone=False, dead_after=DEAD_AFTER)
    async with Database(tmp_path / "app.db") as db:
        supervisor = Supervisor(db, watch, turns, every=EVERY, dead_after=DEAD_AFTER, heartbeat=silence)
        await supervisor.start()
        assert [seen.identity for seen in await db.read(seen_nodes)] == [me]
        for outage in (1, 2):
            silence.seconds = 0.28
            await until(lambda: _reached(silence, 3))
            assert turns.let_go == outage
            silence.seconds = 0.0
            await until(lambda: _reached(silence, 3))
        await supervisor.stop()
        await supervisor.leave()

        assert await db.read(seen_nodes) == []
    assert turns.looks > 1


async def _reached(silence: Silence, more: int) -> bool:
    before = silence.ticks
    while silence.ticks < before + more:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return True


async def test_nodes_that_have_ended_are_forgotten(tmp_path: Path) -> None:
    me, turns = this_process(), Turns()
    old = NodeIdentity("old", "boot", 1, "start")
    async with Database(tmp_path / "app.db") as db:
        await db.write(register, old)
        turns.gone = [SeenNode(old, 0)]
        watch = NodeWatch(me, alone=True, dead_after=DEAD_AFTER)
        supervisor = Supervisor(db, watch, turns, every=EVERY, dead_after=DEAD_AFTER)
        await supervisor.start()
        await supervisor.stop()

        assert [seen.identity for seen in await db.read(seen_nodes)] == [me]
