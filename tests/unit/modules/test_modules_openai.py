"""`provider-openai`: what the Responses API and Chat Completions are asked, and what is made of their answers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace as Event
from typing import Any

import pytest
from amplifier_core.llm_errors import (
    ConfigurationError,
    ContentFilterError,
    InvalidRequestError,
    LLMTimeoutError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import ResponseFormatJson, ResponseFormatJsonSchema, ToolSpec, Usage
from openai.types.chat import ChatCompletionChunk

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.providers.openai_chat_replies import ChatReply
from amplifier_app_api.modules.providers.openai_models import cost_of, facts_of, reasons, window_of
from amplifier_app_api.modules.providers.openai_options import Endpoint
from amplifier_app_api.modules.providers.openai_replies import ResponsesReply
from amplifier_app_api.modules.providers.wire import AttemptStream
from doubles.fake_llm import FakeLLM
from provider_talk import SCHEMA, Coordinator, Hooks, request, result, row_of, sent, text

ENDPOINT = Endpoint("openai", "OpenAI", "responses", api_key="sk-secret")
LOOK = ToolSpec(name="look", parameters={"type": "object"}, description="Look")

Make = Callable[..., Awaitable[Any]]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=50) as double:
        yield double


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
async def make(llm: FakeLLM, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """OpenAI itself, as far as the provider knows; `api="chat"` for the other of its APIs."""
    monkeypatch.setenv("OPENAI_BASE_URL", llm.url + "/v1")
    closes: list[Any] = []

    async def mounted(**options: Any) -> Any:
        coordinator = Coordinator(hooks)
        given = {"api_key": "sk-secret", "min_retry_delay": 0, **options}
        closes.append(await load_mount("provider-openai")(coordinator, given))
        return coordinator.provider

    yield mounted
    for close in closes:
        await close()


@pytest.mark.parametrize("options", [{}, {"api_key": ""}, {"api_key": None}])
async def test_the_key_comes_from_the_config_alone(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-server")

    with pytest.raises(ConfigurationError) as raised:
        await load_mount("provider-openai")(Coordinator(), options)
    assert str(raised.value) == "provider-openai needs an api_key: write `api_key: ${OPENAI_API_KEY}` in its config"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"api": "assistants"}, "provider-openai: option 'api' must be responses or chat"),
        ({"base_url": "file:///etc"}, "provider-openai: option 'base_url' must begin with http:// or https://"),
        ({"extra_body": "x"}, "provider-openai: option 'extra_body' must be a mapping"),
    ],
)
async def test_an_option_that_cannot_be_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await load_mount("provider-openai")(Coordinator(), {"api_key": "k", **options})
    assert str(raised.value) == sentence


async def test_a_plain_call_keeps_nothing_with_the_vendor(make: Make, llm: FakeLLM) -> None:
    assert await text(await make(), {"role": "system", "content": "rules"}, "hi") == "echo: hi"

    assert sent(llm) == {
        "model": "gpt-6.1-sol",
        "instructions": "rules",
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto"},
        "prompt_cache_key": "session-1",
        "stream": True,
    }


async def test_options_and_request_shape_the_call(make: Make, llm: FakeLLM) -> None:
    provider = await make(
        default_model="gpt-4.1",
        max_tokens=100,
        temperature=0.5,
        prompt_cache_key="mine",
        prompt_cache_retention="24h",
        safety_identifier="who",
        service_tier="flex",
        truncation="auto",
        parallel_tool_calls=False,
        extra_body={"verbosity": "low"},
    )
    await text(provider, "hi", top_p=0.9, tools=[LOOK], tool_choice="any", response_format=ResponseFormatJson())

    assert sent(llm) == {
        "model": "gpt-4.1",
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [
            {
                "type": "function",
                "name": "look",
                "description": "Look",
                "parameters": {"type": "object"},
                "strict": False,
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_object"}},
        "prompt_cache_key": "mine",
        "prompt_cache_retention": "24h",
        "safety_identifier": "who",
        "service_tier": "flex",
        "truncation": "auto",
        "verbosity": "low",
        "stream": True,
    }


async def test_options_and_request_shape_a_chat_call(make: Make, llm: FakeLLM) -> None:
    provider = await make(api="chat", default_model="gpt-4.1", max_tokens=100)
    await text(
        provider,
        {"role": "system", "content": "rules"},
        "hi",
        temperature=0.5,
        stop=["END"],
        tools=[LOOK],
        tool_choice="look",
        response_format=ResponseFormatJsonSchema(json_schema=SCHEMA, strict=True),
    )

    assert sent(llm) == {
        "model": "gpt-4.1",
        "messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "hi"}],
        "store": False,
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "stop": ["END"],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Look", "parameters": {"type": "object"}}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        "prompt_cache_key": "session-1",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_compatible_server_is_sent_only_what_all_of_them_know(make: Make, llm: FakeLLM) -> None:
    provider = await make(base_url=llm.url + "/v1", default_model="llama", max_tokens=100, safety_identifier="who")
    await provider.complete(request("hi"), extended_thinking=True)

    assert sent(llm) == {
        "model": "llama",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert llm.stats()["by_endpoint"] == {"chat": 1}


@pytest.mark.parametrize(
    ("choice", "as_sent"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("look", {"type": "function", "name": "look"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "function", "name": "look"}),
        ({"type": "tool", "name": "look"}, {"type": "function", "name": "look"}),
        ({"type": "any"}, "required"),
    ],
)
async def test_the_choice_of_a_tool_may_be_written_in_any_apis_way(
    make: Make, llm: FakeLLM, choice: Any, as_sent: Any
) -> None:
    await text(await make(), "hi", tools=[LOOK], tool_choice=choice)

    assert sent(llm)["tool_choice"] == as_sent


@pytest.mark.parametrize(
    ("options", "fields", "overrides", "reasoning"),
    [
        ({}, {}, {"extended_thinking": True}, {"effort": "medium", "summary": "auto"}),
        ({"reasoning_effort": "low"}, {}, {"extended_thinking": True}, {"effort": "low", "summary": "auto"}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "xhigh"}, {}, {"effort": "xhigh", "summary": "auto"}),
        ({}, {"reasoning_effort": "low"}, {"reasoning_effort": "max"}, {"effort": "max", "summary": "auto"}),
        ({"reasoning_summary": "off"}, {"reasoning_effort": "high"}, {}, {"effort": "high"}),
        ({"reasoning_effort": "very"}, {}, {}, {"summary": "auto"}),
    ],
)
async def test_how_hard_to_think_is_said(
    make: Make, llm: FakeLLM, options: Any, fields: Any, overrides: Any, reasoning: Any
) -> None:
    await (await make(**options)).complete(request("hi", **fields), **overrides)

    assert sent(llm)["reasoning"] == reasoning


@pytest.mark.parametrize(("effort", "sent_on"), [(None, False), ("low", False), ("none", True)])
async def test_a_model_that_thinks_is_sent_no_temperature(
    make: Make, llm: FakeLLM, effort: str | None, sent_on: bool
) -> None:
    await text(await make(), "hi", temperature=0.3, top_p=0.5, reasoning_effort=effort)

    assert ("temperature" in sent(llm), "top_p" in sent(llm)) == (sent_on, sent_on)


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (SCHEMA, {"type": "json_schema", "name": "answer", "schema": SCHEMA}),
        ({"title": "My Answer", **SCHEMA}, {"type": "json_schema", "name": "My_Answer"}),
        (
            {"name": "wrapped", "schema": SCHEMA, "strict": True},
            {"type": "json_schema", "name": "wrapped", "schema": SCHEMA, "strict": True},
        ),
    ],
)
async def test_a_wanted_form_is_named(make: Make, llm: FakeLLM, schema: Any, wanted: Any) -> None:
    await text(await make(), "hi", response_format=ResponseFormatJsonSchema(json_schema=schema))

    assert sent(llm)["text"]["format"] | wanted == sent(llm)["text"]["format"]


async def test_what_the_model_thought_goes_back_sealed(make: Make, llm: FakeLLM) -> None:
    provider = await make()
    said = '[[think: hm]][[say: so]][[tool: look {"x": 1}]][[then: done]]'
    asked = await provider.complete(request(said, tools=[LOOK]))
    call = asked.tool_calls[0]

    assert await text(provider, said, row_of(asked), result(call.id, "seen"), tools=[LOOK]) == "done"
    thought = asked.content[0]
    sealed, item_id = thought.content
    assert sent(llm)["input"][1:] == [
        {
            "type": "reasoning",
            "id": item_id,
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": sealed,
        },
        {"role": "assistant", "content": "so"},
        {"type": "function_call", "call_id": call.id, "name": "look", "arguments": '{"x": 1}'},
        {"type": "function_call_output", "call_id": call.id, "output": "seen"},
    ]


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": "hm", "signature": "of anthropic"},
        {"type": "thinking", "thinking": "hm", "content": ["sealed", "rs_1"], "made_by": "azure-openai"},
        {"type": "thinking", "thinking": "hm", "content": [None, "rs_1"]},
        {"type": "redacted_thinking", "data": "x"},
    ],
)
async def test_what_another_provider_thought_is_left_out(make: Make, llm: FakeLLM, thought: Any) -> None:
    answer = {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}]}
    await text(await make(), "go", answer, "on")

    assert [item.get("type", item.get("role")) for item in sent(llm)["input"]] == ["user", "assistant", "user"]


async def test_thoughts_that_lead_to_nothing_are_left_out(make: Make, llm: FakeLLM) -> None:
    thought = {"type": "thinking", "thinking": "hm", "content": ["sealed", "rs_1"]}
    await text(await make(), "go", {"role": "assistant", "content": [thought]}, "on")

    assert [item["role"] for item in sent(llm)["input"]] == ["user", "user"]


async def test_thoughts_the_api_cannot_open_are_left_out_and_it_is_asked_again(make: Make, llm: FakeLLM) -> None:
    thought = {"type": "thinking", "thinking": "hm", "content": ["sealed", "rs_1"]}
    llm.queue('error: status=400 code=invalid_encrypted_content message="The encrypted content is not ours"')

    answer = {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}]}
    assert await text(await make(), "go", answer, "on") == "echo: on"
    first, second = (call["body"]["input"] for call in llm.recorded())
    assert [item.get("type") for item in first] == [None, "reasoning", None, None]
    assert [item.get("type") for item in second] == [None, None, None]


async def test_another_refusal_is_not_taken_for_one_of_thoughts(make: Make, llm: FakeLLM) -> None:
    thought = {"type": "thinking", "thinking": "hm", "content": ["sealed", "rs_1"]}
    llm.queue('error: status=400 message="no such tool"')

    with pytest.raises(InvalidRequestError):
        await text(await make(), "go", {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}]})
    assert llm.stats()["requests"] == 1


async def test_an_instruction_within_the_conversation_stays_in_its_place(make: Make, llm: FakeLLM) -> None:
    await text(await make(), "one", {"role": "system", "content": "from now on"}, "two")

    assert sent(llm)["input"] == [
        {"role": "user", "content": "one"},
        {"role": "developer", "content": "from now on"},
        {"role": "user", "content": "two"},
    ]
    assert "instructions" not in sent(llm)


async def test_pictures_go_along_by_address_and_in_a_tools_result(make: Make, llm: FakeLLM) -> None:
    far = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    near = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}}
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": "c1", "name": "look", "input": {}}]}
    shown = result("c1", [{"type": "text", "text": "seen"}, near])
    rows = [{"role": "user", "content": [{"type": "text", "text": "see"}, far]}, asked, shown]

    await text(await make(), *rows)
    assert sent(llm)["input"][0]["content"] == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"},
    ]
    assert sent(llm)["input"][2]["output"] == [
        {"type": "input_text", "text": "seen"},
        {"type": "input_image", "image_url": "data:image/jpeg;base64,QUJD", "detail": "auto"},
    ]

    await text(await make(api="chat"), *rows)
    assert sent(llm)["messages"][2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "[Pictures the tools returned]"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
            ],
        },
    ]


async def test_an_id_of_another_provider_that_is_too_long_is_shortened_alike_everywhere(
    make: Make, llm: FakeLLM
) -> None:
    long = "toolu_" + "x" * 100
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": long, "name": "look", "input": {}}]}
    await text(await make(), "go", asked, result(long, "seen"))

    call, output = sent(llm)["input"][1:]
    assert call["call_id"] == output["call_id"]
    assert len(call["call_id"]) <= 64


async def test_what_a_server_thought_goes_back_to_it_while_the_turn_lasts(make: Make, llm: FakeLLM) -> None:
    provider = await make(base_url=llm.url + "/v1")
    said = "[[think: hm]][[tool: look {}]][[then: done]]"
    asked = await provider.complete(request(said, tools=[LOOK]))
    seen = result(asked.tool_calls[0].id, "seen")

    await text(provider, said, row_of(asked), seen)
    assert sent(llm)["messages"][1]["reasoning_content"] == "hm"
    await text(provider, said, row_of(asked), seen, "and now?")
    assert "reasoning_content" not in sent(llm)["messages"][1]


@pytest.mark.parametrize(
    ("said", "stop", "shown"),
    [
        ("[[text: one two END three]]", ["END"], "one two "),
        ("[[text: one EN]]", ["END"], "one EN"),
        ("[[text: one E N D]][[chunk: chars=1]]", ["END"], "one E N D"),
        ("[[text: abcENDdef]][[chunk: chars=1]]", ["cE", "END"], "ab"),
    ],
)
async def test_a_stop_sequence_ends_what_the_responses_api_would_go_on_with(
    make: Make, hooks: Hooks, said: str, stop: list[str], shown: str
) -> None:
    assert await text(await make(), said, stop=stop) == shown
    assert hooks.streamed("text") == shown


async def test_no_call_is_made_after_a_stop_sequence(make: Make) -> None:
    response = await (await make()).complete(request('[[say: one END]][[tool: look {"x": 1}]]', stop=["END"]))

    assert (response.tool_calls, response.finish_reason) == (None, "stop")


@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_usage_includes_the_cache_and_the_cost(make: Make, api: str) -> None:
    provider = await make(api=api, default_model="gpt-5.2")
    response = await provider.complete(request("[[usage: input=11000 output=100 cache_read=10000 reasoning=40]]"))

    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11_000, 100, 11_100)
    assert (usage.cache_read_tokens, usage.reasoning_tokens) == (10_000, 40)
    assert usage.cost_usd == Decimal("0.0049")  # (1000 * 1.75 + 10000 * 0.175 + 100 * 14) by the million


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [("insufficient_quota", QuotaExceededError), ("content_filter", ContentFilterError), ("other", RateLimitError)],
)
async def test_the_apis_code_says_more_than_the_status(make: Make, api: str, code: str, kind: Any) -> None:
    with pytest.raises(RateLimitError if kind is not ContentFilterError else kind) as raised:
        await text(await make(api=api, max_retries=0), f"[[error: status=429 code={code}]]")
    assert type(raised.value) is kind


async def test_models_that_do_not_talk_are_left_out(make: Make, llm: FakeLLM) -> None:
    llm.options.models = ("gpt-5.2", "gpt-audio-mini", "text-embedding-3-large", "o3", "whisper-1", "gpt-image-1")

    assert [model.id for model in await (await make()).list_models()] == ["gpt-5.2", "o3"]
    assert len(await (await make(filtered=False)).list_models()) == 6


def test_a_long_prompt_costs_more_and_is_kept_out_of_the_window_unless_wanted() -> None:
    short = Usage(input_tokens=272_000, output_tokens=1_000, total_tokens=273_000)
    long = Usage(input_tokens=272_001, output_tokens=1_000, total_tokens=273_001)

    assert cost_of("gpt-6.1-sol", short) == Decimal("0.554")
    assert cost_of("gpt-6.1-sol-2026-09-29", long) == Decimal("1.103004")
    assert window_of("gpt-6.1-sol", long_context=False) == 400_000
    assert window_of("gpt-6.1-sol", long_context=True) == 1_050_000
    assert window_of("gpt-4.1", long_context=False) == 1_047_576


def test_a_model_that_nobody_knows_has_no_price_and_a_careful_window() -> None:
    usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)

    assert cost_of("gpt-9-nova", usage) is None
    assert (facts_of("gpt-9-nova").context_window, facts_of("mine").context_window) == (400_000, 128_000)


@pytest.mark.parametrize(
    ("model", "thinks"),
    [("gpt-5", True), ("gpt-10-sol", True), ("o3", True), ("gpt-4.1", False), ("gpt-5.2-chat-latest", False)],
)
def test_the_name_says_whether_a_model_thinks(model: str, thinks: bool) -> None:
    assert reasons(model) is thinks


# What the double does not send: events of the Responses API, chunks of odd servers.


def responses_reply(hooks: Hooks | None = None) -> ResponsesReply:
    return ResponsesReply(ENDPOINT, "gpt-6.1-sol", AttemptStream(hooks))


def finished(status: str = "completed", reason: str | None = None) -> Event:
    details = Event(reason=reason) if reason else None
    return Event(type=f"response.{status}", response=Event(incomplete_details=details, usage=None))


def item(kind: str, **fields: Any) -> list[Event]:
    made = Event(type=kind, **fields)
    return [
        Event(type="response.output_item.added", output_index=0, item=made),
        Event(type="response.output_item.done", output_index=0, item=made),
    ]


async def feed(reply: Any, *events: Any) -> Any:
    for event in events:
        await reply.feed(event)
    return reply.response()


async def test_the_phase_of_a_message_is_kept_and_goes_back(make: Make, llm: FakeLLM) -> None:
    parts = [Event(type="output_text", text="looking")]
    response = await feed(responses_reply(), *item("message", content=parts, phase="commentary"), finished())

    await text(await make(), "go", row_of(response), "on")
    assert sent(llm)["input"][1] == {"role": "assistant", "content": "looking", "phase": "commentary"}


async def test_a_refusal_is_a_text_and_the_reason_to_end() -> None:
    added, done = item("message", content=[Event(type="refusal", refusal="I will not")])
    delta = Event(type="response.refusal.delta", output_index=0, delta="I will not")
    response = await feed(responses_reply(), added, delta, done, finished())

    assert ([block.text for block in response.content], response.finish_reason) == (["I will not"], "refusal")


async def test_parts_of_a_summary_are_paragraphs() -> None:
    hooks = Hooks()
    added, done = item("reasoning", id="rs_1", summary=[], content=None, encrypted_content="sealed")
    parts = [
        Event(type="response.reasoning_summary_text.delta", output_index=0, summary_index=index, delta=words)
        for index, words in [(0, "one"), (0, " more"), (1, "two")]
    ]
    response = await feed(responses_reply(hooks), added, *parts, done, finished())

    assert response.content[0].thinking == hooks.streamed("thinking") == "one more\n\ntwo"


async def test_a_call_cut_off_by_the_limit_on_tokens_is_not_made() -> None:
    added, _ = item("function_call", name="write", call_id="c", arguments='{"pa')
    response = await feed(responses_reply(), added, finished("incomplete", "max_output_tokens"))

    assert (response.content, response.tool_calls, response.finish_reason) == ([], None, "length")


async def test_a_call_whose_arguments_are_broken_is_a_broken_stream() -> None:
    with pytest.raises(StreamError, match="A tool call's arguments are broken"):
        await feed(responses_reply(), *item("function_call", name="w", call_id="c", arguments='{"pa'), finished())


async def test_an_answer_that_was_filtered_whole_is_an_error() -> None:
    with pytest.raises(ContentFilterError):
        await feed(responses_reply(), finished("incomplete", "content_filter"))


async def test_kinds_of_items_that_nobody_knows_are_left_out() -> None:
    hooks = Hooks()
    response = await feed(responses_reply(hooks), *item("web_search_call"), Event(type="response.new"), finished())

    assert (response.content, hooks.names()) == ([], [])


def failed(code: str) -> Event:
    return Event(type="response.failed", response=Event(error=Event(code=code, message="sk-secret broke")))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (failed("server_error"), ProviderUnavailableError),
        (Event(type="error", code="rate_limit_exceeded", message="slow down, sk-secret"), RateLimitError),
        (failed("bio_policy"), ContentFilterError),
        (failed("invalid_image_url"), InvalidRequestError),
        (failed("vector_store_timeout"), LLMTimeoutError),
        (Event(type="response.failed", response=Event(error=None)), StreamError),
    ],
)
async def test_a_failure_told_within_the_stream_has_the_kernels_class(event: Event, kind: Any) -> None:
    with pytest.raises(kind) as raised:
        await feed(responses_reply(), event)
    assert "sk-secret" not in str(raised.value)


def chunk(finish: str | None = None, **delta: Any) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return ChatCompletionChunk.construct(id="c", choices=[choice], created=0, model="m", object="chat.completion.chunk")


def calling(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}]}


async def chat_reply(*chunks: Any, hooks: Hooks | None = None) -> Any:
    return await feed(ChatReply(ENDPOINT, "m", AttemptStream(hooks)), *chunks)


async def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    one, two = calling(0, "a", "look", '{"x": 1}'), calling(0, "b", "look", '{"x": 2}')
    response = await chat_reply(chunk(**one), chunk(**two), chunk("tool_calls"))

    assert [(call.id, call.arguments) for call in response.tool_calls] == [("a", {"x": 1}), ("b", {"x": 2})]


async def test_calls_without_an_id_get_one_each() -> None:
    both = {
        "tool_calls": [*calling(None, None, "look", "{}")["tool_calls"], *calling(None, "", "look", "{}")["tool_calls"]]
    }
    response = await chat_reply(chunk(**both), chunk("tool_calls"))

    ids = [call.id for call in response.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") for one in ids)


async def test_a_call_that_repeats_its_id_in_every_piece_is_one_call() -> None:
    pieces = [calling(0, "a", "look", '{"x"'), calling(0, "a", None, ": 1}")]
    response = await chat_reply(*(chunk(**piece) for piece in pieces), chunk("tool_calls"))

    assert [call.arguments for call in response.tool_calls] == [{"x": 1}]


async def test_thoughts_are_known_under_either_name() -> None:
    hooks = Hooks()
    response = await chat_reply(chunk(reasoning="hm"), chunk(content="so"), chunk("stop"), hooks=hooks)

    assert [block.type for block in response.content] == ["thinking", "text"]
    assert (hooks.streamed("thinking"), hooks.streamed("text")) == ("hm", "so")


async def test_a_chat_that_ends_without_a_reason_is_a_broken_stream() -> None:
    with pytest.raises(StreamError, match="The answer ended before it was complete"):
        await chat_reply(chunk(content="so"))


async def test_a_name_that_comes_behind_the_id_is_taken() -> None:
    pieces = [calling(0, "a", None, None), calling(0, None, "look", '{"x": 1}')]
    response = await chat_reply(*(chunk(**piece) for piece in pieces), chunk("tool_calls"))

    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [("a", "look", {"x": 1})]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("written", ['{"pa', ""])
async def test_of_a_chat_that_was_cut_off_the_complete_calls_are_made(reason: str, written: str) -> None:
    whole, cut = calling(0, "a", "look", ""), calling(1, "b", "write", written)
    response = await chat_reply(chunk(**whole), chunk(**cut), chunk(reason))

    assert [(call.id, call.arguments) for call in response.tool_calls] == [("a", {})]


async def test_a_call_whose_item_ended_where_the_answer_was_filtered_is_not_made() -> None:
    parts = item("function_call", name="write", call_id="c", arguments='{"pa')
    with pytest.raises(ContentFilterError):
        await feed(responses_reply(), *parts, finished("incomplete", "content_filter"))


async def test_what_a_thought_led_to_goes_back_right_behind_it(make: Make, llm: FakeLLM) -> None:
    def thought(number: int) -> dict[str, Any]:
        return {
            "type": "thinking",
            "thinking": "",
            "content": [f"sealed {number}", f"rs_{number}"],
            "made_by": "openai",
        }

    def call(number: int) -> dict[str, Any]:
        return {"type": "tool_call", "id": f"c{number}", "name": "functions.look", "input": {}}

    asked = {"role": "assistant", "content": [thought(1), call(1), thought(2), call(2)]}
    await text(await make(), "go", asked, result("c1", "a"), result("c2", "b"))

    items = sent(llm)["input"][1:]
    assert [one["type"] for one in items] == ["reasoning", "function_call"] * 2 + ["function_call_output"] * 2
    assert [one.get("id") or one.get("call_id") for one in items[:4]] == ["rs_1", "c1", "rs_2", "c2"]
    assert {one["name"] for one in items if one["type"] == "function_call"} == {"functions_look"}


async def test_a_chat_sends_back_names_the_api_takes(make: Make, llm: FakeLLM) -> None:
    asked = {"role": "assistant", "content": [{"type": "tool_call", "id": "c", "name": "functions.look", "input": {}}]}
    await text(await make(api="chat"), "go", asked, result("c", "a"))

    assert sent(llm)["messages"][1]["tool_calls"][0]["function"]["name"] == "functions_look"


async def test_a_reason_that_says_nothing_ends_nothing() -> None:
    hooks = Hooks()
    response = await chat_reply(chunk("", content="one"), chunk("", content=" two"), chunk("stop"), hooks=hooks)

    assert [block.text for block in response.content] == ["one two"]
    assert len(hooks.of("llm:stream_block_start")) == 1


async def test_a_thought_and_a_text_of_one_piece_are_both_kept() -> None:
    response = await chat_reply(chunk("stop", reasoning_content="hm", content="so"))

    assert [(block.type, getattr(block, "thinking", "") or block.text) for block in response.content] == [
        ("thinking", "hm"),
        ("text", "so"),
    ]
