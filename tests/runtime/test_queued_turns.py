"""Messages that come while a turn runs: they wait for their place, stop the turn, or are refused."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed, SessionNotFound, TurnFailure
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.turn import TurnStatus
from amplifier_app_api.runtime.pool import ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.sending import ATTEMPTS
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.turns import next_queued
from runtime_bundles import bundle_text, from_folder

SLOW = "[[slow: tokens=5000 delay_ms=5]]"
CROWD = 50


async def until(follower: Any, kind: str) -> list[Any]:
    """Read a stream until an item of this type has come."""
    seen: list[Any] = []
    async with asyncio.timeout(20):
        while not any(item.type == kind for item in seen):
            batch = await follower.next_batch(5)
            assert batch != [], f"the stream ended before {kind} came"
            seen += batch or []
    return seen


async def running(chat: Any) -> str:
    """Begin a turn that goes on until it is stopped; its id."""
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    seen = await until(follower, "message.delta")
    await follower.close()
    return seen[-1].turn_id


async def queued(chat: Any, text: str) -> str:
    """Queue a message; the id of its turn."""
    turn = await chat.sessions.create_turn(chat.session_id, text, when_busy="queue")
    assert turn.status is TurnStatus.QUEUED
    return turn.turn_id


async def ended(chat: Any, turn_id: str) -> Any:
    """The turn, once it has ended."""
    async with asyncio.timeout(20):
        await chat.sessions._runtime.outcome_of(chat.session_id, turn_id, within="default")
    return await chat.sessions.get_turn(chat.session_id, turn_id)


async def numbers_are_gapless(chat: Any) -> bool:
    events = await chat.events()
    return [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_queued_messages_are_answered_in_the_order_they_came(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: one]]"]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    first = asyncio.create_task(chat.say("first"))
    await asyncio.wait_for(gate.entered.wait(), 10)
    second, third = await queued(chat, "second"), await queued(chat, "third")
    gate.release.set()

    assert await first == "one"
    assert [(await ended(chat, turn)).status for turn in (second, third)] == ["completed", "completed"]
    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["first", "second", "third"]
    page = await chat.sessions.page_turns(chat.session_id, PageRequest())
    assert [(turn.number, turn.message) for turn in page.items] == [(3, None), (2, None), (1, None)]
    assert await numbers_are_gapless(chat)


async def test_a_queued_turn_is_told_when_it_waits_and_when_it_begins(open_chat: Any) -> None:
    chat = await open_chat()
    await running(chat)
    waiting = await queued(chat, "after you")
    turn = await chat.sessions.get_turn(chat.session_id, waiting)
    await chat.sessions.cancel(chat.session_id)
    await ended(chat, waiting)

    assert (turn.status, turn.message, turn.number, turn.started_at) == ("queued", "after you", 2, None)
    told = [event for event in await chat.events() if event["turn_id"] == waiting]
    assert [event["type"] for event in told] == [
        "turn.queued",
        "turn.started",
        "message.user",
        "message.completed",
        "usage.updated",
        "turn.completed",
    ]
    assert {event["message_id"] for event in told[:3]} == {turn.message_id}


async def test_whoever_waits_for_a_queued_message_gets_its_answer(open_chat: Any) -> None:
    chat = await open_chat()
    await running(chat)
    listener = await chat.sessions.follow(chat.session_id, after=0)
    waiting = asyncio.create_task(chat.sessions.send_message(chat.session_id, "hello", when_busy="queue"))
    await until(listener, "turn.queued")
    await listener.close()
    await chat.sessions.cancel(chat.session_id)

    answer = await asyncio.wait_for(waiting, 20)

    assert (answer["status"], answer["response"]) == ("completed", "hello")
    assert answer["metadata"]["revision"] == 1


async def test_a_queued_message_is_streamed_from_the_moment_it_waits(open_chat: Any) -> None:
    chat = await open_chat()
    await running(chat)
    follower = await chat.sessions.open_stream(chat.session_id, "hello", when_busy="queue")
    seen = await until(follower, "turn.queued")
    await chat.sessions.cancel(chat.session_id)
    seen += await until(follower, "done")
    await follower.close()

    assert [item.type for item in seen] == [
        "connected",
        "turn.queued",
        "turn.started",
        "message.user",
        "message.delta",
        "message.completed",
        "usage.updated",
        "turn.completed",
        "response",
        "done",
    ]
    assert len({item.turn_id for item in seen if item.turn_id is not None}) == 1


async def test_a_message_to_an_idle_session_runs_at_once_whatever_is_to_be_done_when_it_is_busy(
    open_chat: Any,
) -> None:
    chat = await open_chat()

    for policy in ("reject", "queue", "interrupt", "steer"):
        answer = await chat.sessions.send_message(chat.session_id, policy, when_busy=policy)
        assert (answer["status"], answer["response"]) == ("completed", policy)

    assert [event["type"] for event in await chat.events()].count("turn.queued") == 0


async def test_an_interrupting_message_stops_the_turn_keeps_its_text_and_is_answered_before_those_that_wait(
    open_chat: Any,
) -> None:
    chat = await open_chat()
    stopped, waiting = await running(chat), await queued(chat, "patient")

    answer = await chat.sessions.send_message(chat.session_id, "now", when_busy="interrupt")

    assert (answer["status"], answer["response"]) == ("completed", "now")
    turn = await chat.sessions.get_turn(chat.session_id, stopped)
    assert (turn.status, turn.stop_reason) == ("cancelled", "user_cancel")
    assert turn.response.startswith("w0")
    assert (await ended(chat, waiting)).response == "patient"
    assert [content for role, content in await chat.transcript() if role == "user"] == [SLOW, "now", "patient"]
    assert await numbers_are_gapless(chat)


async def test_a_queued_turn_that_is_cancelled_is_seen_by_people_and_not_by_the_model(open_chat: Any) -> None:
    chat = await open_chat()
    await running(chat)
    waiting, other = await queued(chat, "forget it"), await queued(chat, "but this")

    answer = await chat.sessions.cancel_turn(chat.session_id, waiting)

    assert (answer["turn_id"], answer["status"]) == (waiting, "cancelled")
    await chat.sessions.cancel(chat.session_id)
    assert (await ended(chat, other)).response == "but this"
    rows = await chat.sessions.transcript(chat.session_id)
    dropped = next(row for row in rows if row.turn_id == waiting)
    assert (dropped.role, dropped.content, dropped.interrupted) == ("user", "forget it", True)
    assert [event["type"] for event in await chat.events() if event["turn_id"] == waiting] == [
        "turn.queued",
        "turn.cancelled",
    ]
    again = await chat.sessions.cancel_turn(chat.session_id, waiting)
    assert (again["status"], again["message"]) == ("cancelled", "Nothing to cancel")


async def test_with_nothing_running_a_cancel_takes_the_next_that_waits(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=1)
    busy, chat = await open_chat(manager=manager), await open_chat(manager=manager)
    await running(busy)
    waiting = await queued(chat, "hello")

    answer = await chat.sessions.cancel(chat.session_id)

    assert (answer["turn_id"], answer["status"]) == (waiting, "cancelled")
    assert (await chat.sessions.cancel(chat.session_id))["message"] == "Nothing to cancel"


async def test_without_room_a_message_waits_when_it_may_and_is_refused_when_not(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=1)
    busy, chat = await open_chat(manager=manager), await open_chat(manager=manager)
    await running(busy)

    with pytest.raises(TooManyTurns) as refused:
        await chat.say("hello")
    waiting = await queued(chat, "hello")
    await manager.cancel(busy.session_id)

    assert refused.value.headers == {"Retry-After": "1"}
    assert (await ended(chat, waiting)).response == "hello"


async def test_a_message_that_stopped_a_turn_is_not_refused_when_others_took_its_place(
    open_chat: Any, make_sessions: Callable[..., SessionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_sessions(max_running_turns=1)
    chat, other = await open_chat(manager=manager), await open_chat(manager=manager)
    stopped = await running(chat)
    waits = await queued(other, SLOW)
    sender = manager._runtime.sender
    interrupt = sender._interrupt

    async def interrupted_and_overtaken(*args: Any) -> None:
        await interrupt(*args)
        follower = await manager.follow(other.session_id, after=0)
        await until(follower, "message.delta")
        await follower.close()

    monkeypatch.setattr(sender, "_interrupt", interrupted_and_overtaken)
    turn = await manager.create_turn(chat.session_id, "now", when_busy="interrupt")

    assert turn.status is TurnStatus.QUEUED
    assert (await manager.get_turn(chat.session_id, stopped)).status is TurnStatus.CANCELLED
    await manager.cancel_turn(other.session_id, waits)
    assert (await ended(chat, turn.turn_id)).response == "now"


async def test_a_message_that_stopped_a_turn_is_not_refused_when_as_many_wait_as_may(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=2, max_queued_turns=1)
    chat, other = await open_chat(manager=manager), await open_chat(manager=manager)
    stopped, runs = await running(chat), await running(other)
    waits = await queued(other, "later")
    with ExitStack() as taken:
        turns = manager._runtime.turns
        turns.get(stopped).outcome.add_done_callback(lambda _: taken.enter_context(turns.starting()))
        turn = await manager.create_turn(chat.session_id, "now", when_busy="interrupt")

        assert (await manager.get_turn(chat.session_id, stopped)).status is TurnStatus.CANCELLED
        assert turn.status is TurnStatus.QUEUED
        with pytest.raises(TooManyTurns, match="wait"):
            await manager.create_turn(chat.session_id, "too many", when_busy="queue")
    await manager.cancel_turn(other.session_id, runs)
    assert (await ended(chat, turn.turn_id)).response == "now"
    assert (await ended(other, waits)).response == "later"


@pytest.fixture
def overtaken(
    make_sessions: Callable[..., SessionManager], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], SessionManager]:
    """A server that stops turns of another one; a third lets the next that waits begin before it can do anything."""

    def make() -> SessionManager:
        manager, third = make_sessions(), make_sessions()
        stop_elsewhere = manager._runtime.sender._stop_elsewhere

        async def stop_and_be_late(session_id: str, turn_id: str, tenant_id: str) -> None:
            await stop_elsewhere(session_id, turn_id, tenant_id)
            if live := third._runtime._live.get(session_id, within=tenant_id):
                await live.running.lost()
            await third._runtime.sender.serve(session_id, tenant_id)

        monkeypatch.setattr(manager._runtime.sender, "_stop_elsewhere", stop_and_be_late)
        return manager

    return make


async def test_a_message_that_stopped_a_turn_stops_the_one_too_that_another_server_began_in_its_place(
    open_chat: Any, overtaken: Callable[[], SessionManager]
) -> None:
    chat, second = await open_chat(), overtaken()
    stopped = [await running(chat), await queued(chat, SLOW)]

    turn = await second.create_turn(chat.session_id, "now", when_busy="interrupt")

    assert (await second._runtime.outcome_of(chat.session_id, turn.turn_id, within="default")).response == "now"
    assert [(await second.get_turn(chat.session_id, turn_id)).status for turn_id in stopped] == ["cancelled"] * 2


async def test_a_message_that_stops_turns_and_is_always_late_waits_before_all_others(
    open_chat: Any, overtaken: Callable[[], SessionManager]
) -> None:
    chat, second = await open_chat(), overtaken()
    turns = [await running(chat), *[await queued(chat, SLOW) for _ in range(ATTEMPTS + 1)]]

    turn = await second.create_turn(chat.session_id, "now", when_busy="interrupt")

    assert turn.status is TurnStatus.QUEUED
    statuses = [(await second.get_turn(chat.session_id, turn_id)).status for turn_id in turns]
    assert statuses == ["cancelled"] * ATTEMPTS + ["running", "queued"]
    assert (await chat.sessions._db.read(next_queued, chat.session_id)).turn_id == turn.turn_id


async def test_of_many_messages_to_sessions_that_are_not_open_no_more_begin_than_may(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chats = [await open_chat() for _ in range(4)]
    manager = make_sessions(max_running_turns=2)

    answers = await asyncio.gather(
        *(manager.create_turn(chat.session_id, SLOW) for chat in chats), return_exceptions=True
    )

    assert [type(answer).__name__ for answer in answers].count("TooManyTurns") == 2
    assert [getattr(answer, "status", None) for answer in answers].count(TurnStatus.RUNNING) == 2
    assert manager._runtime.running_count == 2


@pytest.mark.parametrize(
    "limits", [{"max_queued_turns": 2}, {"max_queued_turns": 9, "max_queued_turns_per_session": 2}]
)
async def test_more_turns_than_may_wait_are_refused_and_nothing_of_them_is_stored(
    open_chat: Any, make_sessions: Callable[..., SessionManager], limits: dict[str, int]
) -> None:
    chat = await open_chat(manager=make_sessions(**limits))
    await running(chat)
    await queued(chat, "one")
    await queued(chat, "two")

    with pytest.raises(TooManyTurns):
        await queued(chat, "three")

    session = await chat.sessions.get_session(chat.session_id)
    page = await chat.sessions.page_turns(chat.session_id, PageRequest())
    assert (session.message_count, page.total) == (3, 3)
    waiting = await chat.sessions.page_turns(chat.session_id, PageRequest(), status="queued")
    assert [turn.message for turn in waiting.items] == ["two", "one"]


async def test_a_session_with_turns_that_wait_refuses_a_message_that_would_go_before_them(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=1)
    busy, chat = await open_chat(manager=manager), await open_chat(manager=manager)
    await running(busy)
    waiting = await queued(chat, "first")
    other = make_sessions()

    with pytest.raises(SessionBusy) as refused:
        await other.send_message(chat.session_id, "second")

    assert refused.value.facts == {"turn_id": waiting}


async def test_closing_a_session_cancels_what_waits_in_it(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=1)
    busy, chat = await open_chat(manager=manager), await open_chat(manager=manager)
    await running(busy)
    listener = await manager.follow(chat.session_id, after=0)
    waiter = asyncio.create_task(manager.send_message(chat.session_id, "hello", when_busy="queue"))
    turn_id = (await until(listener, "turn.queued"))[-1].turn_id
    await listener.close()

    await manager.patch_session(chat.session_id, {"status": "completed"})

    assert (await asyncio.wait_for(waiter, 10))["status"] == "cancelled"
    assert (await manager.get_turn(chat.session_id, turn_id)).status == "cancelled"
    assert [event["type"] for event in await chat.events()][-2:] == ["turn.cancelled", "session.closed"]
    with pytest.raises(SessionClosed):
        await queued(chat, "too late")


async def test_deleting_a_session_tells_whoever_waits_for_a_turn_of_it(open_chat: Any) -> None:
    chat = await open_chat()
    await running(chat)
    listener = await chat.sessions.follow(chat.session_id, after=0)
    waiter = asyncio.create_task(chat.sessions.send_message(chat.session_id, "hello", when_busy="queue"))
    await until(listener, "turn.queued")
    await listener.close()

    assert await chat.sessions.delete_session(chat.session_id) is True

    with pytest.raises(SessionNotFound):
        await asyncio.wait_for(waiter, 10)


async def test_a_queued_turn_whose_session_cannot_be_opened_fails_with_the_reason_and_so_do_those_behind_it(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    first = make_sessions(max_running_turns=1)
    text = bundle_text(tools=[from_folder("tool-gate")])
    busy, chat = await open_chat(manager=first), await open_chat(text, manager=first)
    await running(busy)
    waiting = [await queued(chat, "one"), await queued(chat, "two")]
    later = make_sessions(source_roots=())  # a server that may not load the session's module

    later._runtime.dispatch()
    turns = []
    for turn_id in waiting:
        async with asyncio.timeout(20):
            with pytest.raises(TurnFailure) as failed:
                await later.answer_of(await later.sent_before(chat.session_id, _kept(turn_id)))
        assert failed.value.code == "config_not_runnable"
        turns.append(await later.get_turn(chat.session_id, turn_id))

    assert [(turn.status, turn.code) for turn in turns] == [("failed", "config_not_runnable")] * 2
    assert [(row.content, row.interrupted) for row in await later.transcript(chat.session_id)] == [
        ("one", True),
        ("two", True),
    ]
    assert (await later.get_session(chat.session_id)).status == "failed"


def _kept(turn_id: str) -> Any:
    from amplifier_app_api.storage.idempotency import KeptAnswer

    return KeptAnswer("", turn_id, {"config_id": "", "revision": 1})


async def test_turns_that_wait_are_kept_when_the_process_ends_and_begun_by_the_next(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    first = make_sessions(max_running_turns=1)
    busy, chat = await open_chat(manager=first), await open_chat(manager=first)
    await running(busy)
    listener = await first.follow(chat.session_id, after=0)
    waiter = asyncio.create_task(first.send_message(chat.session_id, "hello", when_busy="queue"))
    turn_id = (await until(listener, "turn.queued"))[-1].turn_id
    await listener.close()

    await first._runtime.close()

    with pytest.raises(ShuttingDown) as told:
        await asyncio.wait_for(waiter, 10)
    assert told.value.facts == {"turn_id": turn_id}
    second = make_sessions()
    second._runtime.dispatch()
    async with asyncio.timeout(20):
        outcome = await second._runtime.outcome_of(chat.session_id, turn_id, within="default")
    assert (outcome.status, outcome.response) == ("completed", "hello")


async def test_a_turn_that_ends_while_the_queue_is_looked_at_lets_the_next_one_begin(
    open_chat: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await open_chat()
    turn_id = await running(chat)
    read, looked, told = db.read, asyncio.Event(), asyncio.Event()

    async def read_and_tell_later(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        found = await read(fn, *args, **kwargs)
        if fn.__name__ == "work_to_do" and not looked.is_set():
            looked.set()
            await told.wait()
        return found

    monkeypatch.setattr(db, "read", read_and_tell_later)
    waits = await queued(chat, "next")
    await asyncio.wait_for(looked.wait(), 10)  # while the first turn still ran
    await chat.sessions.cancel_turn(chat.session_id, turn_id)
    told.set()

    assert (await ended(chat, waits)).response == "next"


@pytest.mark.parametrize("policy", ["reject", "queue", "interrupt", "steer"])
async def test_a_crowd_at_one_session_loses_no_answer_and_leaves_a_valid_history(open_chat: Any, policy: str) -> None:
    chat = await open_chat()

    async def one(number: int) -> dict[str, Any] | None:
        try:
            return await chat.sessions.send_message(chat.session_id, f"m{number}", when_busy=policy)
        except SessionBusy:
            return None

    async with asyncio.timeout(120):
        answers = await asyncio.gather(*(one(number) for number in range(CROWD)))
        await _nothing_waits(chat)

    rows = await chat.sessions.transcript(chat.session_id)
    accepted = [answer for answer in answers if answer is not None]
    assert len([row for row in rows if row.role == "user"]) == len(accepted)
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))
    assert await numbers_are_gapless(chat)
    turns = await chat.sessions.page_turns(chat.session_id, PageRequest(limit=200))
    assert {turn.status for turn in turns.items} <= {"completed", "cancelled"}
    for turn in turns.items:
        said = [row for row in rows if row.turn_id == turn.turn_id and row.role == "assistant"]
        if turn.status == "completed":
            assert said and not any(row.interrupted for row in said)
    if policy == "queue":
        assert [answer["response"] for answer in accepted] == [f"m{number}" for number in range(CROWD)]
        assert [row.role for row in rows] == ["user", "assistant"] * CROWD


async def _nothing_waits(chat: Any) -> None:
    """Returns when every message has become part of the transcript."""
    while True:
        session = await chat.sessions.get_session(chat.session_id)
        for turn in (await chat.sessions.page_turns(chat.session_id, PageRequest(limit=200))).items:
            await chat.sessions._runtime.outcome_of(chat.session_id, turn.turn_id, within="default")
        rows = await chat.sessions.transcript(chat.session_id)
        if len([row for row in rows if row.role == "user"]) == session.message_count:
            return
