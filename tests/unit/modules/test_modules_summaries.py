"""Room that was made stays made, and in the summarizing mode the model writes down what it no longer sees."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from amplifier_core.llm_errors import ProviderUnavailableError
from amplifier_core.message_models import ChatRequest, ChatResponse, TextBlock
from amplifier_core.models import ProviderInfo
from amplifier_core.testing import EventRecorder

from amplifier_app_api.modules.contexts import compaction, summary
from amplifier_app_api.modules.contexts.simple import ContextOptions, SimpleContext
from amplifier_app_api.modules.contexts.summary import summarize
from amplifier_app_api.modules.kernel import ConfigurationError


class Summarizer:
    """A provider with a small window that answers every request with the next text."""

    def __init__(self, *texts: str | Exception, window: int = 8_000) -> None:
        self._texts = list(texts)
        self._window = window
        self.asked: list[ChatRequest] = []

    def get_info(self) -> ProviderInfo:
        window = {"context_window": self._window, "max_output_tokens": 1_000}
        return ProviderInfo(id="s", display_name="S", defaults=window)

    async def complete(self, request: ChatRequest, **_: Any) -> ChatResponse:
        self.asked.append(request)
        answer = self._texts.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return ChatResponse(content=[TextBlock(text=answer)])


def a_context(hooks: Any = None, **options: Any) -> SimpleContext:
    return SimpleContext(ContextOptions.read("context-simple", options), hooks)


async def fill(context: SimpleContext, numbers: Sequence[int], size: int = 400) -> None:
    for number in numbers:
        role = "assistant" if number % 2 else "user"
        await context.add_message({"role": role, "content": f"#{number} " + "x" * size})


def text_of(messages: Sequence[dict[str, Any]]) -> str:
    return " ".join(str(message["content"]) for message in messages)


async def test_after_room_was_made_a_request_shows_the_same_and_what_is_new() -> None:
    hooks = EventRecorder()
    context, provider = a_context(hooks), Summarizer()
    await fill(context, range(56))

    first = await context.get_messages_for_request(provider=provider)
    await fill(context, range(56, 58))
    second = await context.get_messages_for_request(provider=provider)

    assert second[:-2] == first
    assert all(a is b for a, b in zip(first, second, strict=False))
    assert len(hooks.events) == 1
    assert len(await context.get_messages()) == 58


async def test_making_room_again_and_again_costs_what_was_added_since(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    whole = compaction.compact

    def counting(messages: Any, sizes: Any, limits: Any) -> Any:
        looked_at.append(len(messages))
        return whole(messages, sizes, limits)

    monkeypatch.setattr("amplifier_app_api.modules.contexts.simple.compact", counting)
    context, provider = a_context(), Summarizer()
    for number in range(1_000):
        await fill(context, [number])
        await context.get_messages_for_request(provider=provider)

    assert max(looked_at) <= 60
    assert len(looked_at) < 1_000 / 5
    assert len(await context.get_messages()) == 1_000


async def test_what_is_left_out_is_summarized_in_its_place() -> None:
    hooks = EventRecorder()
    context, provider = a_context(hooks, compaction="summarize"), Summarizer("They talked of x.")
    await fill(context, range(56))

    shown = await context.get_messages_for_request(provider=provider)

    assert shown[0]["role"] == "system"
    assert "They talked of x." in shown[0]["content"]
    assert shown[1:] == (await context.get_messages())[-len(shown) + 1 :]
    [request] = provider.asked
    left_out = [f"#{number} " for number in range(56 - len(shown) + 1)]
    assert all(number in str(request.messages[-1].content) for number in left_out)
    assert f"#{len(left_out)} " not in str(request.messages[-1].content)
    assert (request.metadata, request.max_output_tokens, request.tools) == ({"stream": False}, 1024, None)
    [(event, facts)] = hooks.events
    assert (event, facts["summarized"], facts["after_messages"]) == ("context:compaction", True, len(shown))


async def test_the_next_summary_is_made_of_the_last_one_and_what_came_since() -> None:
    context, provider = a_context(compaction="summarize"), Summarizer("First summary.", "Second summary.")
    await fill(context, range(56))
    await context.get_messages_for_request(provider=provider)
    await fill(context, range(56, 84))

    shown = await context.get_messages_for_request(provider=provider)

    assert "First summary." in str(provider.asked[1].messages[-1].content)
    assert "#1 " not in str(provider.asked[1].messages[-1].content)
    assert text_of(shown).count("summary.") == 1
    assert "Second summary." in text_of(shown)


async def test_a_model_that_fails_to_summarize_does_not_end_the_turn() -> None:
    context = a_context(compaction="summarize")
    provider = Summarizer(ProviderUnavailableError("away", provider="s"), "Later.")
    await fill(context, range(56))

    dropped = await context.get_messages_for_request(provider=provider)
    await fill(context, range(56, 84))
    summarized = await context.get_messages_for_request(provider=provider)

    assert dropped == (await context.get_messages())[56 - len(dropped) : 56]
    assert "Later." in text_of(summarized)


async def test_a_provider_that_fails_in_a_way_of_its_own_does_not_end_the_turn() -> None:
    context = a_context(compaction="summarize")
    await fill(context, range(56))

    shown = await context.get_messages_for_request(provider=Summarizer(ZeroDivisionError("a bug")))

    assert shown == (await context.get_messages())[56 - len(shown) : 56]


async def test_a_summary_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Summarizer):
        async def complete(self, request: ChatRequest, **_: Any) -> ChatResponse:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(summary, "PATIENCE", 0)
    context = a_context(compaction="summarize")
    await fill(context, range(56))

    shown = await context.get_messages_for_request(provider=Silent())

    assert shown == (await context.get_messages())[56 - len(shown) : 56]


async def test_a_turn_that_is_cancelled_during_a_summary_changes_nothing() -> None:
    begun = asyncio.Event()

    class Slow(Summarizer):
        async def complete(self, request: ChatRequest, **_: Any) -> ChatResponse:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    context = a_context(compaction="summarize")
    await fill(context, range(56))
    task = asyncio.create_task(context.get_messages_for_request(provider=Slow()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert "Later." in text_of(await context.get_messages_for_request(provider=Summarizer("Later.")))


async def test_a_summary_longer_than_asked_for_is_cut() -> None:
    context = a_context(compaction="summarize", summary_tokens=100)
    await fill(context, range(56))

    shown = await context.get_messages_for_request(provider=Summarizer("z" * 100_000))

    assert [len(message["content"]) < 1_000 for message in shown if message["role"] == "system"] == [True]
    assert sum(len(message["content"]) for message in shown) < 16_000


async def test_a_summary_of_much_is_made_in_steps_that_fit() -> None:
    provider = Summarizer(*(f"Step {number}." for number in range(1, 10)))
    rows = [{"role": "user", "content": f"#{number} " + "y" * 3_000} for number in range(8)]

    text = await summarize(provider, "", rows, tokens=200, room=2_000)

    assert text == f"Step {len(provider.asked)}."
    assert len(provider.asked) > 1
    assert all(len(str(request.messages[-1].content)) < 9_000 for request in provider.asked)
    assert "Step 1." in str(provider.asked[1].messages[-1].content)
    asked = " ".join(str(request.messages[-1].content) for request in provider.asked)
    assert all(asked.count(f"#{number} ") == 1 for number in range(8))


async def test_calls_results_and_images_are_told_as_text_and_long_ones_cut() -> None:
    provider = Summarizer("ok")
    rows = [
        {"role": "assistant", "content": [{"type": "tool_call", "id": "1", "name": "grep", "input": {"q": "é"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "a" * 10_000 + "THE END"},
        {"role": "user", "content": [{"type": "image", "source": {}}, {"type": "text", "text": "look"}]},
    ]

    await summarize(provider, "", rows, tokens=200, room=100_000)

    told = str(provider.asked[0].messages[-1].content)
    assert '[calls grep {"q": "é"}]' in told
    assert "[an image]\nlook" in told
    assert "THE END" in told
    assert len(told) < 6_000


async def test_a_summary_of_a_conversation_that_was_restored_begins_anew() -> None:
    context, provider = a_context(compaction="summarize"), Summarizer("One.", "Two.")
    await fill(context, range(56))
    await context.get_messages_for_request(provider=provider)

    await context.set_messages(await context.get_messages())
    shown = await context.get_messages_for_request(provider=provider)

    assert "One." not in str(provider.asked[1].messages[-1].content)
    assert "Two." in text_of(shown)


def test_an_unknown_way_of_making_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'compaction' must be drop or summarize"):
        a_context(compaction="forget")
