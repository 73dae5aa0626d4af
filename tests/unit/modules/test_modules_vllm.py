"""`provider-vllm`: a server of one's own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from amplifier_core.message_models import ToolSpec

from amplifier_app_api.modules import load_mount
from doubles.fake_llm import FakeLLM
from provider_talk import Coordinator, request, result, row_of, sent, text

Make = Callable[..., Awaitable[Any]]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=50) as double:
        yield double


@pytest.fixture
async def make(llm: FakeLLM) -> AsyncIterator[Make]:
    closes: list[Any] = []

    async def mounted(**options: Any) -> Any:
        coordinator = Coordinator()
        closes.append(await load_mount("provider-vllm")(coordinator, {"base_url": llm.url + "/v1", **options}))
        return coordinator.provider

    yield mounted
    for close in closes:
        await close()


async def test_no_key_is_needed_and_the_servers_own_is_not_sent(
    make: Make, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-server")

    assert await text(await make(), "hi") == "echo: hi"
    assert "of-the-server" not in str(llm.recorded()[-1]["headers"])


async def test_thinking_is_switched_where_the_template_knows_the_switch(make: Make, llm: FakeLLM) -> None:
    await text(await make(enable_thinking=False, extra_body={"chat_template_kwargs": {"a": 1}, "top_k": 5}), "hi")

    assert sent(llm)["chat_template_kwargs"] == {"a": 1, "enable_thinking": False}
    assert sent(llm)["top_k"] == 5


async def test_thoughts_go_back_within_the_turn(make: Make, llm: FakeLLM) -> None:
    provider = await make()
    said = "[[think: hm]][[tool: look {}]][[then: done]]"
    asked = await provider.complete(request(said, tools=[ToolSpec(name="look", parameters={})]))

    assert await text(provider, said, row_of(asked), result(asked.tool_calls[0].id, "seen")) == "done"
    assert sent(llm)["messages"][1]["reasoning_content"] == "hm"


async def test_the_window_is_learned_from_the_server(make: Make, llm: FakeLLM) -> None:
    llm.options.windows = {"fake-echo": 40_960}
    provider = await make(default_model="fake-echo")

    assert provider.get_info().defaults["context_window"] == 32_768
    models = {model.id: model.context_window for model in await provider.list_models()}
    assert models["fake-echo"] == 40_960
    assert provider.get_info().defaults["context_window"] == 40_960


async def test_the_responses_api_is_spoken_when_asked_for(make: Make, llm: FakeLLM) -> None:
    await text(await make(api="responses"), "hi")

    assert llm.stats()["by_endpoint"] == {"responses": 1}
    assert sent(llm)["store"] is False
