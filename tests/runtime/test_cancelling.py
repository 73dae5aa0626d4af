"""A cancel at every phase of a turn: it is over at once, keeps what was said, and leaves nothing behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from amplifier_app_api.storage.messages import kernel_transcript
from doubles.fake_llm import FakeLLM
from histories import refused_by_anthropic, refused_by_openai
from runtime_bundles import bundle_text, from_folder

AT_ONCE = 2.0
"""Seconds that a cancel may take on a loaded machine; the tools and models below would take minutes."""


def anthropic(llm: FakeLLM, **parts: Any) -> str:
    config = {"api_key": "test", "base_url": llm.url, "model": "claude-opus-4-5", "max_retries": 0}
    return bundle_text(provider={"module": "provider-anthropic", "config": config}, **parts)


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    """The model double, which keeps the requests it got."""
    with FakeLLM(record=10) as double:
        yield double


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """After the test no task is there that was not there before it."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(10):
        while left := [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]:
            await asyncio.wait(left)


def live_of(chat: Any) -> Any:
    return chat.sessions._runtime._live.get(chat.session_id, within="default")


async def begin(chat: Any, text: str = "go") -> Any:
    return await chat.sessions.open_stream(chat.session_id, text)


async def until(follower: Any, kind: str) -> None:
    seen: list[str] = []
    async with asyncio.timeout(10):
        while kind not in seen:
            batch = await follower.next_batch(5)
            assert batch != [], f"the stream ended with {seen[-3:]}"
            seen += [item.type for item in batch or ()]


async def cancel(chat: Any, follower: Any) -> dict[str, Any]:
    """Cancel, and the terminal event of the turn."""
    began = time.monotonic()
    answer = await chat.sessions.cancel(chat.session_id)
    assert time.monotonic() - began < AT_ONCE
    assert answer["status"] == "cancelled"
    await follower.close()
    last = (await chat.events())[-1]
    assert (last["type"], last["stop_reason"]) == ("turn.cancelled", "user_cancel")
    return last


async def accepted_by_openai(chat: Any) -> None:
    _, messages = await chat.sessions._db.read(kernel_transcript, chat.session_id, within="default")
    assert refused_by_openai(messages) == []


async def accepted_by_anthropic(chat: Any, llm: FakeLLM) -> None:
    """The next turn's request, as the double got it."""
    await chat.say("[[text: still here]]")
    assert refused_by_anthropic(llm.recorded()[-1]["body"]["messages"]) == []


async def test_while_the_model_is_silent(open_chat: Any, llm: FakeLLM) -> None:
    chat = await open_chat(anthropic(llm))
    follower = await begin(chat, "[[delay: ms=2000]] [[text: too late]]")
    await until(follower, "turn.started")
    assert await asyncio.to_thread(llm.wait_for_request) == 1

    ended = await cancel(chat, follower)

    assert ended["response"] is None
    assert llm.wait_for_abort() == 1
    await accepted_by_openai(chat)
    await accepted_by_anthropic(chat, llm)


async def test_while_the_model_speaks(open_chat: Any, llm: FakeLLM) -> None:
    chat = await open_chat(anthropic(llm))
    follower = await begin(chat, "[[slow: tokens=5000 delay_ms=10]]")
    await until(follower, "message.delta")

    ended = await cancel(chat, follower)

    assert ended["response"]
    message = (await chat.sessions.transcript(chat.session_id))[-1]
    assert (message.role, message.interrupted, message.content[0]["text"]) == ("assistant", True, ended["response"])
    assert llm.wait_for_abort() == 1
    await accepted_by_openai(chat)
    await accepted_by_anthropic(chat, llm)


async def test_while_a_tool_runs(open_chat: Any, llm: FakeLLM) -> None:
    chat = await open_chat(anthropic(llm, tools=[from_folder("tool-gate"), from_folder("tool-compass")]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    text = '[[say: I look]] [[tools: gate {} | compass {"of": "east"} | gate {}]] [[then: never]]'
    follower = await begin(chat, text)
    await until(follower, "tool.completed")  # of the compass
    await asyncio.wait_for(gate.entered.wait(), 10)

    await cancel(chat, follower)

    await accepted_by_openai(chat)
    await accepted_by_anthropic(chat, llm)


async def test_while_a_person_is_asked(open_chat: Any, llm: FakeLLM) -> None:
    chat = await open_chat(anthropic(llm, tools=[from_folder("tool-compass")], hooks=[from_folder("hooks-doorman")]))
    follower = await begin(chat, '[[tool: compass {"of": "east"}]] [[then: never]]')
    await until(follower, "approval.requested")

    await cancel(chat, follower)

    await accepted_by_openai(chat)
    await accepted_by_anthropic(chat, llm)


async def test_nothing_is_left_of_a_cancelled_turn(open_chat: Any, llm: FakeLLM, nothing_left: None) -> None:
    hooks = [from_folder("hooks-doorman", tools=["compass"])]
    tools = [from_folder("tool-gate"), from_folder("tool-compass")]
    chat = await open_chat(anthropic(llm, tools=tools, hooks=hooks))
    import amplifier_module_tool_gate as gate

    gate.reset()
    live = live_of(chat)
    coordinator = live.opened.kernel.session.coordinator
    follower = await begin(chat, '[[tools: gate {} | compass {"of": "east"}]] [[then: never]]')
    await until(follower, "approval.requested")
    await asyncio.wait_for(gate.entered.wait(), 10)

    await cancel(chat, follower)

    await asyncio.wait_for(asyncio.shield(live.runner), 10)
    assert not any(coordinator.hooks.list_handlers().values())
    assert coordinator.approval_system is None


async def test_a_tool_that_holds_on_is_left_behind_and_the_next_message_does_not_wait(
    open_chat: Any, nothing_left: None
) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-limpet")], replies=["[[tool: limpet {}]]"]))
    import amplifier_module_tool_limpet as limpet

    limpet.reset()
    follower = await begin(chat)
    await asyncio.wait_for(limpet.entered.wait(), 10)

    await cancel(chat, follower)

    began = time.monotonic()
    assert await chat.say("next") == "next"
    assert time.monotonic() - began < AT_ONCE
    before = await chat.events()
    limpet.release.set()
    await chat.say("another")
    late = [event for event in (await chat.events())[len(before) :] if event["type"].startswith("tool.")]
    assert late == []
    await accepted_by_openai(chat)


async def test_a_loop_that_holds_on_is_abandoned(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(session={"orchestrator": from_folder("loop-stubborn")}))
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    follower = await begin(chat, "hold")
    await asyncio.wait_for(loop.entered.wait(), 10)
    live = live_of(chat)
    turn, kernel, runner = live.turn, live.opened.kernel, live.runner

    await cancel(chat, follower)

    await asyncio.wait_for(turn.abandoned.wait(), 10)
    assert await chat.say("next") == "heard next"
    assert live_of(chat).opened.kernel is not kernel
    assert not runner.done()
    loop.release.set()
    await asyncio.wait_for(asyncio.shield(runner), 10)
    assert kernel._closed
    assert loop.refused == ["TurnOver"]


async def test_a_cancel_twice_at_once_is_one_cancel(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(replies=["[[slow: tokens=5000 delay_ms=10]]"]))
    follower = await begin(chat)
    await until(follower, "message.delta")

    answers = await asyncio.gather(*(chat.sessions.cancel(chat.session_id) for _ in range(5)))

    await follower.close()
    assert {answer["status"] for answer in answers} <= {"cancelled", None}
    assert [event["type"] for event in await chat.events()].count("turn.cancelled") == 1
