"""What every provider with a vendor's SDK does, each with its real SDK against the model double."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from amplifier_core.llm_errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    NetworkError,
    NotFoundError,
    ProviderUnavailableError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import ResponseFormatJsonSchema, ToolSpec

from amplifier_app_api.modules import MissingExtra, load_mount
from amplifier_app_api.modules.providers.clients import open_clients
from doubles.fake_llm import FakeLLM
from provider_talk import PICTURE, PIXEL, SCHEMA, Coordinator, Hooks, request, result, row_of, sent, text

KEY = "sk-very-secret"
DEADLINE = 10
LOOK = ToolSpec(name="look", parameters={"type": "object", "properties": {"x": {"type": "integer"}}})

Make = Callable[..., Any]


@dataclass(frozen=True)
class Vendor:
    module: str
    address: str  # the option that holds it
    path: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    clients: str = "openai"  # their kind

    def given(self, llm: FakeLLM, **options: Any) -> dict[str, Any]:
        place = {self.address: llm.url + self.path}
        return {"api_key": KEY, "min_retry_delay": 0, **place, **dict(self.options), **options}


VENDORS = {
    "openai-responses": Vendor("provider-openai", "base_url", "/v1", (("api", "responses"),)),
    "openai-chat": Vendor("provider-openai", "base_url", "/v1"),
    "azure-v1": Vendor("provider-azure-openai", "azure_endpoint"),
    "azure-dated": Vendor("provider-azure-openai", "azure_endpoint", "", (("api_version", "2026-10-01"),)),
    "azure-chat": Vendor(
        "provider-azure-openai", "azure_endpoint", "", (("api_version", "2026-10-01"), ("api", "chat"))
    ),
    "vllm": Vendor("provider-vllm", "base_url", "/v1"),
    "ollama": Vendor("provider-ollama", "host", clients="ollama"),
}


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=50) as double:
        yield double


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture(params=VENDORS)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    return VENDORS[request.param]


@pytest.fixture
async def make(vendor: Vendor, llm: FakeLLM, hooks: Hooks) -> AsyncIterator[Make]:
    """`await make(**options)`: a provider as its module mounts it."""
    closes: list[Any] = []

    async def mounted(**options: Any) -> Any:
        coordinator = Coordinator(hooks)
        closes.append(await load_mount(vendor.module)(coordinator, vendor.given(llm, **options)))
        return coordinator.provider

    yield mounted
    for close in closes:
        await close()
    assert open_clients(vendor.clients) == 0


async def test_an_answer_is_streamed(make: Make, hooks: Hooks) -> None:
    provider = await make()

    assert await text(provider, "one two") == "echo: one two"
    assert hooks.names() == [
        "llm:request",
        "llm:stream_block_start",
        *["llm:stream_block_delta"] * 3,
        "llm:stream_block_end",
        "llm:response",
    ]
    deltas = hooks.of("llm:stream_block_delta")
    assert [(data["sequence"], data["text"]) for data in deltas] == [(0, "echo:"), (1, " one"), (2, " two")]
    assert {data["block_type"] for data in deltas} == {"text"}
    assert [data["status"] for data in hooks.of("llm:response")] == ["ok"]
    assert {data["provider"] for data in hooks.of("llm:request")} == {provider.name}


async def test_a_request_that_is_not_to_be_streamed_shows_nothing(make: Make, hooks: Hooks) -> None:
    assert await text(await make(), "hi", metadata={"stream": False}) == "echo: hi"
    assert hooks.names() == ["llm:request", "llm:response"]


@pytest.mark.parametrize("streaming", [True, False])
async def test_thoughts_text_and_tools_of_one_answer_come_in_order(
    make: Make, hooks: Hooks, llm: FakeLLM, streaming: bool
) -> None:
    provider = await make(use_streaming=streaming)
    said = '[[think: hm hm]][[say: so]][[tools: look {"x": 1} | look {"x": 2}]]'
    response = await provider.complete(request(said, tools=[LOOK]))

    assert [block.type for block in response.content] == ["thinking", "text", "tool_call", "tool_call"]
    assert response.content[0].thinking == "hm hm"
    assert [(call.name, call.arguments) for call in response.tool_calls] == [("look", {"x": 1}), ("look", {"x": 2})]
    assert len({call.id for call in response.tool_calls}) == 2
    assert response.finish_reason == "tool_calls"
    started = hooks.of("llm:stream_block_start")
    assert [(data["block_index"], data["block_type"], data.get("name")) for data in started] == [
        (0, "thinking", None),
        (1, "text", None),
        (2, "tool_use", "look"),
        (3, "tool_use", "look"),
    ]
    assert sorted(data["block_index"] for data in hooks.of("llm:stream_block_end")) == [0, 1, 2, 3]
    assert (hooks.streamed("thinking"), hooks.streamed("text")) == ("hm hm", "so")
    assert (llm.stats()["streamed"] == 1) is streaming


async def test_a_round_of_tools_goes_back_as_it_came(make: Make) -> None:
    provider = await make()
    said = '[[think: hm]][[tools: look {"x": 1} | look {"x": 2}]][[then: done]]'
    asked = await provider.complete(request(said, tools=[LOOK]))
    one, two = asked.tool_calls

    rows = [said, row_of(asked), result(two.id, "second"), result(one.id, "first")]
    assert await text(provider, *rows, tools=[LOOK]) == "done"


async def test_a_call_without_a_result_is_repaired_and_told(make: Make, hooks: Hooks) -> None:
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": "c1", "name": "look", "input": {}}]}
    provider = await make()

    assert await text(provider, "go", asked, "still there?") == "echo: still there?"
    assert hooks.of("provider:tool_sequence_repaired") == [
        {"provider": provider.name, "repair_count": 1, "repairs": [{"tool_call_id": "c1", "tool_name": "look"}]}
    ]


async def test_a_picture_is_sent(make: Make, llm: FakeLLM) -> None:
    content = [{"type": "text", "text": "what is this?"}, PICTURE]

    assert await text(await make(), {"role": "user", "content": content}) == "echo: what is this?"
    assert PIXEL in str(sent(llm))


async def test_an_answer_of_a_wanted_form_is_asked_for(make: Make, llm: FakeLLM) -> None:
    wanted = ResponseFormatJsonSchema(json_schema=SCHEMA)

    assert await text(await make(), "hi", response_format=wanted) == '{"n": 1}'
    assert str(SCHEMA) in str(sent(llm))


async def test_usage_counts_what_was_read_and_written(make: Make) -> None:
    response = await (await make()).complete(request("[[usage: input=1000 output=100]]"))

    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (1000, 100, 1100)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "no", InvalidRequestError),
        (400, "maximum context length is 8 tokens", ContextLengthError),
        (401, "no", AuthenticationError),
        (404, "no", NotFoundError),
        (408, "no", LLMTimeoutError),
        (413, "no", ContextLengthError),
        (429, "no", RateLimitError),
        (500, "no", ProviderUnavailableError),
        (503, "no", ProviderUnavailableError),
        (504, "no", LLMTimeoutError),
    ],
)
async def test_an_error_has_the_kernels_class(
    make: Make, hooks: Hooks, status: int, message: str, kind: type[LLMError]
) -> None:
    provider = await make(max_retries=0)
    with pytest.raises(LLMError) as raised:
        await text(provider, f'[[error: status={status} message="{message}"]]')

    assert type(raised.value) is kind
    assert (raised.value.status_code, raised.value.provider) == (status, provider.name)
    assert str(raised.value) == message
    assert [data["status"] for data in hooks.of("llm:response")] == ["error"]


async def test_an_overload_is_retried_and_told(make: Make, hooks: Hooks, llm: FakeLLM) -> None:
    assert await text(await make(), "[[error: status=503 times=2]] hi") == "echo: hi"

    assert [(data["attempt"], data["error_type"]) for data in hooks.of("provider:retry")] == [
        (1, "ProviderUnavailableError"),
        (2, "ProviderUnavailableError"),
    ]
    assert llm.stats()["by_status"] == {"503": 2, "200": 1}  # the SDK itself tries once


async def test_a_longer_wait_than_the_options_allow_is_left_to_the_caller(make: Make, llm: FakeLLM) -> None:
    provider = await make(max_retry_delay=5)
    with pytest.raises(RateLimitError) as raised:
        await text(provider, "[[error: status=429 retry_after=60]]")

    assert raised.value.retry_after == 60.0
    assert llm.stats()["requests"] == 1


async def test_an_error_within_the_answer_takes_it_back_and_tries_again(make: Make, hooks: Hooks, llm: FakeLLM) -> None:
    provider = await make()
    llm.queue("midstream: after=2 type=server_error", "text: at last")

    assert await text(provider, "one two three") == "at last"
    first, second = hooks.of("llm:stream_block_start")
    assert first["request_id"] != second["request_id"]
    assert [data["request_id"] for data in hooks.of("llm:stream_aborted")] == [first["request_id"]]
    names = hooks.names()
    assert names.index("llm:stream_aborted") < names.index("provider:retry")


async def test_a_connection_that_breaks_within_the_answer_is_a_broken_stream(make: Make, hooks: Hooks) -> None:
    provider = await make(max_retries=0)
    with pytest.raises(StreamError, match="The connection broke while the answer was coming"):
        await text(provider, "[[disconnect: after=1]] a b c")
    assert len(hooks.of("llm:stream_aborted")) == 1


async def test_a_server_that_cannot_be_reached_is_a_network_error(make: Make, vendor: Vendor) -> None:
    provider = await make(max_retries=0, **{vendor.address: "http://127.0.0.1:9"})
    with pytest.raises(NetworkError, match="cannot be reached"):
        await text(provider, "hi")


async def test_a_server_that_takes_too_long_is_a_timeout(make: Make) -> None:
    provider = await make(max_retries=0, timeout=0.05)
    with pytest.raises(LLMTimeoutError):
        await text(provider, "[[delay: ms=60000]]")


async def test_cancelling_closes_the_connection_at_once(make: Make, hooks: Hooks, llm: FakeLLM) -> None:
    began = asyncio.Event()
    emit = hooks.emit

    async def watching(event: str, data: dict[str, Any]) -> Any:
        if event == "llm:stream_block_delta":
            began.set()
        return await emit(event, data)

    hooks.emit = watching
    task = asyncio.create_task(text(await make(), "[[slow: tokens=1000 delay_ms=20]]"))
    async with asyncio.timeout(DEADLINE):
        await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(llm.wait_for_abort) == 1
    assert hooks.of("llm:stream_aborted") == []


async def test_cancelling_while_a_hook_works_closes_the_connection(make: Make, hooks: Hooks, llm: FakeLLM) -> None:
    began = asyncio.Event()

    async def stuck(event: str, _: dict[str, Any]) -> None:
        if event == "llm:stream_block_delta":
            began.set()
            await asyncio.Event().wait()

    hooks.emit = stuck
    task = asyncio.create_task(text(await make(), "[[slow: tokens=1000 delay_ms=20]]"))
    async with asyncio.timeout(DEADLINE):
        await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError) as raised:  # which holds on to all that was open
        await task
    assert await asyncio.to_thread(llm.wait_for_abort) == 1
    del raised


async def test_cancelling_before_the_first_byte_closes_the_connection(make: Make, llm: FakeLLM) -> None:
    task = asyncio.create_task(text(await make(), "[[delay: ms=60000]]"))
    assert await asyncio.to_thread(llm.wait_for_request) == 1
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(llm.wait_for_abort) == 1


@pytest.mark.parametrize(
    "said",
    [
        f'[[error: status=401 message="bad key {KEY}"]]',
        f"[[error: status=500 message={KEY}]]",
        f"[[midstream: after=0 type={KEY}]]",
        "[[disconnect: after=0]]",
    ],
)
async def test_the_key_is_in_no_error_and_no_event(make: Make, hooks: Hooks, said: str) -> None:
    provider = await make(max_retries=0)
    with pytest.raises(LLMError) as raised:
        await text(provider, said)

    assert KEY not in f"{raised.value!r} {raised.value}"
    assert all(KEY not in str(data) for name, data in hooks.events if name != "llm:request")
    assert KEY not in repr(provider._options) + repr(getattr(provider, "_endpoint", ""))


async def test_nothing_of_the_servers_environment_goes_to_an_address_of_the_config(
    make: Make, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "AZURE_OPENAI_API_KEY"):
        monkeypatch.setenv(name, "of-the-server")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "of-the-server")
    monkeypatch.setenv("OLLAMA_API_KEY", "of-the-server")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: of-the-server")

    assert await text(await make(), "hi") == "echo: hi"
    headers = llm.recorded()[-1]["headers"]
    assert "of-the-server" not in str(headers)
    assert KEY in str(headers)


async def test_sessions_with_one_key_share_a_client_and_others_never(make: Make, vendor: Vendor) -> None:
    one, same, other = await make(), await make(), await make(api_key="another")

    answers = await asyncio.gather(*(text(provider, "hi") for provider in (one, same, other)))

    assert answers == ["echo: hi"] * 3
    assert open_clients(vendor.clients) == 2
    await one.close()
    assert await text(same, "still") == "echo: still"


async def test_twenty_sessions_on_two_keys_get_each_their_own(make: Make, vendor: Vendor, llm: FakeLLM) -> None:
    sessions = [await make(api_key=f"key-{number % 2}") for number in range(20)]

    said = [f"[[slow: tokens=3 delay_ms=2]][[text: answer {number} of mine]]" for number in range(20)]
    answers = await asyncio.gather(*(text(one, words) for one, words in zip(sessions, said, strict=True)))

    assert answers == [f"answer {number} of mine" for number in range(20)]
    assert llm.stats()["max_in_flight"] > 5  # no limit for the whole process
    assert open_clients(vendor.clients) == 2
    keys = {f"key-{number}": 0 for number in range(2)}
    for call in llm.recorded():
        number = int(str(call["body"]).partition("text: answer ")[2].split()[0])
        assert f"key-{number % 2}" in str(call["headers"])
        keys[f"key-{number % 2}"] += 1
    assert keys == {"key-0": 10, "key-1": 10}


async def test_a_limit_holds_over_the_sessions_of_one_key_alone(make: Make, llm: FakeLLM) -> None:
    limited = [await make(max_concurrent_requests=2) for _ in range(3)]
    said = "[[slow: tokens=3 delay_ms=2]]"

    await asyncio.gather(*(text(provider, f"{said} {n}") for n in range(3) for provider in limited))
    assert llm.stats()["max_in_flight"] == 2
    others = [await make(api_key="another") for _ in range(6)]
    await asyncio.gather(*(text(provider, f"{said} {n}") for n, provider in enumerate(others)))
    assert llm.stats()["max_in_flight"] > 2


async def test_models_are_listed_by_the_api(make: Make) -> None:
    models = {model.id: model for model in await (await make()).list_models()}

    assert set(models) >= {"gpt-5.2", "fake-echo"}
    assert all(model.context_window > 0 for model in models.values())


async def test_a_listing_that_fails_has_the_kernels_class(make: Make, vendor: Vendor) -> None:
    provider = await make(**{vendor.address: "http://127.0.0.1:9"})
    with pytest.raises(NetworkError):
        await provider.list_models()


async def test_the_window_is_told_to_the_context(make: Make) -> None:
    defaults = (await make(default_model="mine", context_window=9_000, max_tokens=700)).get_info().defaults

    assert defaults == {"model": "mine", "context_window": 9_000, "max_output_tokens": 700}


@pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
async def test_a_turn_with_tools_runs_on_the_kernel(open_chat: Any, vendor: Vendor, llm: FakeLLM, loop: str) -> None:
    chat = await open_chat(loop=loop, providers=[{"module": vendor.module, "config": vendor.given(llm)}])
    await chat.add_result("look", {"seen": True})

    assert await chat.say('[[think: hm]][[tools: look {"x": 1} | look {"x": 2}]][[then: done]]') == "done"
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["success"]


async def test_two_instances_of_one_module_answer_side_by_side(open_chat: Any, vendor: Vendor, llm: FakeLLM) -> None:
    with FakeLLM(default="text: from the second") as second:
        chat = await open_chat(
            providers=[
                {"module": vendor.module, "config": vendor.given(llm)},
                {"module": vendor.module, "instance_id": "second", "config": vendor.given(second)},
            ]
        )
        one, two = chat.coordinator.get("providers").values()

        assert [await text(one, "hi"), await text(two, "hi")] == ["echo: hi", "from the second"]


async def test_a_missing_sdk_is_told_with_the_extra_that_brings_it(
    vendor: Vendor, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = vendor.clients
    own = "amplifier_app_api.modules.providers."
    for name in [name for name in sys.modules if name.startswith((own + "openai_", own + "ollama_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtra) as raised:
        await load_mount(vendor.module)(Coordinator(), vendor.given(llm))
    extra = vendor.module.removeprefix("provider-")
    assert str(raised.value) == (
        f"Module {vendor.module} needs the package {package!r}: install amplifier-app-api[{extra}]"
    )


def test_no_sdk_is_imported_before_a_module_is_mounted() -> None:
    modules = sorted({vendor.module for vendor in VENDORS.values()})
    script = (
        "import sys; from amplifier_app_api.modules import load_mount\n"
        f"for module in {modules}: load_mount(module)\n"
        "print([name for name in ('openai', 'ollama', 'httpx', 'httpx2') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
