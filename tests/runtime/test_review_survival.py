"""What a turn must not do to others when it moves between processes, and what no input may do to a turn."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.session_manager import SessionBusy
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.session import WhenBusy
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.pool import SessionRuntime, TooManyTurns
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.idempotency import KeyTaken, RequestKey
from runtime_bundles import bundle_text, from_folder
from runtime_faults import Faults, provider

OpenChat = Callable[..., Any]
MakeSessions = Callable[..., SessionManager]

# A model call that ends only when somebody ends it: what it waits for is not in this process.
ASLEEP = "import asyncio; await asyncio.Event().wait()"


def runtime_of(sessions: SessionManager) -> SessionRuntime:
    return sessions._runtime


async def begun(chat: Any, text: str = "go", **changes: Any) -> str:
    sent = await runtime_of(chat.sessions).accept(chat.session_id, Incoming(text, **changes), within="default")
    return sent.turn_id


async def moved(chat: Any, taker: SessionManager) -> None:
    """Another process takes the turn, and the one that ran it comes to know."""
    await runtime_of(taker).recovery.look(lambda seen: False)
    await told_of_loss(chat.sessions)


async def told_of_loss(sessions: SessionManager) -> None:
    await runtime_of(sessions).recovery.look(lambda seen: True)
    async with asyncio.timeout(5):
        while any(not turn.recorder.over for turn in runtime_of(sessions).turns.all()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def lost(open_chat: OpenChat, make_sessions: MakeSessions, tmp_path: Path) -> Any:
    """A chat whose turn another process has taken over, where it runs; its turn; that process."""
    chat = await open_chat(bundle_text(provider=provider(tmp_path, ASLEEP)))
    turn_id = await begun(chat)
    other = make_sessions()
    await moved(chat, other)
    return chat, turn_id, other


async def test_a_turn_is_cancelled_through_the_process_that_lost_it(lost: Any) -> None:
    chat, turn_id, _ = lost

    async with asyncio.timeout(5):
        told = await chat.sessions.cancel(chat.session_id)

    assert (told["turn_id"], told["status"]) == (turn_id, "cancelled")
    turn = await chat.sessions.get_turn(chat.session_id, turn_id)
    assert turn is not None
    assert turn.status == "cancelled"


async def test_the_process_that_lost_a_turn_says_that_its_session_is_busy(lost: Any) -> None:
    chat, turn_id, _ = lost

    with pytest.raises(SessionBusy) as refused:
        async with asyncio.timeout(5):
            await chat.say("and now?")

    assert refused.value.turn_id == turn_id


async def test_a_message_through_the_process_that_lost_a_turn_may_interrupt_it(lost: Any) -> None:
    chat, turn_id, _ = lost

    async with asyncio.timeout(5):
        next_id = await begun(chat, "now", when_busy=WhenBusy.INTERRUPT)

    page = await chat.sessions.page_turns(chat.session_id, PageRequest())
    assert page is not None
    assert [(turn.turn_id, turn.status) for turn in page.items] == [(next_id, "running"), (turn_id, "cancelled")]


async def test_a_session_is_deleted_through_the_process_that_lost_its_turn(lost: Any) -> None:
    chat, _, _ = lost

    async with asyncio.timeout(5):
        assert await chat.sessions.delete_session(chat.session_id)

    assert await chat.sessions.get_session(chat.session_id) is None


async def test_a_turn_comes_back_to_the_process_that_lost_it(
    open_chat: OpenChat, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    body = "import asyncio, pathlib; file = pathlib.Path({path!r}); " + (
        "await asyncio.Event().wait() if not file.exists() else None; return answer('here')"
    )
    ready = tmp_path / "ready"
    chat = await open_chat(bundle_text(provider=provider(tmp_path, body.format(path=str(ready)))))
    turn_id = await begun(chat)
    await moved(chat, make_sessions())
    ready.touch()

    await runtime_of(chat.sessions).recovery.look(lambda seen: False)

    async with asyncio.timeout(5):
        outcome = await runtime_of(chat.sessions).outcome_of(chat.session_id, turn_id, within="default")
    assert outcome is not None
    assert (outcome.status, outcome.response) == ("completed", "here")
    assert await chat.say("again") == "here"


# Requests that are sent again.


def _key() -> RequestKey:
    return RequestKey("default", "POST /sessions/x/turns", "k", "hash")


@pytest.mark.parametrize("when_busy", list(WhenBusy))
async def test_a_request_that_another_process_has_carried_out_finds_the_key_and_leaves_its_turn_alone(
    open_chat: OpenChat, make_sessions: MakeSessions, tmp_path: Path, when_busy: WhenBusy
) -> None:
    chat = await open_chat(bundle_text(provider=provider(tmp_path, ASLEEP)))
    turn_id = await begun(chat, key=_key(), when_busy=when_busy)

    for sessions in (chat.sessions, make_sessions()):
        with pytest.raises(KeyTaken):
            await begun(await chat.reopened(sessions), key=_key(), when_busy=when_busy)

    turn = await chat.sessions.get_turn(chat.session_id, turn_id)
    assert turn is not None
    assert turn.status == "running"


# Bounds.


async def test_as_many_messages_may_steer_a_turn_as_may_wait_in_its_session(
    open_chat: OpenChat, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    sessions = make_sessions(max_queued_turns_per_session=2)
    chat = await open_chat(bundle_text(provider=provider(tmp_path, ASLEEP)), manager=sessions)
    await begun(chat)
    for text in ("one", "two"):
        await begun(chat, text, when_busy=WhenBusy.STEER)

    with pytest.raises(TooManyTurns):
        await begun(chat, "three", when_busy=WhenBusy.STEER)

    session = await chat.sessions.get_session(chat.session_id)
    assert session is not None
    assert session.message_count == 3


async def test_a_turn_keeps_its_budget_when_the_answer_of_the_database_is_lost(
    open_chat: OpenChat, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    compass = from_folder("tool-compass")
    chat = await open_chat(bundle_text(provider=from_folder("provider-miser"), tools=[compass]))
    Faults(db, monkeypatch).answers_lost.append("_accept")

    async with asyncio.timeout(5):
        answer = await chat.sessions.send_message(chat.session_id, "go", budget=Budget(iterations=2))

    assert answer["stop_reason"] == "budget"


async def test_what_a_turn_used_counts_once_for_the_day_when_it_was_let_go_of_in_between(
    open_chat: OpenChat, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    sessions = make_sessions(tenant_budget=Budget(iterations=2))
    tally = from_folder("tool-tally", path=str(tmp_path / "ledger"))
    chat = await open_chat(bundle_text(tools=[tally]), manager=sessions)
    import amplifier_module_tool_tally

    amplifier_module_tool_tally.reset()
    turn_id = await begun(chat, '[[tool: count {"label": "a", "hold": true}]] [[then: done]]')
    async with asyncio.timeout(5):
        await amplifier_module_tool_tally.entered.wait()
    turn = runtime_of(sessions).running(turn_id)
    assert turn is not None
    runtime_of(sessions).recovery.let_go_of_all()
    async with asyncio.timeout(5):
        while runtime_of(sessions).running(turn_id) in (None, turn):
            await runtime_of(sessions).recovery.look(lambda seen: True)
            await asyncio.sleep(0.01)

        outcome = await runtime_of(sessions).outcome_of(chat.session_id, turn_id, within="default")

    assert outcome is not None
    assert (outcome.stop_reason, outcome.response) == ("end_turn", "done")


# What a provider says of its costs.


@pytest.mark.parametrize("cost", ["NaN", "-Infinity", "1e400", "-1"])
async def test_a_cost_that_is_none_counts_as_unknown(open_chat: OpenChat, tmp_path: Path, cost: str) -> None:
    body = (
        "from decimal import Decimal; reply = answer('hello'); "
        f"object.__setattr__(reply.usage, 'cost_usd', Decimal({cost!r})); return reply"
    )
    chat = await open_chat(bundle_text(provider=provider(tmp_path, body)))

    async with asyncio.timeout(10):
        answer = await chat.sessions.send_message(chat.session_id, "go")

    assert (answer["status"], answer["response"]) == ("completed", "hello")
    assert answer["usage"]["cost_usd"] is None
