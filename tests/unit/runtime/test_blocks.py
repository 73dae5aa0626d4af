"""The blocks of an answer."""

from typing import Any

from amplifier_app_api.runtime.blocks import ModelCall, blocks_of, numbered

CALL = {"type": "tool_use", "tool_use": {"id": "c1", "name": "look", "input": {"a": 1}}}


def test_a_text_is_one_block_and_an_empty_one_none() -> None:
    assert blocks_of({"content": "hi"}) == [{"type": "text", "text": "hi"}]
    assert blocks_of({"content": ""}) == []
    assert blocks_of({"content": None}) == []


def test_a_call_that_stands_in_the_content_and_beside_it_is_one() -> None:
    content = [{"type": "tool_call", "id": "c1", "name": "look", "input": {"a": 1}}]
    message = {"content": content, "tool_calls": [{"id": "c1", "tool": "look", "arguments": {"a": 1}}]}

    assert blocks_of(message) == [CALL]
    assert blocks_of({"content": "", "tool_calls": message["tool_calls"]}) == [CALL]


def test_blocks_that_mean_nothing_here_are_left_out() -> None:
    content: list[Any] = [{"type": "image"}, "text", {"type": "thinking", "thinking": "hm"}]

    assert blocks_of({"content": content}) == [{"type": "thinking", "text": "hm"}]


def test_half_a_character_is_replaced_so_that_offsets_stay() -> None:
    assert blocks_of({"content": "a\ud800b"}) == [{"type": "text", "text": "a\ufffdb"}]


def test_blocks_get_the_numbers_their_deltas_had_and_new_ones_follow() -> None:
    call = ModelCall(request=1)
    call.block("t", "text").parts.append("second")
    call.block("u", "tool_use", "look")
    whole = [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "second"}, CALL]

    assert [block["block"] for block in numbered(whole, call)] == [2, 0, 1]


def test_two_blocks_of_the_same_text_have_two_numbers() -> None:
    call = ModelCall(request=1)
    for key in "ab":
        call.block(key, "text").parts.append("same")

    assert [block["block"] for block in numbered([{"type": "text", "text": "same"}] * 2, call)] == [0, 1]


def test_what_was_streamed_is_the_text_without_the_thinking() -> None:
    call = ModelCall(request=1)
    call.block(0, "thinking").parts.append("hm")
    call.block(1, "text").parts += ["a", "b"]

    assert call.streamed_text == "ab"
