from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.modules.contexts.compaction import Compaction, Limits, compact
from amplifier_app_api.modules.contexts.tokens import estimate_message

Message = dict[str, Any]


def exchange(number: int, rounds: int, size: int) -> list[Message]:
    """A user's message, `rounds` replies with two calls each, and an answer."""
    made: list[Message] = [{"role": "user", "content": f"question {number}"}]
    for step in range(rounds):
        ids = [f"c{number}.{step}.{n}" for n in range(2)]
        calls = [{"type": "tool_call", "id": call, "name": "look", "input": {}} for call in ids]
        made.append({"role": "assistant", "content": calls})
        made += [{"role": "tool", "tool_call_id": call, "content": "x" * size} for call in ids]
    return [*made, {"role": "assistant", "content": [{"type": "text", "text": f"answer {number}"}]}]


def compacted(messages: list[Message], *, budget: int, target: int, recent: int = 0, results: int = 0) -> Compaction:
    sizes = [estimate_message(message) for message in messages]
    return compact(messages, sizes, Limits(budget, target, recent, results, truncate_chars=20))


def test_old_tool_results_are_shortened_first() -> None:
    messages = [*exchange(1, 1, 4_000), *exchange(2, 0, 0)]

    made = compacted(messages, budget=2_000, target=1_500)

    assert (made.level, made.removed, made.truncated) == (1, 0, 1)
    assert made.messages[2]["content"] == "x" * 20 + "\n[3980 more characters left out to make room]"
    assert made.messages[3] == messages[3]
    assert messages[2]["content"] == "x" * 4_000


def test_the_latest_tool_results_keep_their_text() -> None:
    made = compacted([*exchange(1, 1, 4_000)], budget=2_000, target=1_500, results=1)

    assert [len(message["content"]) > 4_000 - 1 for message in made.messages if message["role"] == "tool"] == [
        False,
        True,
    ]


def test_then_whole_old_exchanges_go() -> None:
    messages = [message for number in range(10) for message in exchange(number, 0, 0)]

    made = compacted(messages, budget=60, target=40, recent=20)

    assert made.level == 2
    assert made.messages == messages[-len(made.messages) :]
    assert made.tokens <= 40


def test_system_messages_and_the_latest_question_stay_whatever_the_budget() -> None:
    messages = [{"role": "system", "content": "rules"}, *exchange(1, 2, 100), *exchange(2, 2, 100)]

    made = compacted(messages, budget=1, target=1)

    contents = [message["content"] for message in made.messages if message["role"] in ("system", "user")]
    assert contents == ["rules", "question 2"]


@given(
    shape=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 600)), min_size=1, max_size=8),
    target=st.integers(1, 3_000),
    recent=st.integers(0, 500),
    results=st.integers(0, 5),
)
def test_what_is_left_is_always_a_valid_conversation(
    shape: list[tuple[int, int]], target: int, recent: int, results: int
) -> None:
    messages = [message for n, (rounds, size) in enumerate(shape) for message in exchange(n, rounds, size)]

    made = compacted(messages, budget=target * 2, target=target, recent=recent, results=results)

    asked: set[str] = set()
    answered: set[str] = set()
    for message in made.messages:
        if message["role"] == "assistant":
            assert asked == answered
            asked |= {block["id"] for block in message["content"] if block["type"] == "tool_call"}
        if message["role"] == "tool":
            answered.add(message["tool_call_id"])
    assert asked == answered
    assert made.messages[0]["role"] == "user"
    assert made.tokens == sum(estimate_message(message) for message in made.messages)
    assert made.removed == len(messages) - len(made.messages)


def test_results_of_the_latest_reply_are_cut_rather_than_nothing_be_asked() -> None:
    messages = exchange(1, 1, 40_000)[:-1]

    made = compacted(messages, budget=12_000, target=6_000, recent=4_000, results=5)

    first, second = [message["content"] for message in made.messages if message["role"] == "tool"]
    assert (made.level, made.removed, made.truncated) == (4, 0, 2)
    assert made.tokens <= 12_000
    assert len(first) < 100
    assert 30_000 < len(second) < 40_000
    assert second.endswith("more characters left out to make room]")


def test_results_that_fit_are_not_cut() -> None:
    messages = exchange(1, 1, 20_000)[:-1]

    made = compacted(messages, budget=12_000, target=6_000, recent=4_000, results=5)

    assert made.messages == messages
