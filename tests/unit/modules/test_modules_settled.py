"""A reply is made such that it can be shown, stored and sent again, whatever the model wrote."""

import json
from typing import Any

import pytest
from amplifier_core.message_models import ChatResponse, TextBlock, ThinkingBlock, ToolCallBlock

from amplifier_app_api.modules.kernel import whole_letters
from amplifier_app_api.modules.providers.settled import DEEPEST, settled
from amplifier_app_api.modules.providers.wire import AttemptStream
from provider_talk import Hooks

HALF, OTHER_HALF = "\ud83d", "\ude00"


def call(call_id: str, **arguments: Any) -> ToolCallBlock:
    return ToolCallBlock(id=call_id, name="look", input=arguments)


def nested(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"in": made}
    return made


def test_calls_under_one_id_or_none_get_one_each() -> None:
    made = settled(ChatResponse(content=[call("c", x=1), call("c", x=2), call("", x=3)]))

    ids = [one.id for one in made.tool_calls or []]
    assert ids[0] == "c"
    assert (len(set(ids)), all(ids)) == (3, True)
    assert [block.id for block in made.content] == ids
    assert [one.arguments for one in made.tool_calls or []] == [{"x": 1}, {"x": 2}, {"x": 3}]


@pytest.mark.parametrize(
    ("text", "whole"),
    [("plain", "plain"), ("größer", "größer"), (f"a{HALF}", "a\ufffd"), (f"{HALF}{OTHER_HALF}!", "😀!")],
)
def test_halves_of_letters_are_joined_or_marked(text: str, whole: str) -> None:
    made = settled(
        ChatResponse(content=[ThinkingBlock(thinking=text), TextBlock(text=text), call("c", **{text: [text]})])
    )

    assert (made.content[0].thinking, made.content[1].text) == (whole, whole)
    assert made.tool_calls is not None
    assert made.tool_calls[0].arguments == made.content[2].input == {whole: [whole]}
    assert whole_letters(text) == whole


async def test_half_a_letter_is_shown_as_a_mark() -> None:
    hooks = Hooks()
    stream = AttemptStream(hooks)
    await stream.start(0, "text")
    await stream.delta(0, f"a{HALF}")

    assert hooks.streamed("text") == "a\ufffd"


def test_numbers_that_are_none_go_as_texts() -> None:
    made = settled(ChatResponse(content=[call("c", x=float("inf"), y=[float("nan")], z=1.5)]))

    assert made.content[0].input == {"x": "inf", "y": ["nan"], "z": 1.5}


def test_arguments_may_be_nested_but_not_without_end() -> None:
    kept = nested(DEEPEST)

    assert settled(ChatResponse(content=[call("c", **kept)])).content[0].input == kept
    with pytest.raises(ValueError, match="nested too deep"):
        settled(ChatResponse(content=[call("c", **nested(DEEPEST + 1))]))


async def test_arguments_as_deep_as_allowed_pass_the_kernel(open_chat: Any) -> None:
    deep = nested(DEEPEST)
    chat = await open_chat(replies=[f"[[tool: look {json.dumps(deep)}]][[then: done]]"])
    got: list[Any] = []

    async def look(arguments: dict[str, Any]) -> str:
        got.append(arguments)
        return "seen"

    await chat.add_tool("look", look)

    assert await chat.say("go") == "done"
    assert got == [deep]
