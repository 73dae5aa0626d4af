"""The provider behind `provider-ollama`. Cancelling the task that runs `complete` closes the connection at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any

import httpx
import ollama

from amplifier_app_api.modules.kernel import (
    ChatRequest,
    ChatResponse,
    ConfigField,
    LLMError,
    LLMTimeoutError,
    ModelInfo,
    NetworkError,
    ProviderInfo,
    StreamError,
    ToolCall,
)
from amplifier_app_api.modules.providers.clients import SharedClient, shared_client
from amplifier_app_api.modules.providers.failures import failure, without_key
from amplifier_app_api.modules.providers.ollama_client import CONNECT_TIMEOUT, OllamaClient, Part, Refused
from amplifier_app_api.modules.providers.ollama_messages import chat_body, ollama_messages
from amplifier_app_api.modules.providers.ollama_options import NAME, OllamaOptions
from amplifier_app_api.modules.providers.ollama_replies import OllamaReply
from amplifier_app_api.modules.providers.retry import UNREADABLE, retrying, unreadable
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

CAPABILITIES = ["streaming", "tools", "thinking", "vision", "json_mode"]
SERVERS_WINDOW = 4_096  # tokens, of a server that is told nothing
SHOWN_AT_ONCE = 4  # models asked about at a time
UNTHINKING = "does not support thinking"

RAISED = (Refused, ollama.ResponseError, ConnectionError, httpx.HTTPError, httpx.StreamError, json.JSONDecodeError)
"""What a call can raise."""


class OllamaProvider:
    name = NAME

    def __init__(self, options: OllamaOptions, hooks: Any = None) -> None:
        self.priority = options.priority
        self._options = options
        self._hooks = hooks
        self._unthinking: set[str] = set()  # models that said so
        self._shared: SharedClient[OllamaClient] | None = None

    def get_info(self) -> ProviderInfo:
        return ProviderInfo(
            id=NAME,
            display_name="Ollama",
            credential_env_vars=[],
            capabilities=CAPABILITIES,
            defaults={
                "model": self._options.model,
                "context_window": self._options.context_window or self._options.num_ctx or SERVERS_WINDOW,
                "max_output_tokens": self._options.max_tokens,
            },
            config_fields=[
                ConfigField(
                    id="host",
                    display_name="Host",
                    field_type="text",
                    prompt="Address of the Ollama server",
                    required=False,
                )
            ],
        )

    async def list_models(self) -> list[ModelInfo]:
        """The models the server has."""
        client = self._share().client
        try:
            names = [model.model for model in (await client.list()).models if model.model]
        except RAISED as error:
            raise self._kernel_error(error, None, began=False) from error
        except UNREADABLE as error:
            raise unreadable(error, provider=NAME, model=None) from error
        gate = asyncio.Semaphore(SHOWN_AT_ONCE)
        return list(await asyncio.gather(*(self._model_info(client, name, gate) for name in names)))

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **overrides: Any) -> ChatResponse:
        talk = ollama_messages(request.messages)
        body = chat_body(request, talk, self._options, overrides)
        seconds = request.timeout or self._options.timeout
        limits = httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT))
        report = CallReport(self._hooks, NAME, body["model"])
        await report.repaired(talk.repairs)

        async def attempt(stream: AttemptStream) -> ChatResponse:
            async with self._share().slot():
                return await self._attempt(body, stream, limits)

        async def work() -> ChatResponse:
            silent = not wants_stream(request)
            return await retrying(attempt, policy=self._options.retry, report=report, hooks=self._hooks, silent=silent)

        return await report.of(work, request, thinking_enabled=bool(body.get("think")))

    async def _attempt(self, body: Part, stream: AttemptStream, limits: httpx.Timeout) -> ChatResponse:
        model = body["model"]
        if model in self._unthinking:
            body.pop("think", None)
        reply = OllamaReply(model, stream)
        try:
            try:
                await self._ask(body, reply, limits)
            except Refused as error:
                if not await self._mended(error, body):
                    raise
                await self._ask(body, reply, limits)
        except RAISED as error:
            raise self._kernel_error(error, model, began=stream.began) from error
        return reply.response()

    async def _mended(self, error: Refused, body: Part) -> bool:
        """Whether it is worth asking once more: without thoughts the model has not, or with the model pulled."""
        model = body["model"]
        if body.get("think") and UNTHINKING in str(error):
            self._unthinking.add(model)
            del body["think"]
            return True
        if error.status == 404 and self._options.auto_pull:
            async for _ in await self._share().client.pull(model, stream=True):
                pass
            return True
        return False

    async def _ask(self, body: Part, reply: OllamaReply, limits: httpx.Timeout) -> None:
        client = self._share().client
        if not self._options.use_streaming:
            await reply.feed(await client.chat_whole(body, limits))
            return
        async with aclosing(await client.chat_parts(body, limits)) as parts:
            async for part in parts:
                await reply.feed(part)

    async def _model_info(self, client: OllamaClient, name: str, gate: asyncio.Semaphore) -> ModelInfo:
        shown: Any = None
        window, able = SERVERS_WINDOW, ["streaming"]
        async with gate:
            with suppress(*RAISED, *UNREADABLE):  # gone since it was listed, or told in a way nobody knows
                shown = await client.show(name)
        if shown is not None:
            facts: dict[str, Any] = shown.modelinfo or {}
            window = next((int(value) for key, value in facts.items() if key.endswith(".context_length")), window)
            told: list[str] = shown.capabilities or []
            able += [one for one in ("tools", "thinking", "vision") if one in told]
        return ModelInfo(
            id=name,
            display_name=name,
            context_window=window,
            max_output_tokens=self._options.max_tokens,
            capabilities=able,
        )

    def _kernel_error(self, error: Exception, model: str | None, *, began: bool) -> LLMError:
        """`began`: output had already arrived, so that a broken connection is a broken stream."""
        key = self._options.api_key
        if isinstance(error, Refused):
            message = without_key(str(error), key)
            return failure(error.status, message, retry_after=error.retry_after, provider=NAME, model=model)
        if isinstance(error, ollama.ResponseError):  # in the middle of a stream, where there is no status
            return failure(None, without_key(error.error, key), provider=NAME, model=model)
        if isinstance(error, httpx.TimeoutException):
            return LLMTimeoutError("The server did not answer in time", provider=NAME, model=model)
        if isinstance(error, (httpx.StreamError, json.JSONDecodeError)) or began:
            return StreamError("The connection broke while the answer was coming", provider=NAME, model=model)
        return NetworkError("The server cannot be reached", provider=NAME, model=model)

    def _share(self) -> SharedClient[OllamaClient]:
        """Our share of the client, taken when it is first needed."""
        if self._shared is None:
            host, key = self._options.host, self._options.api_key
            self._shared = shared_client(
                NAME,
                {"host": host, "api_key": key},
                lambda: OllamaClient(host, key),
                _close,
                max_concurrent_requests=self._options.max_concurrent_requests,
            )
        return self._shared

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.release()


async def _close(client: OllamaClient) -> None:
    await client.close()
