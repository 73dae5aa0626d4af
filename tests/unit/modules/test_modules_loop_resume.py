"""Loops that go on with a turn another process began, and that are told something while they run."""

import asyncio
from typing import Any

import pytest

from amplifier_app_api.modules.orchestrators.steering import LIMIT, Steering, SteeringFull

LOOPS = pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
CALLS = [{"id": "c1", "tool": "look", "arguments": {"at": 1}}, {"id": "c2", "tool": "look", "arguments": {"at": 2}}]
ASKED = {"role": "user", "content": "look"}
CALLED = {
    "role": "assistant",
    "content": [{"type": "tool_call", "id": call["id"], "name": "look", "input": call["arguments"]} for call in CALLS],
    "tool_calls": CALLS,
}


async def resumed(chat: Any, rows: list[dict[str, Any]], prompt: str = "look") -> str:
    coordinator = chat.coordinator
    context = coordinator.get("context")
    await context.set_messages(rows)
    return await chat.orchestrator.resume(
        prompt=prompt,
        context=context,
        providers=coordinator.get("providers"),
        tools=coordinator.get("tools"),
        hooks=coordinator.hooks,
        coordinator=coordinator,
    )


async def looks(chat: Any) -> list[int]:
    """The tool `look`; the places it is asked to look at, as they come."""
    places: list[int] = []

    async def look(arguments: dict[str, Any]) -> str:
        places.append(arguments["at"])
        return f"seen {arguments['at']}"

    await chat.add_tool("look", look)
    return places


@LOOPS
async def test_open_calls_are_made_first_and_nothing_is_submitted_again(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tools: look {} | look {}]] [[then: both]]"])
    places = await looks(chat)

    assert await resumed(chat, [ASKED, CALLED]) == "both"

    assert sorted(places) == [1, 2]
    assert chat.of("prompt:submit") == []
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "tool", "assistant"]
    assert chat.names("execution:start", "execution:end") == ["execution:start", "execution:end"]
    (complete,) = chat.of("orchestrator:complete")
    assert (complete["status"], complete["turn_count"]) == ("success", 2)


@LOOPS
async def test_of_a_round_only_what_has_no_result_is_made(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tools: look {} | look {}]] [[then: both]]"])
    places = await looks(chat)
    answer = {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "seen 1"}

    assert await resumed(chat, [ASKED, CALLED, answer]) == "both"

    assert places == [2]
    results = [row["content"] for row in await chat.history() if row["role"] == "tool"]
    assert results == ["seen 1", "seen 2"]


@LOOPS
async def test_a_model_that_had_not_answered_is_asked(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["earlier", "answer"])
    earlier = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "earlier"}]

    assert await resumed(chat, [*earlier, ASKED]) == "answer"

    assert [row["content"] for row in (await chat.history())[:3]] == ["before", "earlier", "look"]
    assert len(chat.of("provider:request")) == 1


@LOOPS
async def test_an_answer_that_was_complete_stands(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["other"])
    rows = [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "the answer"}]}]

    assert await resumed(chat, rows) == "the answer"

    assert chat.of("provider:request") == []
    assert len(await chat.history()) == 2


@LOOPS
async def test_rounds_before_count_against_the_limit(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, options={"max_iterations": 1}, replies=["[[tools: look {}]]"])
    places = await looks(chat)

    await resumed(chat, [ASKED, CALLED])

    assert sorted(places) == [1, 2]
    (complete,) = chat.of("orchestrator:complete")
    assert (complete["status"], complete["stop_reason"]) == ("incomplete", "max_iterations")
    assert chat.of("provider:request") == []


@LOOPS
async def test_what_is_said_while_tools_run_comes_before_the_next_model_call(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: unsteered]]", "steered"])
    injected: list[dict[str, Any]] = []
    chat.on("orchestrator:steering_injected", lambda data: injected.append(data))
    steer = chat.coordinator.get_capability("session.steer")

    async def look(_: dict[str, Any]) -> str:
        steer("rather left")
        steer("and quickly")
        return "seen"

    await chat.add_tool("look", look)

    assert await chat.say("look") == "and quickly"

    rows = await chat.history()
    assert [(row["role"], row["content"]) for row in rows if row["role"] == "user"] == [
        ("user", "look"),
        ("user", "rather left"),
        ("user", "and quickly"),
    ]
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "user", "user", "assistant"]
    assert [(data["content"], data["iteration"], data["queued_remaining"]) for data in injected] == [
        ("rather left", 1, 1),
        ("and quickly", 1, 0),
    ]


@LOOPS
async def test_what_is_said_while_the_last_answer_is_made_is_answered_too(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["first", "second"])
    steer = chat.coordinator.get_capability("session.steer")
    said = iter(["wait"])
    chat.on("llm:request", lambda _: next((steer(text) for text in said), None))

    assert await chat.say("go") == "second"

    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "user", "assistant"]


@LOOPS
async def test_what_a_turn_did_not_take_is_not_for_the_next_one(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["one", "two"])
    await chat.say("a")
    chat.coordinator.get_capability("session.steer")("too late")

    assert await chat.say("b") == "two"

    assert "too late" not in [row["content"] for row in await chat.history()]


def test_a_message_that_cannot_be_held_is_refused_aloud() -> None:
    steering = Steering()
    for number in range(LIMIT):
        steering.steer(f"message {number}")

    with pytest.raises(SteeringFull):
        steering.steer("one more")
    with pytest.raises(ValueError, match="empty"):
        Steering().steer(" \n")
    assert (len(steering), steering.take()) == (LIMIT, "message 0")


@LOOPS
async def test_a_loop_that_is_stopped_while_it_goes_on_answers_the_open_calls(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop)
    begun = asyncio.Event()

    async def look(_: dict[str, Any]) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    await chat.add_tool("look", look)
    task = asyncio.create_task(resumed(chat, [ASKED, CALLED]))
    async with asyncio.timeout(5):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    results = [(row["tool_call_id"], row["content"]) for row in await chat.history() if row["role"] == "tool"]
    assert results == [("c1", "cancelled by user"), ("c2", "cancelled by user")]
