"""Answers of a shape that no API promises, read by each vendor's real SDK: broken streams, told and taken back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from amplifier_core.llm_errors import StreamError

from amplifier_app_api.modules import load_mount
from doubles.raw_answers import answering, ndjson, sse
from provider_talk import Coordinator, Hooks, request, text

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"
ANTHROPIC = ("provider-anthropic", "base_url", "", {})
RESPONSES = ("provider-openai", "base_url", "/v1", {"api": "responses"})
CHAT = ("provider-openai", "base_url", "/v1", {})
GEMINI = ("provider-gemini", "base_url", "", {})
OLLAMA = ("provider-ollama", "host", "", {})
Vendor = tuple[str, str, str, dict[str, Any]]


def claude(*events: dict[str, Any]) -> bytes:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 1}}}
    return sse(start, *events)


def chunk(delta: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, **fields}]}


def message(output_index: int = 0) -> dict[str, Any]:
    item = {"type": "message", "id": "m", "role": "assistant", "content": []}
    return {"type": "response.output_item.added", "output_index": output_index, "item": item}


SAID_BY_CLAUDE = (
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half"}},
)
SAID_BY_GPT = (message(), {"type": "response.output_text.delta", "output_index": 0, "delta": "half"})
SAID_BY_GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "half"}]}}]}

BROKEN_AT_ONCE = {
    "claude without a message": (ANTHROPIC, SSE, sse({"type": "message_start", "message": None})),
    "claude's words": (ANTHROPIC, SSE, sse("words")),
    "claude whole": (ANTHROPIC, JSON, b"[]"),
    "an item of nothing": (
        RESPONSES,
        SSE,
        sse({"type": "response.output_item.added", "output_index": 0, "item": None}),
    ),
    "a response of nothing": (RESPONSES, SSE, sse({"type": "response.completed", "response": None})),
    "a code that is a number": (RESPONSES, SSE, sse({"type": "response.failed", "response": {"error": {"code": 7}}})),
    "a choice of nothing": (CHAT, SSE, sse({"id": "c", "choices": [None]})),
    "content in parts": (CHAT, SSE, sse(chunk({"content": [{"type": "text"}]}), chunk({}, finish_reason="stop"))),
    "candidates that are a number": (GEMINI, SSE, sse({"candidates": 7})),
    "candidates of nothing": (GEMINI, JSON, b'{"candidates": {"content": "words"}}'),
    "a message that is a text": (OLLAMA, NDJSON, ndjson({"message": "words"})),
    "a part that is a list": (OLLAMA, NDJSON, ndjson(["words"])),
}
BROKEN_LATER = {
    "claude's delta": (
        ANTHROPIC,
        SSE,
        claude(*SAID_BY_CLAUDE, {"type": "content_block_delta", "index": 0, "delta": None}),
    ),
    "a block that ends twice": (
        ANTHROPIC,
        SSE,
        claude(*SAID_BY_CLAUDE, *[{"type": "content_block_stop", "index": 0}] * 2),
    ),
    "a gpt's delta": (
        RESPONSES,
        SSE,
        sse(*SAID_BY_GPT, {"type": "response.output_item.done", "output_index": {}, "item": {}}),
    ),
    "a chat's calls": (CHAT, SSE, sse(chunk({"content": "half"}), chunk({"tool_calls": [None]}))),
    "gemini's reason": (GEMINI, SSE, sse(SAID_BY_GEMINI, {"candidates": [{"finishReason": 7}]})),
    "a call of nothing": (
        OLLAMA,
        NDJSON,
        ndjson({"message": {"content": "half"}}, {"message": {"tool_calls": [None]}}),
    ),
}


@asynccontextmanager
async def provider_at(vendor: Vendor, body: bytes, kind: str, hooks: Hooks) -> AsyncIterator[Any]:
    module, option, path, more = vendor
    async with answering(body, kind) as address:
        coordinator = Coordinator(hooks)
        given = {"api_key": "k", "max_retries": 0, option: address + path, "use_streaming": kind != JSON, **more}
        close = await load_mount(module)(coordinator, given)
        try:
            yield coordinator.provider
        finally:
            await close()


@pytest.mark.parametrize(("vendor", "kind", "body"), BROKEN_AT_ONCE.values(), ids=BROKEN_AT_ONCE)
async def test_an_answer_that_cannot_be_read_has_the_kernels_class(vendor: Vendor, kind: str, body: bytes) -> None:
    hooks = Hooks()
    async with provider_at(vendor, body, kind, hooks) as provider:
        with pytest.raises(StreamError):
            await text(provider, "hi")

    assert [data["status"] for data in hooks.of("llm:response")] == ["error"]


@pytest.mark.parametrize(("vendor", "kind", "body"), BROKEN_LATER.values(), ids=BROKEN_LATER)
async def test_what_was_shown_of_an_unreadable_answer_is_taken_back(vendor: Vendor, kind: str, body: bytes) -> None:
    hooks = Hooks()
    async with provider_at(vendor, body, kind, hooks) as provider:
        with pytest.raises(StreamError):
            await text(provider, "hi")

    assert hooks.streamed("text") == "half"
    assert hooks.names()[-2:] == ["llm:stream_aborted", "llm:response"]


async def test_usage_without_figures_counts_as_nothing() -> None:
    usage = {"input_tokens": 3, "output_tokens": None, "total_tokens": None}
    body = sse({"type": "response.completed", "response": {"output": [], "usage": usage}})
    async with provider_at(RESPONSES, body, SSE, Hooks()) as provider:
        response = await provider.complete(request("hi"))

    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 0)


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        (ANTHROPIC, b"[]"),
        (ANTHROPIC, b'{"data": [{"id": null}]}'),
        (CHAT, b'{"data": [null]}'),
        (CHAT, b'{"data": [{"id": 7}]}'),
        (GEMINI, b'{"models": 7}'),
        (GEMINI, b'{"models": [{"name": 7}]}'),
        (OLLAMA, b"[]"),
        (OLLAMA, b'{"models": [null]}'),
    ],
)
async def test_a_listing_that_cannot_be_read_has_the_kernels_class(vendor: Vendor, body: bytes) -> None:
    async with provider_at(vendor, body, JSON, Hooks()) as provider:
        with pytest.raises(StreamError):
            await provider.list_models()
