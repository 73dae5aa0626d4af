"""Reading stored rows, also those that no loop of ours has written."""

import asyncio
from typing import Any

import pytest

from amplifier_app_api.modules.orchestrators.messages import open_calls

OURS = {"id": "c1", "tool": "look", "arguments": {"x": 1}}
ANOTHERS = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}


def reply(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": [], "tool_calls": list(calls)}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], []),
        ([{"role": "user", "content": "hi"}], []),
        ([reply(OURS)], [("c1", "look", {"x": 1})]),
        ([reply(OURS), {"role": "tool", "tool_call_id": "c1", "content": "seen"}], []),
        ([reply(OURS), {"role": "assistant", "content": "so"}], []),
        ([reply(ANOTHERS)], [("c1", "look", {})]),
        ([reply({"tool": "look"}, {}, OURS)], [("c1", "look", {"x": 1})]),
        ([reply({"id": "c1", "tool": ""})], [("c1", "", {})]),
    ],
)
def test_calls_without_a_result_are_found(rows: list[dict[str, Any]], found: list[Any]) -> None:
    assert [(call.id, call.name, call.arguments) for call in open_calls(rows)] == found


async def test_a_turn_over_rows_of_another_shape_is_cancelled_like_any_other(open_chat: Any) -> None:

    chat = await open_chat(replies=["[[delay: ms=60000]]"])
    await chat.coordinator.get("context").set_messages([{"role": "user", "content": "hi"}, reply(ANOTHERS)])
    asked = asyncio.Event()
    chat.on("llm:request", lambda _: asked.set())
    task = await chat.start("[[delay: ms=60000]]")
    await asked.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert [row.get("content") for row in await chat.history() if row["role"] == "tool"] == ["cancelled by user"]


@pytest.mark.parametrize("content", [[{"type": "document", "title": "x"}], [{"type": "text"}], [{"type": "image"}]])
async def test_blocks_of_a_kind_that_nobody_knows_are_left_out_of_requests(
    open_chat: Any, content: list[dict[str, Any]]
) -> None:
    chat = await open_chat(replies=["first", "second"])
    said = [*content, {"type": "text", "text": "hi"}]
    before = [{"role": "user", "content": said}, {"role": "assistant", "content": content}]
    await chat.coordinator.get("context").set_messages(before)

    assert await chat.say("and now?") == "second"
    assert (await chat.history())[:2] == before
