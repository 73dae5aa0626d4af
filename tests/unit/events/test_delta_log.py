"""What makes rows of running answers: batched, bounded, never twice, and quiet when there is nothing to say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.tail import Tail
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.deltas import deltas_of
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.tables import sessions
from log_stage import TENANT, TurnStage, new_session


class LostAnswers(Database):
    """A database that commits and whose answer does not come, as often as it is told."""

    lose = 0

    async def write(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        result = await super().write(fn, *args, **kwargs)
        if self.lose:
            self.lose -= 1
            raise DatabaseUnavailable("the answer was lost")
        return result


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[LostAnswers]:
    async with LostAnswers(tmp_path / "app.db") as database:
        yield database


@pytest.fixture
async def turn(db: LostAnswers) -> AsyncIterator[TurnStage]:
    stage = await TurnStage.begin(db, await new_session(db))
    yield stage
    await stage.close()


async def texts(turn: TurnStage) -> list[str]:
    return [row.text for row in await turn.db.read(deltas_of, turn.key.session_id, within=TENANT)]


def tail_of(turn: TurnStage) -> Tail:
    tail = turn.hub.tail(turn.key.session_id)
    assert tail is not None
    return tail


async def test_a_batch_whose_answer_was_lost_is_not_there_twice(db: LostAnswers, turn: TurnStage) -> None:
    turn.say("one ")
    db.lose = 1
    await turn.delta_log.flush()
    turn.say("two ")
    await turn.delta_log.flush()

    assert await texts(turn) == ["one ", "two "]
    assert not tail_of(turn).unwritten


async def test_a_request_that_is_settled_while_its_batch_is_in_doubt_leaves_nothing(
    db: LostAnswers, turn: TurnStage
) -> None:
    turn.say("one ")
    db.lose = 1
    await turn.delta_log.flush()
    turn.say("another", request=2)
    await turn.complete(1)
    await turn.delta_log.flush()

    assert await texts(turn) == ["another"]


async def test_the_task_that_writes_ends_when_there_is_nothing_left(db: LostAnswers, turn: TurnStage) -> None:
    log = DeltaLog(db, timedelta(milliseconds=1))
    turn.say("text")
    before = asyncio.all_tasks()
    log.add(tail_of(turn))
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "write deltas" and task not in before]

    async with asyncio.timeout(5):
        await task

    assert await texts(turn) == ["text"]
    await log.close()


async def test_what_is_left_when_the_process_stops_is_written(turn: TurnStage) -> None:
    turn.say("left for whoever goes on")

    await turn.delta_log.close()

    assert await texts(turn) == ["left for whoever goes on"]


async def test_a_turn_whose_session_has_moved_is_not_tried_again(db: LostAnswers, turn: TurnStage) -> None:
    await db.write(lambda conn: conn.execute(sessions.update().values(epoch=2)))
    turn.say("late")

    await turn.delta_log.flush()

    assert await texts(turn) == []
    assert not tail_of(turn).unwritten


async def test_a_new_turn_takes_the_place_of_one_that_was_let_go_of(db: LostAnswers, turn: TurnStage) -> None:
    turn.say("old")
    old = tail_of(turn)

    again = TurnStage(db, turn.key, turn.hub, await turn.somebody_queues(tell=False))

    assert (old.closed, old.pieces) == (True, [])
    assert tail_of(again) is not old


@pytest.mark.postgres
async def test_a_session_that_somebody_writes_right_now_waits_for_the_next_batch(postgres_url: str) -> None:
    async with Database(postgres_url) as db:
        turn = await TurnStage.begin(db, await new_session(db))
        turn.say("text")
        held, let_go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(conn: Connection) -> None:
            conn.execute(update(sessions).values(title="held"))
            loop.call_soon(held.set)
            while not let_go.is_set():  # each statement lets the loop run
                conn.execute(select(sessions.c.title))

        holding = asyncio.create_task(db.write(hold))
        await held.wait()
        await turn.delta_log.flush()
        assert await texts(turn) == []
        assert tail_of(turn).unwritten

        let_go.set()
        await holding
        await turn.delta_log.flush()
        assert await texts(turn) == ["text"]
        await turn.close()


async def test_without_a_delta_log_text_is_kept_in_memory_alone() -> None:
    tail = EventHub().open_tail(tenant_id=TENANT, session_id="s", turn_id="t", epoch=1, seq=1, writer=Silent())
    tail.append("message.delta", 1, 0, 0, "ab")
    tail.append("message.delta", 1, 0, 2, "c")

    assert [piece.text for piece in tail.pieces] == ["abc"]
    assert not tail.unwritten


class Silent:
    """A writer that has nothing to tell."""

    def saw(self, events: Any) -> None: ...

    def look(self) -> None: ...
