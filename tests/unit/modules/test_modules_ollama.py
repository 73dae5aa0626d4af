"""`provider-ollama`: what the server is asked, and what is made of its answers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.llm_errors import InvalidRequestError, NotFoundError, RateLimitError
from amplifier_core.message_models import ResponseFormatJson, ResponseFormatJsonSchema, ToolSpec

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.providers.ollama_replies import OllamaReply
from amplifier_app_api.modules.providers.wire import AttemptStream
from doubles.fake_llm import FakeLLM
from provider_talk import PICTURE_ELSEWHERE, SCHEMA, Coordinator, Hooks, request, result, row_of, sent, text

DEEP = {
    "type": "object",
    "properties": {
        "at": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        "how": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "additionalProperties": False,
}
LOOK = ToolSpec(name="look", parameters=DEEP, description="Look")
OTHER = ToolSpec(name="other", parameters={"type": "object"})

Make = Callable[..., Awaitable[Any]]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=50) as double:
        yield double


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
async def make(llm: FakeLLM, hooks: Hooks) -> AsyncIterator[Make]:
    closes: list[Any] = []

    async def mounted(**options: Any) -> Any:
        coordinator = Coordinator(hooks)
        given = {"host": llm.url, "min_retry_delay": 0, **options}
        closes.append(await load_mount("provider-ollama")(coordinator, given))
        return coordinator.provider

    yield mounted
    for close in closes:
        await close()


async def test_a_plain_call_says_how_much_the_model_is_to_see(make: Make, llm: FakeLLM) -> None:
    provider = await make()
    assert await text(provider, {"role": "system", "content": "rules"}, "hi") == "echo: hi"

    assert sent(llm) == {
        "model": "llama3.2:3b",
        "messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "options": {"num_ctx": 16_384, "num_predict": 4_096},
    }
    assert provider.get_info().defaults == {
        "model": "llama3.2:3b",
        "context_window": 16_384,
        "max_output_tokens": 4_096,
    }


async def test_options_and_request_shape_the_call(make: Make, llm: FakeLLM) -> None:
    provider = await make(num_ctx=0, keep_alive="5m", temperature=0.5, max_tokens=100, enable_thinking=False)
    await text(provider, "hi", top_p=0.9, stop=["END"], response_format=ResponseFormatJsonSchema(json_schema=SCHEMA))

    assert sent(llm) == {
        "model": "llama3.2:3b",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "options": {"num_predict": 100, "temperature": 0.5, "top_p": 0.9, "stop": ["END"]},
        "think": False,
        "keep_alive": "5m",
        "format": SCHEMA,
    }
    assert provider.get_info().defaults["context_window"] == 4_096


@pytest.mark.parametrize(("given", "as_sent"), [("0", 0), (-1, -1), ("1h", "1h")])
async def test_how_long_the_model_stays_may_be_seconds(make: Make, llm: FakeLLM, given: Any, as_sent: Any) -> None:
    await text(await make(keep_alive=given), "hi", response_format=ResponseFormatJson())

    assert (sent(llm)["keep_alive"], sent(llm)["format"]) == (as_sent, "json")


async def test_a_tools_parameters_arrive_whole(make: Make, llm: FakeLLM) -> None:
    await text(await make(), "hi", tools=[LOOK])

    assert sent(llm)["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "Look", "parameters": DEEP}}
    ]


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("auto", ["look", "other"]),
        ("required", ["look", "other"]),
        ("other", ["other"]),
        ({"type": "function", "function": {"name": "look"}}, ["look"]),
        ("none", []),
    ],
)
async def test_only_tools_that_may_be_called_are_offered(
    make: Make, llm: FakeLLM, choice: Any, offered: list[str]
) -> None:
    await text(await make(), "hi", tools=[LOOK, OTHER], tool_choice=choice)

    assert [tool["function"]["name"] for tool in sent(llm).get("tools", [])] == offered


async def test_calls_get_ids_that_stay(make: Make, llm: FakeLLM) -> None:
    provider = await make()
    said = '[[tools: look {"x": 1} | look {"x": 2}]][[then: done]]'
    asked = await provider.complete(request(said, tools=[LOOK]))
    one, two = asked.tool_calls

    assert await text(provider, said, row_of(asked), result(one.id, "a"), result(two.id, "b")) == "done"
    assert one.id != two.id
    assert sent(llm)["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": one.id, "function": {"name": "look", "arguments": {"x": 1}}},
                {"id": two.id, "function": {"name": "look", "arguments": {"x": 2}}},
            ],
        },
        {"role": "tool", "content": "a", "tool_name": "look", "tool_call_id": one.id},
        {"role": "tool", "content": "b", "tool_name": "look", "tool_call_id": two.id},
    ]


async def test_the_text_of_a_picture_is_never_taken_for_a_file(make: Make, llm: FakeLLM, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_text("secret")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": str(secret)}}

    await text(await make(), {"role": "user", "content": [{"type": "text", "text": "see"}, picture]})
    assert sent(llm)["messages"][0]["images"] == [str(secret)]


async def test_a_picture_elsewhere_is_told_and_not_fetched(make: Make, llm: FakeLLM) -> None:
    await text(await make(), {"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE_ELSEWHERE]})

    [message] = sent(llm)["messages"]
    assert message["content"] == "see\n[A picture that is not here, at https://example.org/a.png]"
    assert "images" not in message


@pytest.mark.parametrize(
    ("options", "fields", "overrides", "think"),
    [
        ({}, {}, {"extended_thinking": True}, True),
        ({"enable_thinking": False}, {}, {"extended_thinking": True}, True),
        ({"enable_thinking": True}, {"reasoning_effort": "none"}, {}, False),
        ({}, {"reasoning_effort": "xhigh"}, {}, "high"),
        ({}, {"reasoning_effort": "low"}, {"reasoning_effort": "medium"}, "medium"),
    ],
)
async def test_thinking_is_asked_for(
    make: Make, llm: FakeLLM, options: Any, fields: Any, overrides: Any, think: Any
) -> None:
    await (await make(**options)).complete(request("hi", **fields), **overrides)

    assert sent(llm)["think"] == think


async def test_a_model_that_cannot_think_is_asked_without_from_then_on(make: Make, llm: FakeLLM) -> None:
    llm.queue('error: status=400 message="llama3.2:3b does not support thinking"')
    provider = await make(enable_thinking=True)

    assert await text(provider, "hi") == "echo: hi"
    assert await text(provider, "ho") == "echo: ho"
    assert ["think" in call["body"] for call in llm.recorded()] == [True, False, False]


async def test_another_refusal_is_told_at_once(make: Make, llm: FakeLLM) -> None:
    with pytest.raises(InvalidRequestError, match="no such option"):
        await text(await make(enable_thinking=True), '[[error: status=400 message="no such option"]]')
    assert llm.stats()["requests"] == 1


async def test_thoughts_go_back_within_the_turn_alone(make: Make, llm: FakeLLM) -> None:
    provider = await make()
    said = "[[think: hm]][[tool: look {}]][[then: done]]"
    asked = await provider.complete(request(said, tools=[LOOK]))
    seen = result(asked.tool_calls[0].id, "seen")

    await text(provider, said, row_of(asked), seen)
    assert sent(llm)["messages"][1]["thinking"] == "hm"
    await text(provider, said, row_of(asked), seen, "and now?")
    assert "thinking" not in sent(llm)["messages"][1]


async def test_a_model_is_pulled_only_when_that_is_wanted(make: Make, llm: FakeLLM) -> None:
    llm.queue('error: status=404 message="model not found"')
    with pytest.raises(NotFoundError):
        await text(await make(), "hi")
    assert llm.stats()["by_endpoint"] == {"ollama": 1}

    llm.queue('error: status=404 message="model not found"')
    assert await text(await make(auto_pull=True), "hi") == "echo: hi"
    assert llm.stats()["by_endpoint"] == {"ollama": 3, "ollama-pull": 1}


async def test_the_servers_patience_is_heard_through_the_sdk(make: Make, llm: FakeLLM) -> None:
    with pytest.raises(RateLimitError) as raised:
        await text(await make(max_retries=0), "[[error: status=429 retry_after=7]]")
    assert raised.value.retry_after == 7.0


async def test_a_model_tells_its_window_and_what_it_can(make: Make, llm: FakeLLM) -> None:
    llm.options.models = ("one",)

    [model] = await (await make()).list_models()
    assert (model.id, model.context_window) == ("one", 131_072)
    assert model.capabilities == ["streaming", "tools", "thinking", "vision"]


async def test_no_key_of_the_servers_environment_is_sent(
    make: Make, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "of-the-server")

    await text(await make(), "hi")
    assert "authorization" not in llm.recorded()[-1]["headers"]


async def test_arguments_that_come_as_text_are_read() -> None:
    reply = OllamaReply("m", AttemptStream(None))
    call = {"function": {"name": "look", "arguments": '{"x": 1}'}}
    await reply.feed({"message": {"tool_calls": [call]}, "done": True})

    assert [one.arguments for one in reply.response().tool_calls or []] == [{"x": 1}]
