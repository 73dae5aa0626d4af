"""What `provider-scripted` does beside the directives that it shares with `fake_llm.py`."""

import asyncio
from typing import Any

import pytest
from amplifier_core.llm_errors import InvalidRequestError
from amplifier_core.message_models import ChatRequest, Message
from amplifier_core.testing import EventRecorder

from amplifier_app_api.modules.providers.scripted import ScriptedOptions, ScriptedProvider


def a_provider(hooks: Any = None, **options: Any) -> ScriptedProvider:
    return ScriptedProvider(ScriptedOptions.read(options), hooks)


def request(*rows: Any, **fields: Any) -> ChatRequest:
    """Rows are dicts, or texts: the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    made = [row if isinstance(row, dict) else {"role": roles[n % 2], "content": row} for n, row in enumerate(rows)]
    return ChatRequest(messages=[Message.model_validate(row) for row in made], **fields)


async def text(provider: ScriptedProvider, *rows: Any) -> str:
    response = await provider.complete(request(*rows))
    return "".join(block.text for block in response.content if block.type == "text")


@pytest.mark.parametrize("said", ["hello  world", " spaces around \n", "line\nline", "[[not a directive]]"])
async def test_without_a_script_the_users_text_comes_back_to_the_letter(said: str) -> None:
    assert await text(a_provider(), said) == said


async def test_the_context_of_a_message_is_not_repeated() -> None:
    said = '<message-context>{"page": "[[text: no]]"}</message-context>\n\nhello'

    assert await text(a_provider(), said) == "hello"


async def test_reply_n_answers_the_nth_message_and_then_the_text_comes_back() -> None:
    provider = a_provider(replies=["one", "two"])

    assert await text(provider, "a") == "one"
    assert await text(provider, "a", "one", "b") == "two"
    assert await text(provider, "a", "one", "b", "two", "c") == "c"


async def test_a_reply_plays_the_whole_turn_on_a_provider_that_never_saw_its_start() -> None:
    script = '[[tool: look {"at": "it"}]] [[usage: output=9]] It is there.'
    first = await a_provider(replies=["hi", script]).complete(request("hello", "hi", "look"))
    [call] = first.tool_calls or []
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": call.id, "name": "look", "input": {}}]}
    seen = {"role": "tool", "tool_call_id": call.id, "content": "seen"}
    nudge = {"role": "user", "content": "be brief", "metadata": {"source": "hook"}}

    assert await text(a_provider(replies=["hi", script]), "hello", "hi", "look", asked, seen, nudge) == "It is there."


async def test_directives_in_the_message_win_over_replies() -> None:
    assert await text(a_provider(replies=["reply"]), "[[text: directive]]") == "directive"


async def test_directives_without_an_answer_repeat_what_is_around_them() -> None:
    assert await text(a_provider(), "[[usage: input=5]] hi") == "echo: hi"


async def test_the_options_tokens_and_delay_shape_every_answer() -> None:
    hooks = EventRecorder()

    assert await text(a_provider(hooks, tokens=3, delay_ms=1), "hi") == "w0 w1 w2"
    deltas = [data for event, data in hooks.events if event == "llm:stream_block_delta"]
    assert [(delta["sequence"], delta["text"]) for delta in deltas] == [(0, "w0"), (1, " w1"), (2, " w2")]
    assert await text(a_provider(tokens=3), "[[text: directive]]") == "directive"


async def test_an_unpaced_answer_lets_others_run() -> None:
    provider = a_provider(EventRecorder(), tokens=1_000)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await text(provider, "hi")
    task.cancel()

    assert turns > 50


async def test_a_request_that_is_not_to_be_streamed_shows_nothing() -> None:
    hooks = EventRecorder()

    await a_provider(hooks).complete(request("hi", metadata={"stream": False}))

    assert [event for event, _ in hooks.events] == ["llm:request", "llm:response"]


async def test_usage_is_counted_in_words_when_nothing_is_said() -> None:
    response = await a_provider().complete(request("[[think: a b]][[text: one two three]]"))

    assert response.usage is not None
    assert (response.usage.output_tokens, response.usage.reasoning_tokens) == (5, 2)
    assert response.usage.total_tokens == response.usage.input_tokens + 5


async def test_a_directive_that_cannot_be_read_is_a_refused_request() -> None:
    hooks = EventRecorder()

    with pytest.raises(InvalidRequestError, match=r"\[\[slow: ...\]\] cannot be read"):
        await text(a_provider(hooks), "[[slow: tokens=many]]")
    assert [event for event, _ in hooks.events] == ["llm:request", "llm:response"]


async def test_each_attempt_that_is_given_up_is_told() -> None:
    hooks = EventRecorder()

    assert await text(a_provider(hooks), "[[error: status=503 times=1]] [[text: ok]]") == "ok"
    [retry] = [data for event, data in hooks.events if event == "provider:retry"]
    assert retry == {
        "provider": "scripted",
        "model": "scripted",
        "attempt": 1,
        "max_retries": 5,
        "delay": 0.0,
        "error_type": "ProviderUnavailableError",
        "error_message": "scripted 503",
    }
