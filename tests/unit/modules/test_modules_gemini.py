"""`provider-gemini` with Google's own SDK against the model double."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from amplifier_core.llm_errors import (
    AccessDeniedError,
    AuthenticationError,
    ConfigurationError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    NetworkError,
    NotFoundError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import ChatRequest, Message, ToolSpec
from amplifier_core.testing import EventRecorder, MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.providers.clients import open_clients
from amplifier_app_api.modules.providers.gemini_contents import SHORTENED, translate
from amplifier_app_api.modules.providers.gemini_options import GeminiOptions
from amplifier_app_api.modules.providers.gemini_provider import GeminiProvider
from doubles.fake_llm import FakeLLM

KEY = "AIza-very-secret"
DEADLINE = 10

MakeProvider = Callable[..., GeminiProvider]


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
    made: list[GeminiProvider] = []

    def make(**options: Any) -> GeminiProvider:
        given = {"api_key": KEY, "base_url": llm.url, "min_retry_delay": 0, **options}
        made.append(GeminiProvider(GeminiOptions.read(given), hooks))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def request(*rows: Any, **fields: Any) -> ChatRequest:
    made = [row if isinstance(row, dict) else {"role": "user", "content": row} for row in rows]
    return ChatRequest(messages=[Message.model_validate(row) for row in made], **fields)


async def text(provider: GeminiProvider, *rows: Any, **fields: Any) -> str:
    response = await provider.complete(request(*rows, **fields))
    return "".join(block.text for block in response.content if block.type == "text")


def sent(llm: FakeLLM) -> dict[str, Any]:
    return camel(llm.recorded()[-1]["body"])


def camel(value: Any) -> Any:
    """The API takes names in both spellings, and the SDK sends both."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda m: m[1].upper(), key): camel(item) for key, item in value.items()}
    return value


LOOK = ToolSpec(name="look", parameters={"type": "object", "properties": {"at": {"type": "integer"}}})


@pytest.mark.parametrize("options", [{}, {"api_key": ""}])
async def test_the_key_comes_from_the_config_alone(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "of-the-server")

    with pytest.raises(ConfigurationError) as raised:
        await load_mount("provider-gemini")(MockCoordinator(), options)
    assert str(raised.value) == "provider-gemini needs an api_key: write `api_key: ${GEMINI_API_KEY}` in its config"


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


async def test_a_request_that_is_not_to_be_streamed_shows_nothing(provider: MakeProvider, hooks: Hooks) -> None:
    assert await text(provider(), "hi", metadata={"stream": False}) == "echo: hi"
    assert hooks.names() == ["llm:request", "llm:response"]


async def test_without_streaming_the_answer_comes_in_one_piece(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    response = await provider(use_streaming=False).complete(
        request('[[think: hm]][[say: so]][[tool: look {"at": 1}]]', tools=[LOOK])
    )

    assert [block.type for block in response.content] == ["thinking", "text", "tool_call"]
    assert response.tool_calls is not None
    assert response.tool_calls[0].arguments == {"at": 1}
    assert response.finish_reason == "tool_use"
    assert [data["text"] for data in hooks.of("llm:stream_block_delta")] == ["hm", "so"]
    assert llm.stats()["streamed"] == 0


@pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
async def test_a_turn_with_thoughts_and_tools_runs_on_the_kernel(open_chat: Any, llm: FakeLLM, loop: str) -> None:
    chat = await open_chat(
        loop=loop,
        providers=[{"module": "provider-gemini", "config": {"api_key": KEY, "base_url": llm.url}}],
    )
    await chat.add_result("look", {"seen": True})

    said = '[[think: hm]][[tools: look {"at": 1} | look {"at": 2}]][[then: done]]'
    assert await chat.say(said) == "done"

    user, model, results = sent(llm)["contents"]
    assert (user["role"], model["role"], results["role"]) == ("user", "model", "user")
    assert [part["functionCall"]["args"] for part in model["parts"]] == [{"at": 1}, {"at": 2}]
    signatures = [part.get("thoughtSignature") for part in model["parts"]]
    assert base64.b64decode(signatures[0]).startswith(b"sig_")  # as it came, with the first of the calls
    assert signatures[1] is None
    answers = [part["functionResponse"] for part in results["parts"]]
    assert [answer["response"] for answer in answers] == [{"output": '{"seen": true}'}] * 2
    assert [answer["id"] for answer in answers] == [part["functionCall"]["id"] for part in model["parts"]]
    assert [answer["name"] for answer in answers] == ["look", "look"]


async def test_a_signature_behind_a_text_is_kept_with_it_and_sent_back(provider: MakeProvider, llm: FakeLLM) -> None:
    response = await provider().complete(request("[[think: hm]][[text: yes]]"))
    row = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in response.content]}
    assert [block["type"] for block in row["content"]] == ["thinking", "text"]

    await text(provider(), "a", row, "b")

    [part] = sent(llm)["contents"][1]["parts"]  # the thought itself does not go back
    assert part["text"] == "yes"
    assert base64.b64decode(part["thoughtSignature"]).startswith(b"sig_")


@pytest.mark.parametrize(
    ("model", "expected"), [("gemini-3.8-flash", b"skip_thought_signature_validator"), ("gemini-2.5-flash", None)]
)
async def test_a_call_that_another_model_made_goes_without_its_signature(
    provider: MakeProvider, llm: FakeLLM, model: str, expected: bytes | None
) -> None:
    asked = {
        "role": "assistant",
        "content": [{"type": "tool_call", "id": "toolu_1", "name": "look", "input": {"at": 1}}],
    }
    answered = {"role": "tool", "tool_call_id": "toolu_1", "content": "seen"}

    await text(provider(model=model), "go", asked, answered)

    signature = sent(llm)["contents"][1]["parts"][0].get("thoughtSignature")
    assert signature == (None if expected is None else base64.b64encode(expected).decode())


async def test_usage_includes_the_cache_the_thoughts_and_the_cost(provider: MakeProvider) -> None:
    response = await provider(model="gemini-2.5-flash").complete(
        request("[[think: a b]][[text: c]][[usage: input=1000 output=100 cache_read=9000 reasoning=40]]")
    )

    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10_000, 100, 10_100)
    assert (usage.reasoning_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (40, 9_000, None)
    assert usage.cost_usd == Decimal("0.00082")  # 1000 * 0.30 + 9000 * 0.03 + 100 * 2.50, by the million


ERRORS: list[tuple[str, type[LLMError]]] = [
    ("status=400", InvalidRequestError),
    ('status=400 message="The input token count (9) exceeds the maximum"', ContextLengthError),
    ("status=400 code=API_KEY_INVALID", AuthenticationError),
    ("status=401", AuthenticationError),
    ("status=403", AccessDeniedError),
    ("status=404", NotFoundError),
    ("status=429", RateLimitError),
    ("status=429 code=GenerateRequestsPerDayPerProject", QuotaExceededError),
    ("status=500", ProviderUnavailableError),
    ("status=503", ProviderUnavailableError),
    ("status=504", LLMTimeoutError),
]


@pytest.mark.parametrize(("told", "expected"), ERRORS, ids=[told for told, _ in ERRORS])
async def test_an_error_is_the_kernels(
    provider: MakeProvider, hooks: Hooks, told: str, expected: type[LLMError]
) -> None:
    with pytest.raises(LLMError) as raised:
        await text(provider(max_retries=0), f"[[error: {told}]]")

    assert type(raised.value) is expected
    assert raised.value.status_code == int(told[7:10])
    assert [data["status"] for data in hooks.of("llm:response")] == ["error"]


async def test_an_overload_is_retried_and_told(provider: MakeProvider, hooks: Hooks, llm: FakeLLM) -> None:
    assert await text(provider(), "[[error: status=503 times=2 retry_after=0]] hi") == "echo: hi"

    told = [(data["attempt"], data["error_type"], data["retry_after"]) for data in hooks.of("provider:retry")]
    assert told == [(1, "ProviderUnavailableError", 0.0), (2, "ProviderUnavailableError", 0.0)]
    assert llm.stats()["by_status"] == {"503": 2, "200": 1}


async def test_a_longer_wait_than_the_options_allow_is_left_to_the_caller(provider: MakeProvider, llm: FakeLLM) -> None:
    with pytest.raises(RateLimitError) as raised:
        await text(provider(max_retry_delay=5), "[[error: status=429 retry_after=37]]")

    assert raised.value.retry_after == 37.0
    assert llm.stats()["requests"] == 1


async def test_an_error_within_the_answer_takes_it_back_and_tries_again(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    llm.queue("midstream: after=2", "text: at last")

    assert await text(provider(), "one two three") == "at last"

    first, second = hooks.of("llm:stream_block_start")
    assert first["request_id"] != second["request_id"]
    [aborted] = hooks.of("llm:stream_aborted")
    assert aborted["request_id"] == first["request_id"]
    assert aborted["error"] == {"type": "ProviderUnavailableError", "msg": "scripted mid-stream error"}


async def test_a_connection_that_breaks_within_the_answer_is_a_broken_stream(provider: MakeProvider) -> None:
    with pytest.raises(StreamError, match="The connection broke while the answer was coming"):
        await text(provider(max_retries=0), "[[disconnect: after=1]] a b c")


async def test_a_server_that_cannot_be_reached_is_a_network_error(provider: MakeProvider) -> None:
    with pytest.raises(NetworkError, match="The API cannot be reached"):
        await text(provider(base_url="http://127.0.0.1:9", max_retries=0), "hi")


async def test_a_server_that_does_not_answer_in_time_is_a_timeout(provider: MakeProvider) -> None:
    with pytest.raises(LLMTimeoutError):
        await text(provider(timeout=0.05, max_retries=0), "[[delay: ms=60000]]")


async def test_what_the_sdk_does_not_send_is_an_invalid_request(provider: MakeProvider, llm: FakeLLM) -> None:
    with pytest.raises(InvalidRequestError, match="The SDK refuses the request"):
        await provider().complete(request("hi"), temperature="hot")

    assert llm.stats()["requests"] == 0


async def test_an_answer_that_the_api_holds_back_is_filtered(provider: MakeProvider, hooks: Hooks) -> None:
    with pytest.raises(ContentFilterError, match="The API refused to answer: SAFETY"):
        await text(provider(), "[[text: half an]][[stop: SAFETY]]")

    assert len(hooks.of("llm:stream_aborted")) == 1


async def test_a_call_that_the_model_garbled_is_asked_for_again(
    provider: MakeProvider, hooks: Hooks, llm: FakeLLM
) -> None:
    llm.queue("stop: MALFORMED_FUNCTION_CALL", "text: at last")

    assert await text(provider(), "hi") == "at last"
    assert [data["error_type"] for data in hooks.of("provider:retry")] == ["StreamError"]


async def test_cancelling_closes_the_connection_at_once(provider: MakeProvider, llm: FakeLLM) -> None:
    began = asyncio.Event()
    held = asyncio.Event()

    class Holding(Hooks):
        async def emit(self, event: str, data: dict[str, Any]) -> Any:
            if event == "llm:stream_block_delta":
                began.set()
                await held.wait()  # the SDK's generators are not running when the task is cancelled
            return await super().emit(event, data)

    one = provider()
    one._hooks = Holding()
    task = asyncio.create_task(text(one, "[[slow: tokens=1000 delay_ms=20]]"))
    async with asyncio.timeout(DEADLINE):
        await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(llm.wait_for_abort) == 1


async def test_the_key_is_in_no_error_and_no_event(provider: MakeProvider, hooks: Hooks) -> None:
    with pytest.raises(LLMError) as raised:
        await text(provider(max_retries=0), f'[[error: status=400 message="bad key {KEY}"]]')

    assert str(raised.value) == "bad key [api_key]"
    assert all(KEY not in str(data) for _, data in hooks.events)
    assert KEY not in repr(provider()._options)


async def test_options_and_request_shape_the_call(provider: MakeProvider, llm: FakeLLM) -> None:
    await text(
        provider(max_tokens=100, temperature=0.5, effort="low", extended_thinking=True),
        {"role": "system", "content": "rules"},
        "hi",
        stop=["END"],
        top_p=0.5,
        tools=[LOOK, ToolSpec(name="rest", parameters={"type": "object"}, description="Rest")],
        tool_choice="look",
    )

    body = sent(llm)
    assert body["model"] == "gemini-3.8-flash"
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    assert [part["text"] for part in body["systemInstruction"]["parts"]] == ["rules"]
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "look", "description": "", "parametersJsonSchema": LOOK.parameters},
                {"name": "rest", "description": "Rest"},
            ]
        }
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}}
    assert body["generationConfig"] == {
        "maxOutputTokens": 100,
        "temperature": 0.5,
        "topP": 0.5,
        "stopSequences": ["END"],
        "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
    }


@pytest.mark.parametrize(
    ("options", "effort", "expected"),
    [
        ({}, None, None),
        ({}, "xhigh", {"thinkingLevel": "HIGH"}),
        ({"model": "gemini-2.5-pro"}, "low", {"thinkingBudget": 1_024}),
        ({"thinking_budget_tokens": 2_000}, None, {"includeThoughts": True, "thinkingBudget": 2_000}),
    ],
)
async def test_thinking_is_asked_for_as_the_model_can(
    provider: MakeProvider, llm: FakeLLM, options: Any, effort: Any, expected: Any
) -> None:
    await text(provider(**options), "hi", reasoning_effort=effort)

    assert (sent(llm).get("generationConfig") or {}).get("thinkingConfig") == expected


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


async def test_a_schema_shapes_the_answer(provider: MakeProvider, llm: FakeLLM) -> None:
    asked = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}

    assert json.loads(await text(provider(), "hi", response_format=asked, tools=[LOOK])) == {"n": 1}
    assert sent(llm)["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}


async def test_an_older_model_is_asked_for_json_in_words_beside_tools(provider: MakeProvider, llm: FakeLLM) -> None:
    asked = {"type": "json_schema", "json_schema": SCHEMA}
    await text(provider(model="gemini-2.5-flash"), "hi", response_format=asked, tools=[LOOK])

    assert sent(llm)["generationConfig"] == {}
    assert json.dumps(SCHEMA) in sent(llm)["systemInstruction"]["parts"][0]["text"]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (
            {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"},
            {"inlineData": {"data": "R0lGODlh", "mimeType": "image/gif"}},
        ),
        (
            {"type": "url", "url": "https://images.example/cat.png?size=1"},
            {"fileData": {"fileUri": "https://images.example/cat.png?size=1", "mimeType": "image/png"}},
        ),
    ],
)
async def test_an_image_goes_with_the_words(provider: MakeProvider, llm: FakeLLM, source: Any, part: Any) -> None:
    row = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]}

    assert await text(provider(), row) == "echo: what is it?"
    assert sent(llm)["contents"][0]["parts"] == [part, {"text": "what is it?"}]


async def test_a_repaired_conversation_is_told(provider: MakeProvider, hooks: Hooks, llm: FakeLLM) -> None:
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": "c1", "name": "look", "input": {}}]}

    assert await text(provider(), "go", asked, "still there?") == "echo: still there?"
    assert hooks.of("provider:tool_sequence_repaired") == [
        {"provider": "gemini", "repair_count": 1, "repairs": [{"tool_call_id": "c1", "tool_name": "look"}]}
    ]
    answer = sent(llm)["contents"][2]["parts"][0]["functionResponse"]
    assert answer["response"] == {"error": "No result: the call was interrupted"}


def test_a_conversation_that_was_shortened_still_begins_with_the_user() -> None:
    rows = [
        Message(role="system", content="rules"),
        Message(role="assistant", content="hello"),
        Message(role="developer", content="be brief"),
        Message(role="user", content=" "),
    ]

    made = translate(rows, signed=True)

    assert made.system == ["rules"]
    assert made.turns == [
        {"role": "user", "parts": [{"text": SHORTENED}]},
        {"role": "model", "parts": [{"text": "hello"}]},
        {"role": "user", "parts": [{"text": "<system-reminder>\nbe brief\n</system-reminder>"}]},
    ]


async def test_models_are_listed_by_the_api(provider: MakeProvider) -> None:
    models = {model.id: model for model in await provider().list_models()}

    assert models["fake-echo"].context_window == 1_048_576
    assert "embedding" not in models  # it generates nothing


async def test_the_window_is_told_to_the_context(provider: MakeProvider) -> None:
    assert provider(model="models/gemini-2.5-pro", max_tokens=4_000).get_info().defaults == {
        "model": "gemini-2.5-pro",
        "context_window": 1_048_576,
        "max_output_tokens": 4_000,
    }


async def test_twenty_sessions_on_two_keys_share_two_clients_and_no_word(open_chat: Any, llm: FakeLLM) -> None:
    chats = [
        await open_chat(
            providers=[{"module": "provider-gemini", "config": {"api_key": f"key-{n % 2}", "base_url": llm.url}}]
        )
        for n in range(20)
    ]

    answers = await asyncio.gather(*(chat.say(f"[[pace: ms=1]] I am {n}") for n, chat in enumerate(chats)))

    assert answers == [f"echo: I am {n}" for n in range(20)]
    clients = [chat.coordinator.get("providers")["gemini"]._client().client for chat in chats]
    assert len({id(client) for client in clients}) == open_clients("gemini") == 2
    for n, chat in enumerate(chats):
        shown = "".join(data["text"] for data in chat.of("llm:stream_block_delta"))
        assert shown == f"echo: I am {n}"
        await chat.session.cleanup()
    assert open_clients("gemini") == 0


def test_parts_go_back_in_the_order_they_came() -> None:
    signature = base64.b64encode(b"sig").decode()
    blocks = [
        {"type": "text", "text": "first"},
        {"type": "tool_call", "id": "c1", "name": "functions/look", "input": {}},
        {"type": "text", "text": "then", "thought_signature": signature},
        {"type": "tool_call", "id": "c2", "name": "look", "input": {}},
    ]
    rows = [
        Message.model_validate(row)
        for row in ({"role": "user", "content": "go"}, {"role": "assistant", "content": blocks})
    ]

    parts = translate(rows, signed=True).turns[1]["parts"]

    assert [part.get("text") or part["function_call"]["name"] for part in parts] == [
        "first",
        "functions_look",
        "then",
        "look",
    ]
    assert [part.get("thought_signature") for part in parts] == [
        None,
        b"skip_thought_signature_validator",
        b"sig",
        None,
    ]
