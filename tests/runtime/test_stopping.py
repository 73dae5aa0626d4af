"""Turns that are stopped: by a person, by a limit, by the end of the process."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.session_manager import SessionBusy, TurnFailure
from amplifier_app_api.runtime.pool import ShuttingDown, TooManyTurns
from runtime_bundles import bundle_text, from_folder

SLOW = "[[slow: tokens=2000 delay_ms=5]]"


async def until(follower: Any, kind: str, seconds: float = 5) -> list[Any]:
    """Read a stream until an item of this type has come."""
    seen: list[Any] = []
    async with asyncio.timeout(seconds):
        while not any(item.type == kind for item in seen):
            seen += await follower.next_batch(1) or []
    return seen


async def test_a_second_message_is_refused_with_the_id_of_the_turn_that_runs(open_chat: Any) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    started = await until(follower, "message.delta")

    with pytest.raises(SessionBusy) as refused:
        await chat.say("me too")

    assert refused.value.facts == {"turn_id": started[-1].turn_id}
    await chat.sessions.cancel(chat.session_id)
    await follower.close()
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant"]


async def test_a_cancelled_turn_keeps_the_text_so_far_and_the_next_one_runs(open_chat: Any) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    await until(follower, "message.delta")

    answer = await chat.sessions.cancel(chat.session_id)

    rest = await until(follower, "done")
    await follower.close()
    assert (answer["status"], answer["message"]) == ("cancelled", "Cancellation requested")
    done = rest[-1].payload()
    assert (done["status"], done["stop_reason"]) == ("cancelled", "user_cancel")
    partial = rest[-2].payload()["content"]
    assert partial.startswith("w0") and "w1999" not in partial
    message = (await chat.sessions.transcript(chat.session_id))[1]
    assert (message.role, message.interrupted, message.content) == (
        "assistant",
        True,
        [{"type": "text", "text": partial}],
    )
    assert await chat.say("still there?") == "still there?"


async def test_what_was_streamed_before_a_cancel_is_what_the_message_says(open_chat: Any) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    seen = await until(follower, "message.delta")
    await chat.sessions.cancel(chat.session_id)
    seen += await until(follower, "done")
    await follower.close()

    streamed = "".join(item.payload()["text"] for item in seen if item.type == "message.delta")
    completed = next(item.payload() for item in seen if item.type == "message.completed")
    assert completed["blocks"] == [{"block": 0, "type": "text", "text": streamed}]


async def test_cancelling_with_nothing_to_cancel_changes_nothing(open_chat: Any) -> None:
    chat = await open_chat()

    answer = await chat.sessions.cancel(chat.session_id)

    assert (answer["turn_id"], answer["status"], answer["message"]) == (None, None, "Nothing to cancel")
    assert [event["type"] for event in await chat.events()] == ["session.created"]


async def test_a_cancel_while_a_tool_runs_answers_its_call_so_that_the_history_is_valid(open_chat: Any) -> None:
    text = bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: done]]"])
    chat = await open_chat(text)
    import amplifier_module_tool_gate as gate

    gate.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    await asyncio.wait_for(gate.entered.wait(), 5)

    await chat.sessions.cancel(chat.session_id)

    seen = await until(follower, "done")
    await follower.close()
    completed = [item.payload() for item in seen if item.type == "tool.completed"]
    assert [(event["ok"], event["output"]) for event in completed] == [
        (False, "Cancelled by the user before this call had a result.")
    ]
    rows = await chat.sessions.transcript(chat.session_id)
    assert [row.role for row in rows] == ["user", "assistant", "tool"]
    assert rows[2].tool_call_id == rows[1].tool_calls[0]["id"]
    assert await chat.say("and now?") == "and now?"


async def test_a_cancel_keeps_what_a_tool_gave_that_had_finished_beside_one_that_runs(open_chat: Any) -> None:
    tools = [from_folder("tool-gate"), from_folder("tool-parrot")]
    calls = '[[tools: parrot {"say": "hi"} | gate {}]] [[then: never said]]'
    chat = await open_chat(bundle_text(tools=tools, replies=[calls]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    await until(follower, "tool.completed")

    await chat.sessions.cancel(chat.session_id)

    await until(follower, "done")
    await follower.close()
    given = [content for role, content in await chat.transcript() if role == "tool"]
    said = '{"said": "hi", "twice": ["hi", {"deep": "hi"}]}'
    assert given == [said, "Cancelled by the user before this call had a result."]


async def test_a_graceful_cancel_lets_the_tool_finish_and_asks_no_model_again(open_chat: Any) -> None:
    text = bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: never said]]"])
    chat = await open_chat(text)
    import amplifier_module_tool_gate as gate

    gate.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    await asyncio.wait_for(gate.entered.wait(), 5)

    answer = await chat.sessions.cancel(chat.session_id, immediate=False)
    gate.release.set()

    seen = await until(follower, "done")
    await follower.close()
    assert answer["status"] == "running"
    assert [item.payload()["output"] for item in seen if item.type == "tool.completed"] == ["through"]
    assert seen[-1].payload()["status"] == "cancelled"
    rows = await chat.transcript()
    assert rows[2] == ("tool", "through")
    assert all("never said" not in str(content) for role, content in rows if role == "assistant" and content)


async def test_a_graceful_cancel_gives_up_a_model_call(open_chat: Any) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    await until(follower, "message.delta")

    await chat.sessions.cancel(chat.session_id, immediate=False)

    seen = await until(follower, "done")
    await follower.close()
    assert (seen[-1].payload()["status"], seen[-1].payload()["stop_reason"]) == ("cancelled", "user_cancel")


async def test_a_loop_that_swallows_its_cancellation_is_abandoned_and_its_late_writes_are_refused(
    open_chat: Any,
) -> None:
    orchestrator = from_folder("loop-stubborn")
    chat = await open_chat(bundle_text(session={"orchestrator": orchestrator}))
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "hold")
    await asyncio.wait_for(loop.entered.wait(), 5)

    async with asyncio.timeout(1):
        answer = await chat.sessions.cancel(chat.session_id)
        assert await chat.say("next") == "heard next"

    assert answer["status"] == "cancelled"
    loop.release.set()
    async with asyncio.timeout(5):
        await loop.refusal.wait()
    await follower.close()
    assert loop.refused == ["TurnOver"]
    assert await chat.transcript() == [("user", "hold"), ("user", "next"), ("assistant", "heard next")]


async def test_a_turn_that_takes_too_long_fails_and_says_why(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(turn_timeout=timedelta(milliseconds=200))
    chat = await open_chat(manager=manager)

    with pytest.raises(TurnFailure) as failed:
        await chat.say(SLOW)

    assert (failed.value.status, failed.value.code) == (504, "turn_timeout")
    last = (await chat.events())[-1]
    assert (last["type"], last["stop_reason"], last["code"]) == ("turn.failed", "timeout", "turn_timeout")
    assert await chat.say("quick") == "quick"


async def test_a_shutdown_gives_turns_their_grace_and_then_leaves_them_to_the_next_process(
    open_chat: Any, sessions: Any
) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    await until(follower, "message.delta")
    waiting = [turn.outcome for turn in sessions._runtime.turns.all()]

    await sessions._runtime.drain(timedelta(milliseconds=50))

    (left,) = [outcome.result() for outcome in waiting]
    assert (left.status, left.code) == ("failed", "shutting_down")
    await follower.close()
    assert (await chat.sessions.get_session(chat.session_id)).activity == "running"
    with pytest.raises(ShuttingDown):
        await chat.say("more")


async def test_a_shutdown_interrupts_a_turn_that_nobody_can_go_on_with(open_chat: Any, sessions: Any) -> None:
    chat = await open_chat(bundle_text(session={"orchestrator": from_folder("loop-metronome")}))
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    await until(follower, "message.delta")

    await sessions._runtime.drain(timedelta(milliseconds=50))

    seen = await until(follower, "done")
    await follower.close()
    assert (seen[-1].payload()["status"], seen[-1].payload()["stop_reason"]) == ("interrupted", "shutdown")


async def test_more_turns_than_the_server_may_run_are_refused(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(max_running_turns=1)
    first, second = await open_chat(manager=manager), await open_chat(manager=manager)
    follower = await manager.open_stream(first.session_id, SLOW)
    await until(follower, "turn.started")

    with pytest.raises(TooManyTurns):
        await second.say("hi")

    await manager.cancel(first.session_id)
    await follower.close()
    assert await second.say("hi") == "hi"
    assert [role for role, _ in await second.transcript()] == ["user", "assistant"]


async def test_deleting_a_session_stops_its_turn_ends_its_streams_and_removes_its_folder(
    open_chat: Any, options: Any
) -> None:
    chat = await open_chat()
    follower = await chat.sessions.open_stream(chat.session_id, SLOW)
    listener = await chat.sessions.follow(chat.session_id, after=0)
    await until(follower, "message.delta")
    folder = options.data_dir / "workspaces" / "default" / chat.session_id
    assert folder.is_dir()

    assert await chat.sessions.delete_session(chat.session_id) is True

    async with asyncio.timeout(5):
        while await listener.next_batch(1) != []:
            pass
    await follower.close()
    await listener.close()
    assert not folder.exists()
    assert await chat.sessions.get_session(chat.session_id) is None
    assert await chat.sessions.delete_session(chat.session_id) is False


@pytest.mark.parametrize(
    ("directive", "status", "code"),
    [
        ("[[error: status=401]]", 502, "provider_authentication"),
        ("[[error: status=429]]", 429, "provider_rate_limited"),
        ("[[error: status=400]]", 422, "provider_rejected"),
        ("[[error: status=503]]", 503, "provider_unavailable"),
        ("[[error: status=529]]", 503, "provider_unavailable"),
    ],
)
async def test_a_provider_that_refuses_fails_the_turn_with_a_code(
    open_chat: Any, directive: str, status: int, code: str
) -> None:
    chat = await open_chat()

    with pytest.raises(TurnFailure) as failed:
        await chat.say(directive)

    assert (failed.value.status, failed.value.code) == (status, code)
    session = await chat.sessions.get_session(chat.session_id)
    assert (session.status, session.activity) == ("active", "idle")
    last = (await chat.events())[-1]
    assert (last["type"], last["code"], last["stop_reason"]) == ("turn.failed", code, "error")
    assert await chat.say("go on") == "go on"


async def test_a_stream_that_breaks_in_the_middle_is_discarded_and_the_turn_fails(open_chat: Any) -> None:
    chat = await open_chat()

    events = await chat.stream("[[midstream: after=2]] [[text: a b c d]]")

    types = [event["type"] for event in events]
    assert types.count("message.delta") == 2
    assert "message.completed" not in types
    discarded = next(event for event in events if event["type"] == "message.discarded")
    assert discarded["request"] == 1
    assert types[-2:] == ["turn.failed", "error"]
    assert events[-1]["turn_id"] == discarded["turn_id"]
    assert await chat.transcript() == [("user", "[[midstream: after=2]] [[text: a b c d]]")]
    assert await chat.say("go on") == "go on"
