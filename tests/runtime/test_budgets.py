"""What a turn may use: its own budget, its session's, its tenant's for the day."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.usage import UsageReports
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.budget import QuotaExceeded
from runtime_bundles import bundle_text, from_folder

LOOKS = '[[tool: compass {"of": "east"}]]'
ENDLESS = bundle_text(tools=[from_folder("tool-compass")], replies=[f"{LOOKS} " * 20 + "[[then: done]]"] * 3)


async def ended(chat: Any, text: str = "go", **kwargs: Any) -> dict[str, Any]:
    """The terminal event of a turn."""
    await chat.sessions.send_message(chat.session_id, text, **kwargs)
    return (await chat.events())[-1]


async def test_a_budget_of_iterations_ends_the_turn_before_the_next_model_call(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(ENDLESS, manager=make_sessions(turn_budget=Budget(iterations=3)))

    last = await ended(chat)

    assert (last["type"], last["stop_reason"]) == ("turn.completed", "budget")
    assert [role for role, _ in await chat.transcript()] == ["user"] + ["assistant", "tool"] * 3
    session = await chat.sessions.get_session(chat.session_id)
    assert (session.status, session.activity) == ("active", "idle")


async def test_a_budget_of_tool_calls_refuses_the_next_one_and_ends_the_turn(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(ENDLESS, manager=make_sessions(turn_budget=Budget(tool_calls=2)))

    last = await ended(chat)

    assert (last["type"], last["stop_reason"]) == ("turn.completed", "budget")
    events = await chat.events()
    assert sum(event["type"] == "tool.started" for event in events) == 2
    results = [content for role, content in await chat.transcript() if role == "tool"]
    assert len(results) == 3
    assert results[2] == "This call was not made: the budget of the turn is used up (tool_calls)."


async def test_a_budget_of_tokens_counts_what_was_not_read_from_a_cache(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    usage = "[[usage: input=100 output=10 cache_read=900]]"
    replies = [f"{usage} {LOOKS} {LOOKS} {LOOKS} [[then: done]]"]
    text = bundle_text(tools=[from_folder("tool-compass")], replies=replies)
    chat = await open_chat(text, manager=make_sessions(turn_budget=Budget(tokens=200)))

    last = await ended(chat)

    assert last["stop_reason"] == "budget"
    assert sum(event["type"] == "tool.started" for event in await chat.events()) == 1


async def test_a_budget_of_seconds_ends_the_turn_in_the_middle_of_a_sentence(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(turn_budget=Budget(seconds=0.3))
    chat = await open_chat(bundle_text(replies=["[[slow: tokens=5000 delay_ms=10]]"]), manager=manager)

    last = await ended(chat)

    assert (last["type"], last["stop_reason"]) == ("turn.completed", "budget")
    assert last["response"].startswith("w0 ")
    message = (await chat.sessions.transcript(chat.session_id))[-1]
    assert (message.interrupted, message.content[0]["text"]) == (True, last["response"])


async def test_the_answer_of_a_turn_that_ran_out_is_what_was_said_last(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    replies = [f"[[say: I look around]] {LOOKS} {LOOKS} [[then: done]]"]
    text = bundle_text(tools=[from_folder("tool-compass")], replies=replies)
    chat = await open_chat(text, manager=make_sessions(turn_budget=Budget(iterations=1)))

    assert (await ended(chat))["response"] == "I look around"


async def test_of_two_budgets_the_smaller_one_counts(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(ENDLESS, manager=make_sessions(turn_budget=Budget(iterations=4)))

    for wanted, made in ((Budget(iterations=2), 2), (Budget(iterations=9), 4)):
        before = len(await chat.transcript())
        last = await ended(chat, budget=wanted)
        assert last["stop_reason"] == "budget"
        assert [role for role, _ in (await chat.transcript())[before:]].count("assistant") == made


async def test_a_session_whose_budget_is_used_up_takes_no_more_messages(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(bundle_text(), manager=make_sessions(), budget=Budget(iterations=2))
    assert await chat.say("one") == "one"
    assert await chat.say("two") == "two"

    with pytest.raises(QuotaExceeded) as refused:
        await chat.say("three")

    assert refused.value.facts == {"budget": "session", "bound": "iterations"}
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant"] * 2
    session = await chat.sessions.get_session(chat.session_id)
    assert (session.activity, session.message_count) == ("idle", 2)


async def test_a_tenant_has_a_budget_for_the_day_over_all_its_sessions(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(tenant_budget=Budget(iterations=3))
    first, second = await open_chat(manager=manager), await open_chat(manager=manager)
    await first.say("one")
    await second.say("two")
    await first.say("three")

    with pytest.raises(QuotaExceeded) as refused:
        await second.say("four")

    assert refused.value.facts == {"budget": "tenant", "bound": "iterations"}
    later = await first.reopened(make_sessions(tenant_budget=Budget(iterations=3)))
    with pytest.raises(QuotaExceeded):
        await later.say("after a restart")


async def test_turns_that_run_side_by_side_share_what_is_left_of_the_day(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(tenant_budget=Budget(iterations=6))
    chats = [await open_chat(ENDLESS, manager=manager) for _ in range(3)]

    last = await asyncio.gather(*(ended(chat) for chat in chats))

    assert {event["stop_reason"] for event in last} == {"budget"}
    made = [role for chat in chats for role, _ in await chat.transcript()].count("assistant")
    assert made == 6


async def test_usage_is_added_up_by_day(open_chat: Any, db: Any) -> None:
    usage = "[[usage: input=100 output=10 cache_read=40 cache_write=5]]"
    text = bundle_text(tools=[from_folder("tool-compass")], replies=[f"{usage} {LOOKS} [[then: done]]"])
    chat = await open_chat(text)
    await chat.say("go")
    other = await open_chat(bundle_text())
    await other.say("hello")

    [day] = await UsageReports(db).days()

    assert (day.turns, day.tool_calls, day.iterations) == (2, 1, 3)
    session = await chat.sessions.get_session(chat.session_id)
    more = await chat.sessions.get_session(other.session_id)
    assert day.input_tokens == session.usage.input_tokens + more.usage.input_tokens
    assert day.cache_read_tokens == 80
    assert day.seconds < 60
    assert await UsageReports(db).days(day.day - timedelta(days=9), day.day - timedelta(days=1)) == []


async def test_costs_are_exact(open_chat: Any, make_sessions: Callable[..., SessionManager], db: Any) -> None:
    provider = from_folder("provider-miser", cost_usd="0.10")
    tools = [from_folder("tool-compass")]
    manager = make_sessions(turn_budget=Budget(cost_usd=Decimal("0.30")))
    chat = await open_chat(bundle_text(provider=provider, tools=tools), manager=manager)

    last = await ended(chat)

    assert (last["stop_reason"], last["usage"]["cost_usd"]) == ("budget", "0.30")
    assert sum(event["type"] == "tool.started" for event in await chat.events()) == 2
    [day] = await UsageReports(db).days()
    assert day.cost_usd == "0.3"


async def test_a_loop_that_takes_no_for_nothing_is_ended_all_the_same(
    open_chat: Any, make_sessions: Callable[..., SessionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amplifier_app_api.runtime.turn.UNWIND_SECONDS", 0.0)
    text = bundle_text(session={"orchestrator": from_folder("loop-deaf")})
    chat = await open_chat(text, manager=make_sessions(turn_budget=Budget(iterations=2)))

    last = await ended(chat)

    assert (last["type"], last["stop_reason"]) == ("turn.completed", "budget")
