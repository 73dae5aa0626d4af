"""A conversation's steps, in the order that model APIs insist on."""

from typing import Any

import pytest
from amplifier_core.message_models import Message

from amplifier_app_api.modules.providers.conversation import calls_of, repairs_of, steps_of


def rows(*given: Any) -> list[Message]:
    return [Message.model_validate(row) for row in given]


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def asked(*ids: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_call", "id": call_id, "name": "look", "input": {"at": call_id}} for call_id in ids],
        "tool_calls": [{"id": call_id, "tool": "look", "arguments": {"at": call_id}} for call_id in ids],
    }


def test_what_stands_in_front_is_the_system_and_later_instructions_are_asides() -> None:
    given = rows(said("system", "a"), said("developer", "b"), said("user", "c"), said("system", "d"))

    assert [step.kind for step in steps_of(given)] == ["system", "system", "user", "aside"]


def test_results_follow_their_calls_at_once_whatever_came_between() -> None:
    given = rows(
        said("user", "go"),
        asked("c1", "c2"),
        said("user", "meanwhile"),
        said("tool", "two", tool_call_id="c2"),
        said("tool", "one", tool_call_id="c1"),
        said("assistant", "done"),
    )

    steps = list(steps_of(given))

    assert [step.kind for step in steps] == ["user", "reply", "results", "user", "reply"]
    results = steps[2]
    assert [call.id for call in results.calls] == ["c1", "c2"]
    assert results.results is not None
    assert [results.results[call.id].content for call in results.calls] == ["one", "two"]
    assert repairs_of(results) == []


def test_a_call_without_a_result_before_the_next_reply_is_a_repair() -> None:
    given = rows(
        asked("c1", "c2"), said("tool", "one", tool_call_id="c1"), asked("c3"), said("tool", "late", tool_call_id="c2")
    )

    steps = [step for step in steps_of(given) if step.kind == "results"]

    assert [repairs_of(step) for step in steps] == [
        [{"tool_call_id": "c2", "tool_name": "look"}],
        [{"tool_call_id": "c3", "tool_name": "look"}],
    ]


def test_a_result_that_nothing_asked_for_is_left_out() -> None:
    given = rows(said("user", "go"), said("tool", "one", tool_call_id="c1"))

    assert [step.kind for step in steps_of(given)] == ["user"]


@pytest.mark.parametrize(
    "told",
    [
        {"id": "c1", "tool": "look", "arguments": {"at": 1}},
        {"id": "c1", "name": "look", "arguments": {"at": 1}},
        {"id": "c1", "name": "look", "arguments": '{"at": 1}'},
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
    ],
)
def test_calls_are_read_in_the_spellings_of_all_loops(told: dict[str, Any]) -> None:
    [message] = rows({"role": "assistant", "content": "", "tool_calls": [told]})

    [call] = calls_of(message)

    assert (call.id, call.name, call.arguments) == ("c1", "look", {"at": 1})


@pytest.mark.parametrize("arguments", [None, "", "[1]", "{broken", 7])
def test_arguments_that_are_no_object_are_an_empty_one(arguments: Any) -> None:
    [message] = rows(
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "tool": "t", "arguments": arguments}]}
    )

    assert [call.arguments for call in calls_of(message)] == [{}]


def test_a_call_that_is_told_twice_is_one() -> None:
    [message] = rows(asked("c1", "c2"))

    assert [call.id for call in calls_of(message)] == ["c1", "c2"]
