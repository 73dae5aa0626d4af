"""Interleavings of messages, kills and copies that once came out wrong."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.session_copies import SessionCopies
from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.models.approval import ApprovalStatus
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.session import ForkRequest, WhenBusy
from amplifier_app_api.runtime.accept import Incoming, SessionBusy
from amplifier_app_api.runtime.approvals import ApprovalBoard
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.approvals import settle_approval
from runtime_bundles import bundle_text, from_folder
from runtime_faults import provider

MakeSessions = Callable[..., SessionManager]

STREAMS_AND_HANGS = (
    "from amplifier_app_api.modules.providers.wire import AttemptStream as Stream; {first}"
    "stream = Stream(self.coordinator.hooks); await stream.start(0, 'text'); await stream.delta(0, 'piece'); "
    "import asyncio; await asyncio.Event().wait()"
)
ABORTED = (
    "aborted = Stream(self.coordinator.hooks); await aborted.start(0, 'text'); await aborted.delta(0, 'gone'); "
    "await aborted.abort(RuntimeError('again')); "
)


async def events_until(chat: Any, seen: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """What a follower of the session has heard once it has `seen` enough, deltas included."""
    follower = await chat.sessions.follow(chat.session_id, after=0)
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not seen(heard):
            heard += [item.payload() for item in await follower.next_batch(5) or []]
    await follower.close()
    return heard


def requests(events: list[dict[str, Any]], kind: str) -> list[int]:
    return [event["request"] for event in events if event["type"] == kind]


async def gone_on_with(chat: Any, sessions: SessionManager) -> Any:
    """Another process takes the turn over, and its process is gone."""
    await sessions._runtime.recovery.look(lambda seen: False)
    return await chat.reopened(sessions)


def without_rows_of_pieces(sessions: SessionManager) -> SessionManager:
    """The same, with nothing on record of an answer that is being made: as when a process dies soon after it."""
    runtime = sessions._runtime
    runtime.hub.delta_log = runtime.delta_log = DeltaLog(runtime.db, timedelta(hours=1))
    return sessions


@pytest.mark.parametrize("first", ["", ABORTED], ids=["asked once", "asked again"])
async def test_however_often_a_turn_loses_its_process_no_number_of_a_model_call_is_given_twice(
    open_chat: Any, make_sessions: MakeSessions, tmp_path: Path, first: str
) -> None:
    text = bundle_text(provider=provider(tmp_path, STREAMS_AND_HANGS.format(first=first)))
    chat = await open_chat(text, manager=without_rows_of_pieces(make_sessions()))
    await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    streamed: list[int] = []
    for attempt in (1, 2, 3):
        heard = await events_until(chat, lambda events: "piece" in [event.get("text") for event in events])
        streamed += [event["request"] for event in heard if event.get("text") == "piece"]
        if attempt < 3:
            chat = await gone_on_with(chat, without_rows_of_pieces(make_sessions()))

    discarded = requests(await chat.events(), "message.discarded")
    assert len(set(streamed)) == 3, "two model calls have one number"
    assert len(set(discarded)) == len(discarded), "a call is discarded twice"
    assert set(streamed[:2]) <= set(discarded), "nobody is told that what was streamed does not count"


async def test_a_fork_counts_a_message_that_was_sent_to_a_running_turn(
    open_chat: Any, sessions: SessionManager, db: Database, configs: ConfigManager
) -> None:
    gate_bundle = bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: heard]]"])
    chat = await open_chat(gate_bundle)
    turn = await at_the_gate(chat)
    await chat.sessions.send_message(chat.session_id, "and this", when_busy="steer")
    let_go()
    await turn

    copies = SessionCopies(db, sessions._runtime, configs)
    copy = await copies.fork(chat.session_id, ForkRequest())

    assert copy is not None
    assert copy.message_count == 2
    assert [role for role, _ in await chat.transcript()].count("user") == 2


async def test_a_loop_hears_messages_in_the_order_they_were_sent_whichever_server_took_them(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]]"]))
    turn = await at_the_gate(chat)
    elsewhere = await chat.reopened(make_sessions())
    for here, text in ((elsewhere, "first"), (chat, "second"), (elsewhere, "third"), (chat, "fourth")):
        await here.sessions.send_message(chat.session_id, text, when_busy="steer")
    let_go()
    await turn

    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["go", "first", "second", "third", "fourth"]


@pytest.mark.parametrize("policy", list(WhenBusy))
async def test_a_server_whose_turn_was_interrupted_through_another_one_takes_messages_before_it_has_heard_of_it(
    open_chat: Any, make_sessions: MakeSessions, tmp_path: Path, policy: WhenBusy
) -> None:
    chat = await open_chat(bundle_text(provider=provider(tmp_path, "import asyncio; await asyncio.Event().wait()")))
    await chat.sessions.create_turn(chat.session_id, "here")
    elsewhere = await chat.reopened(make_sessions())
    running = await elsewhere.sessions.create_turn(chat.session_id, "elsewhere", when_busy=WhenBusy.INTERRUPT)

    async with asyncio.timeout(5):
        if policy is WhenBusy.REJECT:
            with pytest.raises(SessionBusy) as refused:
                await chat.sessions.accept_message(chat.session_id, "and now?", when_busy=policy)
            assert refused.value.turn_id == running.turn_id
            return
        sent = await chat.sessions.accept_message(chat.session_id, "and now?", when_busy=policy)

    status = {WhenBusy.QUEUE: "queued", WhenBusy.STEER: "pending", WhenBusy.INTERRUPT: "running"}[policy]
    assert sent.status == status
    assert (sent.turn_id == running.turn_id) is (policy is WhenBusy.STEER)


async def test_an_answer_that_comes_through_another_server_while_its_turn_is_cancelled_is_what_the_log_says(
    open_chat: Any, db: Database
) -> None:
    asks = bundle_text(
        tools=[from_folder("tool-compass")],
        hooks=[from_folder("hooks-doorman", options=["allow", "deny"])],
        replies=['[[tool: compass {"of": "east"}]] [[then: done]]'],
    )
    chat = await open_chat(asks)
    await chat.sessions.create_turn(chat.session_id, "go")
    await events_until(chat, lambda events: "approval.requested" in [event["type"] for event in events])
    elsewhere = ApprovalManager(db, board=ApprovalBoard(db, limit=timedelta(hours=1)))
    [asked] = (await elsewhere.page_approvals(PageRequest())).items

    await elsewhere.answer(chat.session_id, asked.approval_id, "deny")
    await chat.sessions.cancel(chat.session_id)

    [told] = [event for event in await chat.events() if event["type"] == "approval.resolved"]
    assert (told["status"], told["decision"]) == ("answered", "deny")


async def test_a_question_that_was_taken_back_is_told_though_its_process_died_before_it_could(
    open_chat: Any, make_sessions: MakeSessions, db: Database
) -> None:
    asks = bundle_text(
        tools=[from_folder("tool-compass")],
        hooks=[from_folder("hooks-doorman", options=["allow", "deny"])],
        replies=['[[tool: compass {"of": "east"}]] [[then: done]]'],
    )
    chat = await open_chat(asks)
    await chat.sessions.create_turn(chat.session_id, "go")
    await events_until(chat, lambda events: "approval.requested" in [event["type"] for event in events])
    desks = ApprovalManager(db, board=ApprovalBoard(db, limit=timedelta(hours=1)))
    [first] = (await desks.page_approvals(PageRequest())).items
    await db.write(settle_approval, first.approval_id, ApprovalStatus.WITHDRAWN, now=first.created_at, decision=None)

    other = await gone_on_with(chat, make_sessions())
    kinds = ["approval.requested", "approval.requested"]
    await events_until(
        other, lambda events: [one["type"] for one in events if one["type"].startswith("approval")] == kinds
    )
    await other.sessions.cancel(chat.session_id)

    told = [event["approval_id"] for event in await other.events() if event["type"] == "approval.resolved"]
    asked = [event["approval_id"] for event in await other.events() if event["type"] == "approval.requested"]
    assert sorted(told) == sorted(asked)
    assert first.approval_id in told


async def at_the_gate(chat: Any) -> asyncio.Task[Any]:
    """Begin a turn and return when its tool waits."""
    import amplifier_module_tool_gate as gate

    gate.reset()
    turn = asyncio.create_task(chat.say("go"))
    await asyncio.wait_for(gate.entered.wait(), 10)
    return turn


def let_go() -> None:
    import amplifier_module_tool_gate as gate

    gate.release.set()
