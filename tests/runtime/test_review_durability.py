"""An accepted message ends in a recorded turn, whoever leaves and whatever breaks in the middle."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.session_manager import SessionNotFound, TurnFailure
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime import recorder as recorder_file
from amplifier_app_api.runtime import turn as turn_file
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.opening import ModuleFailed
from amplifier_app_api.runtime.pool import ShuttingDown, TooManyTurns
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.stopping import stop_turn
from amplifier_app_api.storage.turns import open_turn_of
from runtime_bundles import bundle_text, from_folder
from runtime_faults import Faults, provider, tool, written_module

MakeSessions = Callable[..., SessionManager]
SLOW = "[[slow: 50]] " + "word " * 200
GATE = {"tools": [from_folder("tool-gate")], "replies": ["[[tool: gate {}]] [[then: done]]", "next"]}


@pytest.fixture
def faults(db: Database, monkeypatch: pytest.MonkeyPatch) -> Faults:
    patient(monkeypatch, 0.01, 0.01, 0.01)
    monkeypatch.setattr(turn_file, "END_RETRY_LATER_SECONDS", 0.01)
    return Faults(db, monkeypatch)


def patient(monkeypatch: pytest.MonkeyPatch, *pauses: float) -> None:
    """After how many seconds, each, a turn tries again while the database is away."""
    for file in (recorder_file, turn_file):
        monkeypatch.setattr(file, "OUTAGE_PAUSES", pauses)


async def types_until(chat: Any, last: str) -> list[str]:
    follower = await chat.sessions.follow(chat.session_id, after=0)
    types: list[str] = []
    async with asyncio.timeout(10):
        while last not in types:
            types += [item.type for item in await follower.next_batch(0.2) or ()]
    await follower.close()
    return types


async def entered(chat: Any) -> asyncio.Task[Any]:
    import amplifier_module_tool_gate as gate

    gate.reset()
    caller = asyncio.create_task(chat.sessions.send_message(chat.session_id, "go"))
    await asyncio.wait_for(gate.entered.wait(), 5)
    return caller


def let_go() -> None:
    import amplifier_module_tool_gate as gate

    gate.release.set()


async def test_a_message_whose_sender_leaves_while_it_is_accepted_gets_its_answer(open_chat: Any, faults: Any) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two"]))
    faults.held = "_accept"
    sender = asyncio.create_task(chat.say("a"))
    await asyncio.wait_for(faults.reached.wait(), 5)

    sender.cancel()
    faults.held = None
    faults.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await sender

    assert "turn.completed" in await types_until(chat, "turn.completed")
    assert await chat.say("b") == "two"


async def test_a_stream_whose_reader_left_while_it_was_opened_leaves_nobody_listening(
    open_chat: Any, faults: Any, sessions: Any
) -> None:
    chat = await open_chat()
    faults.held = "_accept"
    sender = asyncio.create_task(chat.sessions.open_stream(chat.session_id, "a"))
    await asyncio.wait_for(faults.reached.wait(), 5)

    sender.cancel()
    faults.held = None
    faults.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await sender
    await types_until(chat, "turn.completed")
    await asyncio.wait_for(sessions._runtime._live.get(chat.session_id, within="default").runner, 5)

    assert sessions._runtime.hub.feed(chat.session_id) is None


async def test_a_turn_is_ended_when_the_database_is_back_although_who_cancelled_it_has_left(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(**GATE))
    caller = await entered(chat)
    faults.refused = {"_end"}
    canceller = asyncio.create_task(chat.sessions.cancel(chat.session_id))
    await asyncio.wait_for(faults.refusals.wait(), 5)
    canceller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await canceller

    faults.refused = set()

    assert (await types_until(chat, "turn.cancelled"))[-1] == "turn.cancelled"
    assert (await caller)["status"] == "cancelled"
    assert await chat.say("b") == "next"


async def test_whoever_waits_is_told_that_the_end_cannot_be_stored_and_it_is_stored_later(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two"]))
    faults.refused = {"_end"}

    with pytest.raises(TurnFailure) as failed:
        await chat.say("a")

    assert (failed.value.status, failed.value.code) == (503, "database_unavailable")
    faults.refused = set()
    assert (await types_until(chat, "turn.completed"))[-1] == "turn.completed"
    assert await chat.say("b") == "two"
    assert [content for role, content in await chat.transcript() if role == "assistant"] == ["one", "two"]


async def test_a_turn_waits_for_a_database_that_is_away_for_a_moment(open_chat: Any, faults: Any) -> None:
    chat = await open_chat(bundle_text(**GATE))
    caller = await entered(chat)
    faults.refused = {"_append"}
    let_go()
    await asyncio.wait_for(faults.refusals.wait(), 5)
    faults.refused = set()

    assert (await caller)["response"] == "done"
    completed = [event for event in await chat.events() if event["type"] == "tool.completed"]
    assert [(event["ok"], event["output"]) for event in completed] == [(True, "through")]
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant", "tool", "assistant"]


async def test_a_turn_that_is_cancelled_while_it_waits_for_the_database_ends_when_that_is_back(
    open_chat: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch, 60.0)
    chat = await open_chat(bundle_text(**GATE))
    caller = await entered(chat)
    faults.refused = {"_append"}
    let_go()
    await asyncio.wait_for(faults.refusals.wait(), 5)
    faults.refused = set()

    async with asyncio.timeout(30):
        await chat.sessions.cancel(chat.session_id)
        assert (await caller)["status"] == "cancelled"
    assert ("tool", "through") in await chat.transcript()
    assert await chat.say("b") == "next"


async def test_a_turn_for_which_the_database_was_away_for_too_long_goes_on_when_it_is_back(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(**GATE))
    caller = await entered(chat)
    faults.refused = {"_append"}
    let_go()

    with pytest.raises(TurnFailure) as failed:
        await caller

    assert (failed.value.status, failed.value.code) == (503, "database_unavailable")
    faults.refused = set()
    recovery = chat.sessions._runtime.recovery
    for _ in range(2):
        await recovery.look(lambda seen: True)
    types = await types_until(chat, "turn.completed")
    assert types.count("turn.recovered") == 1 and "turn.failed" not in types
    assert await chat.say("b") == "next"


async def test_a_turn_whose_loop_cannot_go_on_later_fails_when_the_database_was_away_for_too_long(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(**GATE, session={"orchestrator": from_folder("loop-metronome")}))
    caller = await entered(chat)
    faults.refused = {"_append"}
    let_go()

    with pytest.raises(TurnFailure) as failed:
        await caller

    assert (failed.value.status, failed.value.code) == (503, "database_unavailable")
    faults.refused = set()
    assert (await types_until(chat, "turn.failed"))[-1] == "turn.failed"
    completed = [event for event in await chat.events() if event["type"] == "tool.completed"]
    assert [(event["ok"], event["output"]) for event in completed] == [(True, "through")]


async def test_an_answer_that_no_database_can_hold_is_kept_with_the_characters_replaced(
    open_chat: Any, tmp_path: Path
) -> None:
    chat = await open_chat(bundle_text(provider=provider(tmp_path, r'return answer("a\0b\udc80c")')))

    answer = await asyncio.wait_for(chat.sessions.send_message(chat.session_id, "go"), 10)

    assert (answer["status"], answer["response"]) == ("completed", "a\ufffdb\ufffdc")
    assert (await chat.events())[-1]["type"] == "turn.completed"
    assert (await asyncio.wait_for(chat.sessions.send_message(chat.session_id, "again"), 10))["status"] == "completed"


async def test_the_output_of_a_tool_that_no_database_can_hold_does_not_keep_the_turn_from_ending(
    open_chat: Any, tmp_path: Path
) -> None:
    written = tool(tmp_path, r'raise ValueError("name\udcff\0")')
    chat = await open_chat(bundle_text(tools=[written], replies=["[[tool: written {}]] [[then: done]]", "next"]))

    assert await asyncio.wait_for(chat.say("go"), 10) == "done"

    completed = [event for event in await chat.events() if event["type"] == "tool.completed"]
    assert [(event["ok"], event["output"]) for event in completed] == [(False, "ValueError: name\ufffd\ufffd")]
    assert await chat.say("more") == "next"


async def test_a_turn_that_another_process_ended_ends_its_followers_with_what_is_recorded(
    open_chat: Any, db: Database
) -> None:
    chat = await open_chat(bundle_text(**GATE))
    import amplifier_module_tool_gate as gate

    gate.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    await asyncio.wait_for(gate.entered.wait(), 5)
    turn_id = await db.read(open_turn_of, chat.session_id)
    lost = {"status": TurnStatus.INTERRUPTED, "stop_reason": StopReason.NODE_LOST}
    await db.write(stop_turn, chat.session_id, turn_id, within="default", said="Lost.", **lost)
    gate.release.set()

    seen: list[Any] = []
    async with asyncio.timeout(5):
        while (batch := await follower.next_batch(1)) != []:
            seen += batch or ()
    await follower.close()

    assert seen[-1].type == "done"
    assert (seen[-1].payload()["status"], seen[-1].payload()["stop_reason"]) == ("interrupted", "node_lost")
    assert await chat.say("b") == "next"


async def test_a_server_that_holds_as_many_sessions_as_it_may_does_not_mark_another_one_failed(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    manager = make_sessions(live_sessions=1)
    other = await open_chat(manager=manager)
    busy = await open_chat(bundle_text(**GATE), manager=manager)
    caller = await entered(busy)

    with pytest.raises(TooManyTurns):
        await other.say("hi")

    assert (await manager.get_session(other.session_id)).status == "active"
    let_go()
    await caller
    assert await other.say("hi") == "hi"


async def test_messages_that_come_at_once_start_no_more_turns_than_allowed(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    manager = make_sessions(max_running_turns=1)
    chats = [await open_chat(manager=manager) for _ in range(5)]

    outcomes = await asyncio.gather(
        *(manager._runtime.accept(chat.session_id, Incoming(SLOW), within="default") for chat in chats),
        return_exceptions=True,
    )

    assert [isinstance(outcome, TooManyTurns) for outcome in outcomes].count(False) == 1


async def test_a_message_accepted_while_the_server_begins_to_stop_waits_for_the_next_one_and_is_not_forgotten(
    open_chat: Any, faults: Any, sessions: Any
) -> None:
    chat = await open_chat()
    faults.held = "_accept"
    sender = asyncio.create_task(chat.sessions.send_message(chat.session_id, SLOW))
    await asyncio.wait_for(faults.reached.wait(), 5)
    await sessions._runtime.drain(timedelta(0))

    faults.go_on.set()

    with pytest.raises(ShuttingDown):
        await asyncio.wait_for(sender, 5)
    events = await chat.events()
    assert events[-1]["type"] == "message.user"
    assert (await chat.sessions.get_session(chat.session_id)).activity == "running"


async def test_a_message_that_comes_while_its_session_is_deleted_finds_no_session(open_chat: Any, faults: Any) -> None:
    chat = await open_chat()
    faults.held = "delete_with_children"
    deleting = asyncio.create_task(chat.sessions.delete_session(chat.session_id))
    await asyncio.wait_for(faults.reached.wait(), 5)
    sender = asyncio.create_task(chat.say("hi"))
    await asyncio.sleep(0)
    await chat.sessions.get_session(chat.session_id)  # a read takes longer than it takes to be accepted by mistake

    faults.go_on.set()

    assert await deleting is True
    with pytest.raises(SessionNotFound):
        await asyncio.wait_for(sender, 5)
    assert chat.sessions._runtime.live_count == 0


async def test_a_deletion_whose_caller_left_ends_the_followers_all_the_same(open_chat: Any, faults: Any) -> None:
    chat = await open_chat()
    follower = await chat.sessions.follow(chat.session_id, after=0)
    faults.held = "delete_with_children"
    deleting = asyncio.create_task(chat.sessions.delete_session(chat.session_id))
    await asyncio.wait_for(faults.reached.wait(), 5)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting

    faults.go_on.set()

    async with asyncio.timeout(5):
        while await follower.next_batch(1) != []:
            pass
    await follower.close()


async def test_tags_that_are_set_at_once_are_all_kept(open_chat: Any) -> None:
    chat = await open_chat()

    await asyncio.gather(*(chat.sessions.patch_session(chat.session_id, {"tags": {f"t{n}": str(n)}}) for n in range(8)))

    session = await chat.sessions.get_session(chat.session_id)
    assert session.tags == {f"t{n}": str(n) for n in range(8)}


async def test_following_a_session_that_is_not_there_leaves_nobody_listening(sessions: Any) -> None:
    with pytest.raises(SessionNotFound):
        await sessions.follow("nobody", after=0)

    assert sessions._runtime.hub.feed("nobody") is None


async def test_an_idle_session_holds_nothing_of_its_last_turn(open_chat: Any, sessions: Any) -> None:
    chat = await open_chat()

    await chat.say("hi")
    live = sessions._runtime._live.get(chat.session_id, within="default")
    await asyncio.wait_for(live.runner, 5)

    assert live.turn is None


async def test_a_context_that_cannot_be_filled_refuses_the_opening_and_is_named(
    open_chat: Any, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    code = """
    __amplifier_module_type__ = "context"

    class Context:
        def __init__(self):
            self.messages = []
        async def add_message(self, message):
            self.messages.append(message)
        async def get_messages_for_request(self, token_budget=None, provider=None):
            return list(self.messages)
        async def get_messages(self):
            return list(self.messages)
        async def set_messages(self, messages):
            if messages and messages[0]["role"] != "system":
                raise RuntimeError("nothing can be restored")
            self.messages = list(messages)
        async def clear(self):
            self.messages = []

    async def mount(coordinator, config=None):
        await coordinator.mount("context", Context())
    """
    entry = written_module(tmp_path, "context", code)
    chat = await open_chat(bundle_text(session={"context": entry}))

    assert await chat.say("hi") == "hi"
    context = chat.sessions._runtime._live.get(chat.session_id, within="default").opened.kernel.session.coordinator.get(
        "context"
    )
    assert [message["role"] for message in await context.get_messages()][:1] == ["system"]
    type(context._inner).set_messages = _refuse

    with pytest.raises(ModuleFailed) as refused:
        await (await chat.reopened(make_sessions())).say("again")

    assert refused.value.facts == {"module": entry["module"]}


async def _refuse(self: Any, messages: Any) -> None:
    raise RuntimeError("nothing can be restored")


async def test_the_database_being_away_refuses_a_message_and_stores_nothing(open_chat: Any, faults: Any) -> None:
    chat = await open_chat()
    faults.refused = {"_accept"}

    with pytest.raises(DatabaseUnavailable):
        await chat.say("hi")

    faults.refused = set()
    assert await chat.transcript() == []
    assert await chat.say("hi") == "hi"


async def test_a_message_whose_acceptance_held_though_its_answer_was_lost_is_answered(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(replies=["here"]))
    faults.answers_lost.append("_accept")

    assert await chat.say("hello?") == "here"

    types = [event["type"] for event in await chat.events()]
    assert types.count("turn.started") == 1 and types[-1] == "turn.completed"
    assert await chat.transcript() == [("user", "hello?"), ("assistant", "here")]


async def test_what_was_written_though_the_answer_was_lost_is_neither_lost_nor_written_twice(
    open_chat: Any, faults: Any
) -> None:
    chat = await open_chat(bundle_text(replies=["[[tool: list_directory {}]] [[then: done]]", "next"]))
    faults.answers_lost.append("_append")

    assert await chat.say("go") == "done"

    events = await chat.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("message.completed") == 2
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant", "tool", "assistant"]
    assert await chat.say("again") == "next"
