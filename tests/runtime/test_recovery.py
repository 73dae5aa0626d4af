"""A turn outlives its process: another one takes it over and goes on where it was.

A process that is gone is played by a runtime that nobody closes: whatever it still does comes too late, as it would
from a process that was paused.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from amplifier_app_api.core import SessionManager
from amplifier_app_api.runtime.accept import Incoming, accept
from amplifier_app_api.runtime.journal import OUTCOME_UNKNOWN
from amplifier_app_api.runtime.pool import SessionRuntime
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.deltas import deltas_of
from amplifier_app_api.storage.ownership import OpenTurn, release_all, take_over
from amplifier_app_api.storage.sessions import get_session
from amplifier_app_api.storage.stopping import wish_to_stop
from runtime_bundles import bundle_text, from_folder
from runtime_faults import provider
from seals import PLAIN

Chat = Any
MakeSessions = Callable[..., SessionManager]
OpenChat = Callable[..., Any]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.touch()
    return path


@pytest.fixture
def tally(ledger: Path) -> Any:
    """The module of the counting tools, ready for a test to hold its runs."""
    return from_folder("tool-tally", path=str(ledger))


def tools() -> Any:
    import amplifier_module_tool_tally

    return amplifier_module_tool_tally


def runs(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines()


async def until(seen: Callable[[], Any]) -> Any:
    """What `seen` finds, once it finds something: rows change without a signal."""
    async with asyncio.timeout(10):
        while not (found := await seen()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


def runtime_of(sessions: SessionManager) -> SessionRuntime:
    return sessions._runtime


async def begun(chat: Chat, text: str) -> str:
    """Send a message whose turn gets as far as a tool that is held; the id of the turn."""
    tools().reset()
    sent = await runtime_of(chat.sessions).accept(chat.session_id, Incoming(text), within="default")
    async with asyncio.timeout(5):
        await tools().entered.wait()
    assert sent.turn is not None
    return sent.turn.turn_id


async def taken_over(chat: Chat, sessions: SessionManager, *, looks: int = 1) -> Chat:
    """Another process finds that the first one is gone."""
    for _ in range(looks):
        await runtime_of(sessions).recovery.look(lambda seen: False)
    return await chat.reopened(sessions)


async def ended(chat: Chat, turn_id: str) -> Any:
    async with asyncio.timeout(10):
        return await runtime_of(chat.sessions).outcome_of(chat.session_id, turn_id, within="default")


def call(name: str, label: str, **more: Any) -> str:
    return f"{name} {json.dumps({'label': label, **more})}"


async def test_a_call_without_a_result_is_told_as_unknown_and_not_made_again(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.response) == ("completed", "done")
    assert runs(ledger) == ["count a"]
    (told,) = [event for event in await other.events() if event["type"] == "turn.recovered"]
    (call_id,) = told["unknown"]
    assert (told["attempt"], told["reused"]) == (2, [])
    transcript = await other.transcript()
    assert [role for role, _ in transcript] == ["user", "assistant", "tool", "assistant"]
    assert transcript[2] == ("tool", OUTCOME_UNKNOWN)
    assert [event["call_id"] for event in await other.events() if event["type"] == "tool.completed"] == [call_id]


@pytest.mark.parametrize("name", ["look", "put"])
async def test_a_call_that_its_tool_says_is_harmless_is_made_again(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path, name: str
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call(name, 'a', hold=True)}]] [[then: done]]")

    sessions = make_sessions()
    tools().entered.clear()
    await taken_over(chat, sessions)
    async with asyncio.timeout(5):
        await tools().entered.wait()
    tools().release.set()
    other = await chat.reopened(sessions)
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.response) == ("completed", "done")
    assert runs(ledger) == [f"{name} a"] * 2
    told = next(event for event in await other.events() if event["type"] == "turn.recovered")
    assert (told["reused"], told["unknown"]) == ([], [])
    assert (await other.transcript())[2] == ("tool", '{"done": "a"}')


async def test_of_calls_made_at_once_each_is_treated_as_it_stands(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path, db: Database
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    calls = [call("count", "done"), call("count", "held", hold=True), call("look", "again")]
    turn_id = await begun(chat, f"[[tools: {' | '.join(calls)}]] [[then: all]]")
    await until(lambda: _told(chat, "tool.completed", 2))

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.response) == ("completed", "all")
    assert sorted(runs(ledger)) == ["count done", "count held", "look again"]
    told = next(event for event in await other.events() if event["type"] == "turn.recovered")
    assert (len(told["reused"]), len(told["unknown"])) == (2, 1)
    results = [content for role, content in await other.transcript() if role == "tool"]
    assert results == ['{"done": "done"}', OUTCOME_UNKNOWN, '{"done": "again"}']


async def test_a_turn_whose_model_was_asked_asks_again_and_gives_up_what_it_had_said(
    open_chat: OpenChat, make_sessions: MakeSessions
) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, "[[slow: tokens=150 delay_ms=20]]")
    turn_id = await _at_the_first_delta(chat)

    other = await _taken_at_last(chat, make_sessions(), turn_id, 2)
    outcome = await ended(other, turn_id)

    assert outcome.response.split() == [f"w{n}" for n in range(150)]
    events = await other.events()
    types = [event["type"] for event in events if event["turn_id"] == turn_id]
    assert types[2:4] == ["turn.recovered", "message.discarded"]
    completed = next(event for event in events if event["type"] == "message.completed")
    discarded = next(event for event in events if event["type"] == "message.discarded")
    assert completed["request"] > discarded["request"] == 1
    await follower.close()


async def _at_the_first_delta(chat: Chat) -> str:
    """When the first pieces of the answer are rows: the turn."""
    read = runtime_of(chat.sessions).db.read
    pieces = await until(lambda: read(deltas_of, chat.session_id, within="default"))
    return pieces[0].turn_id


async def _taken_at_last(chat: Chat, sessions: SessionManager, turn_id: str, attempt: int) -> Chat:
    """Taken over, though the process that is not gone at all writes pieces and is passed over while it does."""

    async def taken() -> bool:
        await taken_over(chat, sessions)
        turn = await sessions.get_turn(chat.session_id, turn_id)
        return turn is not None and turn.attempt == attempt

    await until(taken)
    return await chat.reopened(sessions)


async def _told(chat: Chat, type_: str, times: int) -> bool:
    return sum(event["type"] == type_ for event in await chat.events()) >= times


async def test_the_usage_of_earlier_attempts_counts(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    script = f"[[usage: input=10 output=1]] [[tool: {call('count', 'a', hold=True)}]] [[then: done]]"
    turn_id = await begun(chat, script)

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (20, 2)
    session = await other.sessions.get_session(chat.session_id)
    assert session is not None and session.usage.input_tokens == 20
    turn = await other.sessions.get_turn(chat.session_id, turn_id)
    assert turn is not None and turn.tool_calls == 1


async def test_a_loop_that_cannot_go_on_ends_interrupted_with_its_calls_answered(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path
) -> None:
    loop = from_folder("loop-metronome")
    chat = await open_chat(bundle_text(tools=[tally], session={"orchestrator": loop}))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.stop_reason) == ("interrupted", "node_lost")
    assert [role for role, _ in await other.transcript()] == ["user", "assistant", "tool"]
    assert runs(ledger) == ["count a"]
    assert await other.say("hello") == "hello"


async def test_a_turn_that_has_lost_three_processes_is_ended_and_keeps_what_it_said(
    open_chat: OpenChat, make_sessions: MakeSessions
) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, "[[slow: tokens=400 delay_ms=20]]")
    turn_id = await _at_the_first_delta(chat)

    for attempt in (2, 3):
        chat = await _taken_at_last(chat, make_sessions(), turn_id, attempt)
        await until(partial(_told, chat, "turn.recovered", attempt - 1))
        await _at_the_first_delta(chat)
    chat = await _taken_at_last(chat, make_sessions(), turn_id, 4)
    outcome = await ended(chat, turn_id)

    assert (outcome.status, outcome.stop_reason) == ("interrupted", "node_lost")
    assert outcome.response.startswith("w0")
    last = (await chat.sessions.transcript(chat.session_id))[-1]
    assert (last.role, last.interrupted) == ("assistant", True)
    await follower.close()


async def test_a_turn_that_lost_its_task_in_its_own_process_is_found_and_gone_on_with(
    open_chat: OpenChat, db: Database
) -> None:
    chat = await open_chat()
    runtime = runtime_of(chat.sessions)
    # The message was accepted, and the process never heard of it.
    accepted, _ = await accept(
        db,
        Incoming("unheard"),
        tenant_id="default",
        session_id=chat.session_id,
        node_id=runtime.options.node_id,
        expected_position=0,
        notices=[],
        seals=PLAIN,
    )

    await runtime.recovery.look(lambda seen: True)
    assert [event["type"] for event in await chat.events()][-1] == "message.user"
    await runtime.recovery.look(lambda seen: True)

    outcome = await ended(chat, accepted.key.turn_id)
    assert (outcome.status, outcome.response) == ("completed", "unheard")
    told = next(event for event in await chat.events() if event["type"] == "turn.recovered")
    assert told["attempt"] == 1


async def test_a_process_that_lost_a_turn_stops_it_and_tells_how_it_ended_elsewhere(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    waiting = asyncio.create_task(ended(chat, turn_id))

    other = await taken_over(chat, make_sessions())
    await ended(other, turn_id)
    await runtime_of(chat.sessions).recovery.look(lambda seen: True)

    outcome = await waiting
    assert (outcome.status, outcome.response) == ("completed", "done")
    assert [role for role, _ in await other.transcript()] == ["user", "assistant", "tool", "assistant"]


async def test_only_one_of_two_takes_a_turn_over(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, db: Database
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    record = await chat.sessions.get_session(chat.session_id)
    assert record is not None
    found = OpenTurn(turn_id, chat.session_id, "default", runtime_of(chat.sessions).options.node_id, 0, 1, None)

    row = await db.read(get_session, chat.session_id, within="default")
    found = replace(found, epoch=row.epoch)
    taken = await asyncio.gather(*(db.write(take_over, found, f"node {n}") for n in range(4)))

    assert sum(one is not None for one in taken) == 1
    tools().release.set()


async def test_a_turn_that_is_left_when_its_process_stops_goes_on_in_the_next_one_and_does_not_count(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('look', 'a', hold=True)}]] [[then: done]]")
    waiting = asyncio.create_task(ended(chat, turn_id))
    await runtime_of(chat.sessions).close()
    left = await waiting
    assert (left.status, left.code) == ("failed", "shutting_down")

    await runtime_of(chat.sessions).db.write(release_all, runtime_of(chat.sessions).options.node_id)
    tools().release.set()
    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.response) == ("completed", "done")
    told = next(event for event in await other.events() if event["type"] == "turn.recovered")
    assert told["attempt"] == 1


async def test_a_turn_that_was_let_go_of_goes_on_when_the_database_is_back_and_does_not_count(
    open_chat: OpenChat, tally: Any, ledger: Path
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    waiting = asyncio.create_task(ended(chat, turn_id))
    await asyncio.sleep(0)
    recovery = runtime_of(chat.sessions).recovery

    recovery.let_go_of_all()

    told = await waiting
    assert (told.status, told.code) == ("failed", "database_unavailable")

    async def recovered() -> bool:
        await recovery.look(lambda seen: True)
        return await _told(chat, "turn.recovered", 1)

    await until(recovered)
    outcome = await ended(chat, turn_id)
    assert (outcome.status, outcome.response) == ("completed", "done")
    assert runs(ledger) == ["count a"]
    told = next(event for event in await chat.events() if event["type"] == "turn.recovered")
    assert told["attempt"] == 1


async def test_a_turn_that_somebody_asked_to_stop_is_not_gone_on_with(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, db: Database
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    await db.write(wish_to_stop, chat.session_id, turn_id, within="default")

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.stop_reason) == ("cancelled", "user_cancel")
    assert [role for role, _ in await other.transcript()] == ["user", "assistant", "tool"]
    turn = await other.sessions.get_turn(chat.session_id, turn_id)
    assert turn is not None and turn.tool_calls == 1


async def test_a_gentle_cancel_holds_when_the_process_dies_before_the_turn_has_stopped(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    assert (await chat.sessions.cancel(chat.session_id, immediate=False))["status"] == "running"

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.stop_reason) == ("cancelled", "user_cancel")
    assert runs(ledger) == ["count a"]


async def test_an_owner_obeys_a_wish_that_was_left_for_it(open_chat: OpenChat, tally: Any, db: Database) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")
    await db.write(wish_to_stop, chat.session_id, turn_id, within="default", wish="immediate")

    await runtime_of(chat.sessions).recovery.look(lambda seen: True)

    outcome = await ended(chat, turn_id)
    assert (outcome.status, outcome.stop_reason) == ("cancelled", "user_cancel")


async def test_a_session_that_cannot_be_opened_any_more_ends_its_turn_with_the_reason(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any
) -> None:
    chat = await open_chat(bundle_text(tools=[tally]))
    turn_id = await begun(chat, f"[[tool: {call('count', 'a', hold=True)}]] [[then: done]]")

    other = await taken_over(chat, make_sessions(source_roots=()))
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.stop_reason, outcome.code) == ("interrupted", "node_lost", "config_not_runnable")


async def test_results_that_hold_a_secret_are_kept_sealed_and_given_back_whole(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, db: Database, tmp_path: Path
) -> None:
    secret = "s3cr3t-value-of-this-test"
    chat = await open_chat(bundle_text(tools=[tally]), variables={"KEY": secret})
    calls = [call("count", secret), call("count", "held", hold=True)]
    turn_id = await begun(chat, f"[[tools: {' | '.join(calls)}]] [[then: all]]")
    await until(lambda: _told(chat, "tool.completed", 1))

    other = await taken_over(chat, make_sessions())
    await ended(other, turn_id)

    kept = await db.read(lambda conn: [row[0] for row in conn.execute(sql("SELECT result FROM tool_calls"))])
    assert not any(secret in (value or "") for value in kept)
    told = next(event for event in await other.events() if event["type"] == "turn.recovered")
    assert len(told["reused"]) == 1


async def test_a_provider_that_gives_every_call_the_same_id_is_not_taken_at_its_word(
    open_chat: OpenChat, make_sessions: MakeSessions, tally: Any, ledger: Path, tmp_path: Path
) -> None:
    body = """
        results = [m for m in request.messages if m.role == "tool"]
        if len(results) >= 2:
            return answer("done")
        from amplifier_core import ToolCall
        from amplifier_core.message_models import ToolCallBlock
        hold = len(results) == 1
        arguments = {{"label": str(len(results)), "hold": hold}}
        call = ToolCall(id="call_0", name="count", arguments=arguments)
        block = ToolCallBlock(id="call_0", name="count", input=arguments)
        return ChatResponse(content=[block], tool_calls=[call], finish_reason="tool_use")
    """.replace("{{", "{").replace("}}", "}")
    chat = await open_chat(bundle_text(tools=[tally], provider=provider(tmp_path, body.strip())))
    turn_id = await begun(chat, "go")

    other = await taken_over(chat, make_sessions())
    outcome = await ended(other, turn_id)

    assert (outcome.status, outcome.response) == ("completed", "done")
    assert runs(ledger) == ["count 0", "count 1"]
    results = [content for role, content in await other.transcript() if role == "tool"]
    assert results == ['{"done": "0"}', OUTCOME_UNKNOWN]
