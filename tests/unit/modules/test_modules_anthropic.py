"""`provider-anthropic` with Anthropic's own SDK against the model double."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from amplifier_core.llm_errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    LLMError,
    NetworkError,
    ProviderUnavailableError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import ChatRequest, Message, ToolSpec, Usage
from amplifier_core.testing import EventRecorder, MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.providers.anthropic_models import cost_of, facts_of, manners_of
from amplifier_app_api.modules.providers.anthropic_options import AnthropicOptions
from amplifier_app_api.modules.providers.anthropic_provider import AnthropicProvider
from amplifier_app_api.modules.providers.anthropic_requests import ANY_JSON
from amplifier_app_api.modules.providers.clients import open_clients
from doubles.fake_llm import FakeLLM

KEY = "sk-ant-very-secret"
DEADLINE = 10

MakeProvider = Callable[..., AnthropicProvider]


class Hooks(EventRecorder):
    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == event]

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=20) as double:
        yield double


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
async def provider(llm: FakeLLM, hooks: Hooks) -> AsyncIterator[MakeProvider]:
    made: list[AnthropicProvider] = []

    def make(**options: Any) -> AnthropicProvider:
        given = {"api_key": KEY, "base_url": llm.url, "min_retry_delay": 0, **options}
        made.append(AnthropicProvider(AnthropicOptions.read(given), hooks))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def request(*rows: Any, **fields: Any) -> ChatRequest:
    made = [row if isinstance(row, dict) else {"role": "user", "content": row} for row in rows]
    return ChatRequest(messages=[Message.model_validate(row) for row in made], **fields)


async def text(provider: AnthropicProvider, *rows: Any, **fields: Any) -> str:
    response = await provider.complete(request(*rows, **fields))
    return "".join(block.text for block in response.content if block.type == "text")


def sent(llm: FakeLLM) -> dict[str, Any]:
    return llm.recorded()[-1]["body"]


@pytest.mark.parametrize("options", [{}, {"api_key": ""}, {"api_key": None}])
async def test_the_key_comes_from_the_config_alone(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-server")

    with pytest.raises(ConfigurationError) as raised:
        await load_mount("provider-anthropic")(MockCoordinator(), options)
    assert str(raised.value) == (
        "provider-anthropic needs an api_key: write `api_key: ${ANTHROPIC_API_KEY}` in its config"
    )


@pytest.mark.parametrize("key", ["sk\nx", "sk é", "a b"])
async def test_a_key_that_cannot_be_one_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        AnthropicOptions.read({"api_key": key})
    assert str(raised.value) == "provider-anthropic: the api_key holds characters no key has"


async def test_the_sdks_own_variable_names_the_server(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", llm.url)
    coordinator = MockCoordinator()
    close = await load_mount("provider-anthropic")(coordinator, {"api_key": KEY})

    assert await text(coordinator.get("providers", "anthropic"), "hi") == "echo: hi"
    assert close is not None
    await close()


async def test_an_answer_is_streamed(provider: MakeProvider, hooks: Hooks) -> None:
    assert await text(provider(), "one two") == "echo: one two"

    assert hooks.names() == [
        "llm:request",
        "llm:stream_block_start",
        *["llm:stream_block_delta"] * 3,
        "llm:stream_block_end",
        "llm:response",
    ]
    assert [(data["sequence"], data["text"]) for data in hooks.of("llm:stream_block_delta")] == [
        (0, "echo:"),
        (1, " one"),
        (2, " two"),
    ]
    assert {data["status"] for data in hooks.of("llm:response")} == {"ok"}


async def test_a_request_that_is_not_to_be_streamed_shows_nothing(provider: MakeProvider, hooks: Hooks) -> None:
    assert await text(provider(), "hi", metadata={"stream": False}) == "echo: hi"
    assert hooks.names() == ["llm:request", "llm:response"]


async def test_without_streaming_the_answer_comes_in_one_piece(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    response = await provider(use_streaming=False).complete(
        request('[[think: hm]][[say: so]][[tool: look {"x": 1}]]', tools=[ToolSpec(name="look", parameters={})])
    )

    assert [block.type for block in response.content] == ["thinking", "text", "tool_call"]
    assert response.tool_calls is not None
    assert response.tool_calls[0].arguments == {"x": 1}
    assert [data["text"] for data in hooks.of("llm:stream_block_delta")] == ["hm", "so"]
    assert llm.stats()["streamed"] == 0


@pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
async def test_a_turn_with_thoughts_and_tools_runs_on_the_kernel(open_chat: Any, llm: FakeLLM, loop: str) -> None:
    chat = await open_chat(
        loop=loop,
        providers=[{"module": "provider-anthropic", "config": {"api_key": KEY, "base_url": llm.url}}],
    )
    await chat.add_result("look", {"seen": True})

    said = '[[think: hm]][[tools: look {"at": 1} | look {"at": 2}]][[then: done]]'
    assert await chat.say(said) == "done"

    rows = await chat.history()
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "tool", "assistant"]
    user, assistant, results = sent(llm)["messages"]
    assert user["role"] == "user"
    assert assistant["content"][0]["type"] == "thinking"
    assert assistant["content"][0]["signature"].startswith("sig_")
    assert [block["content"] for block in results["content"]] == ['{"seen": true}'] * 2
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["success"]


async def test_usage_includes_the_cache_and_the_cost(provider: MakeProvider) -> None:
    response = await provider(model="claude-sonnet-4-6").complete(
        request("[[usage: input=1000 output=100 cache_read=10000 cache_write=2000]]")
    )

    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (13_000, 100, 13_100)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (10_000, 2_000)
    assert usage.cost_usd == Decimal("0.015")  # (1000 + 10000 * 0.1 + 2000 * 1.25) * 3 + 100 * 15, by the million


async def test_an_overload_is_retried_and_told(provider: MakeProvider, hooks: Hooks, llm: FakeLLM) -> None:
    assert await text(provider(), "[[error: status=529 times=2]] hi") == "echo: hi"

    assert [(data["attempt"], data["error_type"]) for data in hooks.of("provider:retry")] == [
        (1, "ProviderUnavailableError"),
        (2, "ProviderUnavailableError"),
    ]
    assert llm.stats()["by_status"] == {"529": 2, "200": 1}
    assert len(hooks.of("llm:request")) == 1


async def test_an_error_within_the_answer_takes_it_back_and_tries_again(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    llm.queue("midstream: after=2", "text: at last")

    assert await text(provider(), "one two three") == "at last"

    first, second = hooks.of("llm:stream_block_start")
    assert first["request_id"] != second["request_id"]
    [aborted] = hooks.of("llm:stream_aborted")
    assert aborted == {
        "request_id": first["request_id"],
        "error": {"type": "ProviderUnavailableError", "msg": "scripted mid-stream error"},
    }
    names = hooks.names()
    assert names.index("llm:stream_aborted") < names.index("provider:retry")


async def test_an_error_within_the_answer_ends_it_when_no_retries_are_left(
    provider: MakeProvider, hooks: Hooks
) -> None:
    with pytest.raises(ProviderUnavailableError):
        await text(provider(max_retries=0), "[[midstream: after=1]] a b")

    assert len(hooks.of("llm:stream_aborted")) == 1
    assert hooks.of("provider:retry") == []
    assert [data["status"] for data in hooks.of("llm:response")] == ["error"]


async def test_a_connection_that_breaks_within_the_answer_is_a_broken_stream(provider: MakeProvider) -> None:
    with pytest.raises(StreamError, match="The connection broke while the answer was coming"):
        await text(provider(max_retries=0), "[[disconnect: after=1]] a b c")


async def test_a_server_that_cannot_be_reached_is_a_network_error(provider: MakeProvider) -> None:
    with pytest.raises(NetworkError, match="The API cannot be reached"):
        await text(provider(base_url="http://127.0.0.1:9", max_retries=0), "hi")


async def test_a_longer_wait_than_the_options_allow_is_left_to_the_caller(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    with pytest.raises(RateLimitError) as raised:
        await text(provider(max_retry_delay=5), "[[error: status=429 retry_after=60]]")

    assert (raised.value.retry_after, raised.value.status_code) == (60.0, 429)
    assert llm.stats()["requests"] == 1
    assert hooks.of("provider:retry") == []


@pytest.mark.parametrize(
    "said",
    [
        f'[[error: status=401 message="bad key {KEY}"]]',
        f"[[error: status=500 message={KEY}]]",
        "[[disconnect: after=0]]",
    ],
)
async def test_the_key_is_in_no_error_and_no_event(provider: MakeProvider, hooks: Hooks, said: str) -> None:
    with pytest.raises(LLMError) as raised:
        await text(provider(max_retries=0), said)

    assert KEY not in f"{raised.value!r} {raised.value}"
    assert all(KEY not in str(data) for name, data in hooks.events if name != "llm:request")
    assert KEY not in repr(provider()._options)


async def test_a_server_that_wants_another_key_is_an_authentication_error(hooks: Hooks) -> None:
    with FakeLLM(api_key="another") as llm:
        provider = AnthropicProvider(AnthropicOptions.read({"api_key": KEY, "base_url": llm.url}), hooks)
        with pytest.raises(AuthenticationError) as raised:
            await text(provider, "hi")
        await provider.close()

    assert raised.value.status_code == 401


async def test_cancelling_closes_the_connection_at_once(provider: MakeProvider, hooks: Hooks, llm: FakeLLM) -> None:
    began = asyncio.Event()

    class Watching(Hooks):
        async def emit(self, event: str, data: dict[str, Any]) -> Any:
            if event == "llm:stream_block_delta":
                began.set()
            return await super().emit(event, data)

    one = provider()
    one._hooks = Watching()
    task = asyncio.create_task(text(one, "[[slow: tokens=1000 delay_ms=20]]"))
    async with asyncio.timeout(DEADLINE):
        await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(llm.wait_for_abort) == 1
    assert one._hooks.of("llm:stream_aborted") == []


async def test_options_and_request_shape_the_call(provider: MakeProvider, llm: FakeLLM) -> None:
    await text(
        provider(
            model="claude-opus-4-6",
            max_tokens=100,
            temperature=0.5,
            effort="low",
            enable_prompt_caching=False,
            beta_headers=["one"],
        ),
        {"role": "system", "content": "rules"},
        "hi",
        stop=["END"],
        top_p=0.9,
        tools=[ToolSpec(name="look", parameters={"type": "object"}, description="Look")],
        tool_choice="required",
    )

    assert sent(llm) == {
        "model": "claude-opus-4-6",
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "output_config": {"effort": "low"},
        "system": [{"type": "text", "text": "rules"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [{"name": "look", "description": "Look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "stream": True,
    }


ADAPTIVE = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("options", "overrides", "thinking", "max_tokens"),
    [
        ({"model": "claude-opus-4-6"}, {}, None, 128_000),
        ({"model": "claude-opus-4-6"}, {"extended_thinking": True}, ADAPTIVE, 128_000),
        (
            {"model": "claude-haiku-4-5"},
            {"extended_thinking": True},
            {"type": "enabled", "budget_tokens": 10_000},
            64_000,
        ),
        (
            {"model": "claude-sonnet-4-6", "thinking_budget_tokens": 2_000, "max_tokens": 500},
            {},
            {"type": "enabled", "budget_tokens": 2_000},
            6_096,
        ),
        ({"model": "claude-opus-4-8", "thinking_budget_tokens": 2_000}, {}, ADAPTIVE, 128_000),
        ({"thinking_display": "omitted"}, {}, {"type": "adaptive", "display": "omitted"}, 128_000),
    ],
)
async def test_thinking_is_asked_for_as_the_model_can(
    provider: MakeProvider, llm: FakeLLM, options: Any, overrides: Any, thinking: Any, max_tokens: int
) -> None:
    await provider(temperature=0.2, **options).complete(request("hi"), **overrides)

    assert sent(llm).get("thinking") == thinking
    assert sent(llm)["max_tokens"] == max_tokens
    assert ("temperature" in sent(llm)) == (thinking is None)


@pytest.mark.parametrize(
    ("model", "choice"), [("claude-sonnet-5-5", None), ("claude-opus-5", {"type": "tool", "name": "look"})]
)
async def test_a_tool_is_forced_only_where_the_model_takes_that(
    provider: MakeProvider, llm: FakeLLM, model: str, choice: Any
) -> None:
    tools = [ToolSpec(name="look", parameters={"type": "object"})]
    one = provider(model=model, extended_thinking=True, temperature=0.1)
    await one.complete(request("hi", tools=tools, tool_choice="look"))

    assert sent(llm).get("tool_choice") == choice
    assert ("thinking" in sent(llm)) == (choice is None)  # the API takes one or the other
    assert "temperature" not in sent(llm)


async def test_a_schema_shapes_the_answer(provider: MakeProvider, llm: FakeLLM) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    said = await text(
        provider(effort="low"), "hi", response_format={"type": "json_schema", "json_schema": {"schema": schema}}
    )

    assert json.loads(said) == {"n": 1}
    assert sent(llm)["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


async def test_json_without_a_schema_is_asked_for_in_words(provider: MakeProvider, llm: FakeLLM) -> None:
    await text(provider(), {"role": "system", "content": "rules"}, "hi", response_format={"type": "json"})

    assert [block["text"] for block in sent(llm)["system"]] == ["rules", ANY_JSON]


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        {"type": "url", "url": "https://images.example/cat.png"},
    ],
)
async def test_an_image_goes_with_the_words(provider: MakeProvider, llm: FakeLLM, source: Any) -> None:
    row = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]}

    assert await text(provider(enable_prompt_caching=False), row) == "echo: what is it?"
    assert sent(llm)["messages"][0]["content"] == row["content"]


async def test_the_tools_the_prompt_and_the_last_parts_are_marked_for_caching(
    provider: MakeProvider, llm: FakeLLM
) -> None:
    tools = [ToolSpec(name=name, parameters={"type": "object"}) for name in ("look", "listen")]
    rows = [{"role": "system", "content": "rules"}, "one", {"role": "assistant", "content": "two"}, "three"]

    await text(provider(), *rows, tools=tools)

    body = sent(llm)
    assert ["cache_control" in tool for tool in body["tools"]] == [False, True]
    assert ["cache_control" in block for block in body["system"]] == [True]
    assert ["cache_control" in row["content"][-1] for row in body["messages"]] == [True, False, True]


THOUGHT = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "yes"},
    ],
}


async def test_thoughts_that_the_api_refuses_are_left_out(provider: MakeProvider, hooks: Hooks, llm: FakeLLM) -> None:
    llm.queue('error: status=400 message="messages.1: Invalid `signature` in `thinking` block"', "text: all right")

    assert await text(provider(), "a", THOUGHT, "b") == "all right"

    first, second = [recorded["body"]["messages"][1]["content"] for recorded in llm.recorded()]
    assert [block["type"] for block in first] == ["thinking", "redacted_thinking", "text"]
    assert [block["type"] for block in second] == ["text"]
    assert [data["status"] for data in hooks.of("llm:response")] == ["ok"]


async def test_a_bad_request_is_not_sent_again(provider: MakeProvider, llm: FakeLLM) -> None:
    with pytest.raises(InvalidRequestError, match="nonsense"):
        await text(provider(), "a", THOUGHT, '[[error: status=400 message="nonsense"]]')

    assert llm.stats()["requests"] == 1


async def test_two_instances_of_the_module_stand_side_by_side(open_chat: Any) -> None:
    with FakeLLM(default="text: one") as first, FakeLLM(default="text: two") as second:
        entries = [
            {"module": "provider-anthropic", "config": {"api_key": KEY, "base_url": first.url}},
            {
                "module": "provider-anthropic",
                "instance_id": "other",
                "config": {"api_key": KEY, "base_url": second.url, "priority": 5},
            },
        ]
        chat = await open_chat(providers=entries)

        providers = chat.coordinator.get("providers")
        assert set(providers) == {"anthropic", "other"}
        assert await text(providers["anthropic"], "hi") == "one"
        assert await text(providers["other"], "hi") == "two"
        await chat.session.cleanup()


async def test_twenty_sessions_on_two_keys_share_two_clients_and_no_word(open_chat: Any, llm: FakeLLM) -> None:
    chats = [
        await open_chat(
            providers=[{"module": "provider-anthropic", "config": {"api_key": f"key-{n % 2}", "base_url": llm.url}}]
        )
        for n in range(20)
    ]

    answers = await asyncio.gather(*(chat.say(f"[[pace: ms=1]] I am {n}") for n, chat in enumerate(chats)))

    assert answers == [f"echo: I am {n}" for n in range(20)]
    clients = [chat.coordinator.get("providers")["anthropic"]._client().client for chat in chats]
    assert len({id(client) for client in clients}) == open_clients("anthropic") == 2
    assert {client.api_key for client in clients[::2]} == {"key-0"}
    assert {client.api_key for client in clients[1::2]} == {"key-1"}
    for n, chat in enumerate(chats):
        shown = "".join(data["text"] for data in chat.of("llm:stream_block_delta"))
        assert shown == f"echo: I am {n}"
        await chat.session.cleanup()
    assert open_clients("anthropic") == 0


async def test_a_limit_on_calls_counts_all_sessions_with_the_key(provider: MakeProvider, llm: FakeLLM) -> None:
    sessions = [provider(max_concurrent_requests=2) for _ in range(6)]

    await asyncio.gather(*(text(one, f"[[pace: ms=2]] call number {n}") for n, one in enumerate(sessions)))

    assert llm.stats()["max_in_flight"] == 2


async def test_a_repaired_conversation_is_told(provider: MakeProvider, hooks: Hooks) -> None:
    asked = {
        "role": "assistant",
        "content": [{"type": "tool_call", "id": "c1", "name": "look", "input": {}}],
    }

    assert await text(provider(), "go", asked, "still there?") == "echo: still there?"
    assert hooks.of("provider:tool_sequence_repaired") == [
        {"provider": "anthropic", "repair_count": 1, "repairs": [{"tool_call_id": "c1", "tool_name": "look"}]}
    ]


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
@pytest.mark.parametrize("written", ['{"file_pa', ""])
async def test_a_tool_call_that_was_cut_off_is_not_made(reason: str, written: str) -> None:
    from amplifier_app_api.modules.providers.anthropic_replies import Reply
    from amplifier_app_api.modules.providers.wire import AttemptStream

    class Event:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

    reply = Reply("claude-sonnet-5-5", AttemptStream(None))
    for event in (
        Event(type="message_start", message=Event(usage=Event(input_tokens=1))),
        Event(type="content_block_start", index=0, content_block=Event(type="tool_use", id="c", name="write")),
        Event(type="content_block_delta", index=0, delta=Event(type="input_json_delta", partial_json=written)),
        Event(type="content_block_stop", index=0),
        Event(type="message_delta", delta=Event(stop_reason=reason), usage=Event(output_tokens=2)),
        Event(type="message_stop"),
    ):
        await reply.feed(event)

    response = reply.response()
    assert (response.content, response.tool_calls, response.finish_reason) == ([], None, reason)


async def test_nothing_of_the_servers_environment_goes_to_an_address_of_the_config(
    provider: MakeProvider, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-server")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "of-the-server")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-secret: of-the-server")

    assert await text(provider(), "hi") == "echo: hi"
    headers = llm.recorded()[-1]["headers"]
    assert "of-the-server" not in str(headers)
    assert KEY in str(headers)


async def test_models_are_listed_by_the_api(provider: MakeProvider) -> None:
    models = {model.id: model for model in await provider().list_models()}

    assert models["claude-opus-4-8"].context_window == 1_000_000
    assert models["fake-echo"].context_window == 200_000


async def test_the_window_is_told_to_the_context(provider: MakeProvider) -> None:
    assert provider(model="claude-haiku-4-5-20251001", max_tokens=4_000).get_info().defaults == {
        "model": "claude-haiku-4-5-20251001",
        "context_window": 200_000,
        "max_output_tokens": 4_000,
    }
    assert provider(model="anything", context_window=32_000).get_info().defaults["context_window"] == 32_000


def test_the_cost_of_an_unknown_model_is_unknown() -> None:
    usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)

    assert cost_of("claude-of-tomorrow", usage) is None
    assert cost_of("claude-opus-4-8-20260529", usage) == Decimal("0.00003")
    assert facts_of("claude-of-tomorrow").context_window == 200_000
    assert manners_of("claude-of-tomorrow").adaptive
