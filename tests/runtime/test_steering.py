"""Messages for a turn that runs: its loop uses them, or they become the next turns."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.models.page import PageRequest
from runtime_bundles import bundle_text, from_folder
from runtime_faults import written_module

GATE = "[[tool: gate {}]] [[then: heard]]"

# The upstream loop's way: a queue of its own that outlives the turn, drained before each model call.
UPSTREAM_LIKE = """
import asyncio

__amplifier_module_type__ = "orchestrator"


class Loop:
    name = "written"

    def __init__(self):
        self.queue = asyncio.Queue()

    def steer(self, message):
        self.queue.put_nowait(message)

    async def execute(self, prompt, context, providers, tools, hooks, coordinator=None, **kwargs):
        await context.add_message({{"role": "user", "content": prompt}})
        while True:
            while not self.queue.empty():
                await context.add_message({{"role": "user", "content": self.queue.get_nowait()}})
            request = await _request(context)
            response = await next(iter(providers.values())).complete(request)
            text = "".join(block.text for block in response.content if hasattr(block, "text"))
            await context.add_message({{"role": "assistant", "content": text}})
            if {ends} or self.queue.empty():
                return text


async def _request(context):
    from amplifier_core import ChatRequest, Message

    rows = await context.get_messages_for_request()
    return ChatRequest(messages=[Message(role=row["role"], content=row["content"]) for row in rows])


async def mount(coordinator, config=None):
    loop = Loop()
    await coordinator.mount("orchestrator", loop)
    coordinator.register_capability("session.steer", loop.steer)
"""


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


async def steered(chat: Any, text: str, context: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await chat.sessions.send_message(chat.session_id, text, context, when_busy="steer")
    assert answer["status"] == "pending"
    return answer


async def all_ended(chat: Any, count: int) -> list[Any]:
    """The turns of a session, the first one first, once there are so many and all have ended."""
    listener = await chat.sessions.follow(chat.session_id, after=0)
    endings = 0
    async with asyncio.timeout(20):
        while endings < count:
            batch = await listener.next_batch(5) or []
            endings += sum(item.type in ("turn.completed", "turn.cancelled", "turn.failed") for item in batch)
    await listener.close()
    page = await chat.sessions.page_turns(chat.session_id, PageRequest(limit=200))
    return page.items[::-1]


async def test_a_loop_that_listens_uses_the_message_in_the_turn_that_runs(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=[GATE]))
    turn = await at_the_gate(chat)

    answer = await steered(chat, "and this", {"page": 1})
    let_go()

    assert await turn == "and this"
    rows = await chat.sessions.transcript(chat.session_id)
    assert [row.role for row in rows] == ["user", "assistant", "tool", "user", "assistant"]
    used = rows[3]
    assert (used.message_id, used.turn_id) == (answer["message_id"], answer["turn_id"])
    assert (used.content, used.context) == ("and this", {"page": 1})
    told = [event for event in await chat.events() if event["type"] == "message.user"]
    assert [(event["turn_id"], event["message_id"]) for event in told][1] == (used.turn_id, used.message_id)
    assert (await chat.sessions.get_session(chat.session_id)).message_count == 2
    assert [turn.number for turn in await all_ended(chat, 1)] == [1]


async def test_messages_of_one_moment_are_used_in_the_order_they_came(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=[GATE]))
    turn = await at_the_gate(chat)

    for text in ("one", "two", "two"):
        await steered(chat, text)
    let_go()
    await turn

    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["go", "one", "two", "two"]


async def test_what_a_loop_that_hears_nothing_leaves_becomes_the_next_turns_before_those_that_wait(
    open_chat: Any,
) -> None:
    session = {"orchestrator": from_folder("loop-stubborn")}
    chat = await open_chat(bundle_text(session=session))
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    turn = asyncio.create_task(chat.say("hold"))
    await asyncio.wait_for(loop.entered.wait(), 10)
    await chat.sessions.create_turn(chat.session_id, "queued", when_busy="queue")
    first, second = await steered(chat, "one"), await steered(chat, "two")

    await chat.sessions.cancel(chat.session_id)
    loop.release.set()
    await turn

    turns = await all_ended(chat, 4)
    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["hold", "one", "two", "queued"]
    assert [turn.message_id for turn in turns[2:]] == [first["message_id"], second["message_id"]]
    assert (await chat.sessions.get_session(chat.session_id)).message_count == 4
    events = await chat.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("ends", [False, True])
async def test_a_loop_with_a_queue_of_its_own_answers_every_message_once(
    open_chat: Any, tmp_path: Path, ends: bool
) -> None:
    orchestrator = written_module(tmp_path, "loop", UPSTREAM_LIKE.format(ends=ends))
    chat = await open_chat(bundle_text(session={"orchestrator": orchestrator}))
    follower = await chat.sessions.open_stream(chat.session_id, "[[slow: tokens=40 delay_ms=5]]")
    async with asyncio.timeout(10):
        while not any(item.type == "message.delta" for item in await follower.next_batch(5) or []):
            pass

    await steered(chat, "more")

    await all_ended(chat, 2 if ends else 1)
    await follower.close()
    assert await chat.say("last") == "last"
    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["[[slow: tokens=40 delay_ms=5]]", "more", "last"]


async def test_a_message_that_its_turn_never_used_is_found_by_the_next_process(
    open_chat: Any, make_sessions: Callable[..., SessionManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_sessions()
    chat = await open_chat(bundle_text(session={"orchestrator": from_folder("loop-stubborn")}), manager=first)
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    turn = asyncio.create_task(chat.say("hold"))
    await asyncio.wait_for(loop.entered.wait(), 10)
    first._runtime.dispatcher.stop()  # as if the process died right after the end of the turn
    await steered(chat, "still there?")
    await chat.sessions.cancel(chat.session_id)
    loop.release.set()
    await turn

    second = make_sessions()
    later = await chat.reopened(second)
    second._runtime.dispatch()

    turns = await all_ended(later, 2)
    assert [(turn.status, turn.response) for turn in turns][1] == ("completed", "heard still there?")


async def test_no_message_comes_between_a_turn_and_what_it_left(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    first = make_sessions()
    chat = await open_chat(bundle_text(session={"orchestrator": from_folder("loop-stubborn")}), manager=first)
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    turn = asyncio.create_task(chat.say("hold"))
    await asyncio.wait_for(loop.entered.wait(), 10)
    first._runtime.dispatcher.stop()
    await steered(chat, "left")
    await chat.sessions.cancel(chat.session_id)
    loop.release.set()
    await turn

    answer = await make_sessions().send_message(chat.session_id, "behind it", when_busy="queue")

    assert answer["response"] == "heard behind it"
    said = [content for role, content in await chat.transcript() if role == "user"]
    assert said == ["hold", "left", "behind it"]


async def test_closing_a_session_cancels_what_was_left_over_in_it_and_keeps_it_in_the_transcript(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    first = make_sessions()
    chat = await open_chat(bundle_text(session={"orchestrator": from_folder("loop-stubborn")}), manager=first)
    import amplifier_module_loop_stubborn as loop

    loop.reset()
    turn = asyncio.create_task(chat.say("hold"))
    await asyncio.wait_for(loop.entered.wait(), 10)
    first._runtime.dispatcher.stop()
    await steered(chat, "left")
    await chat.sessions.cancel(chat.session_id)
    loop.release.set()
    await turn
    await chat.sessions.patch_session(chat.session_id, {"status": "completed"})
    second = make_sessions()
    await second.resume_session(chat.session_id)

    assert (await second.send_message(chat.session_id, "new"))["response"] == "heard new"
    turns = await all_ended(await chat.reopened(second), 3)
    assert [turn.status for turn in turns] == ["cancelled", "cancelled", "completed"]
    rows = [row for row in await second.transcript(chat.session_id) if row.role == "user"]
    assert [(row.content, row.interrupted) for row in rows] == [("hold", False), ("left", True), ("new", False)]
