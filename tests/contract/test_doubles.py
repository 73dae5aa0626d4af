"""Both model doubles answer the same directives alike."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from amplifier_core.llm_errors import LLMError
from amplifier_core.message_models import ChatRequest, ChatResponse, Message, ToolSpec

from amplifier_app_api.modules.providers.anthropic_options import AnthropicOptions
from amplifier_app_api.modules.providers.anthropic_provider import AnthropicProvider
from amplifier_app_api.modules.providers.gemini_options import GeminiOptions
from amplifier_app_api.modules.providers.gemini_provider import GeminiProvider
from amplifier_app_api.modules.providers.scripted import ScriptedOptions, ScriptedProvider
from contract.double_cases import CASES, WEATHER, Case
from doubles.fake_llm import FakeLLM

PATIENCE = {"max_retries": 2, "min_retry_delay": 0}


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def emit(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == event]


@pytest.fixture
def hooks() -> Recorder:
    return Recorder()


@pytest.fixture(params=["fake_llm", "fake_llm as Gemini", "provider-scripted"])
async def double(request: pytest.FixtureRequest, llm: FakeLLM, hooks: Recorder) -> AsyncIterator[Any]:
    if request.param == "provider-scripted":
        yield ScriptedProvider(ScriptedOptions.read(PATIENCE), hooks)
        return
    options = {"api_key": "k", "base_url": llm.url, **PATIENCE}
    if request.param == "fake_llm":
        provider = AnthropicProvider(AnthropicOptions.read(options), hooks)
    else:
        provider = GeminiProvider(GeminiOptions.read(options), hooks)
    yield provider
    await provider.close()


async def ask(double: Any, case: Case) -> ChatResponse:
    rows = [{"role": "user", "content": case.prompt}, *case.after]
    return await double.complete(
        ChatRequest(
            messages=[Message.model_validate(row) for row in rows],
            tools=[ToolSpec(name="weather", parameters=WEATHER)],
        )
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.error is None], ids=lambda case: case.name)
async def test_both_doubles_play(case: Case, double: Any, hooks: Recorder) -> None:
    response = await ask(double, case)

    texts = [block.text for block in response.content if block.type == "text"]
    thoughts = [block.thinking for block in response.content if block.type == "thinking"]
    assert "".join(texts) == case.text
    assert "".join(thoughts) == case.thinking
    assert [(call.name, call.arguments) for call in response.tool_calls or []] == case.calls
    assert response.finish_reason == case.finish_reason
    assert response.usage is not None
    untold = {"cache_write_tokens"} if double.name == "gemini" else set[str]()  # by Google's API
    counted = {name: count for name, count in case.usage.items() if name not in untold}
    assert response.usage.model_dump(include=set(counted)) == counted
    assert len(hooks.of("provider:retry")) == case.retries


@pytest.mark.parametrize("case", [case for case in CASES if case.error is None], ids=lambda case: case.name)
async def test_both_doubles_stream(case: Case, double: Any, hooks: Recorder) -> None:
    response = await ask(double, case)

    kinds = {"thinking": "thinking", "text": "text", "tool_call": "tool_use"}
    started = hooks.of("llm:stream_block_start")
    assert [block["block_type"] for block in started] == [kinds[block.type] for block in response.content]
    assert [block["block_index"] for block in started] == list(range(len(response.content)))
    assert [block["block_index"] for block in hooks.of("llm:stream_block_end")] == list(range(len(response.content)))
    deltas = hooks.of("llm:stream_block_delta")
    shown = [delta["text"] for delta in deltas if delta["block_type"] == "text"]
    assert "".join(shown) == case.text
    assert case.deltas is None or shown == case.deltas
    assert "".join(delta["text"] for delta in deltas if delta["block_type"] == "thinking") == case.thinking
    assert len({block["request_id"] for block in started}) == 1


@pytest.mark.parametrize("case", [case for case in CASES if case.error is not None], ids=lambda case: case.name)
async def test_both_doubles_fail_with(case: Case, double: Any, hooks: Recorder) -> None:
    with pytest.raises(LLMError) as raised:
        await ask(double, case)

    assert type(raised.value).__name__ == case.error
    assert raised.value.status_code == case.status
    assert len(hooks.of("provider:retry")) == case.retries
    assert len(hooks.of("llm:stream_block_delta")) == case.aborted
    assert len(hooks.of("llm:stream_aborted")) == (1 if case.aborted else 0)
    assert [response["status"] for response in hooks.of("llm:response")] == ["error"]
