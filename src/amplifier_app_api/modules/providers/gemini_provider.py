"""Gemini models as a kernel provider.

The SDK's retries are off: ours tell what they do, and take back what an attempt had already shown. Cancelling
the task that runs `complete` closes the connection at once, which the SDK's nested generators would leave to
the garbage collector.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
from google import genai
from google.genai import types

from amplifier_app_api.modules.kernel import (
    ChatRequest,
    ChatResponse,
    ConfigField,
    LLMError,
    ModelInfo,
    ProviderInfo,
    ToolCall,
)
from amplifier_app_api.modules.providers.clients import SharedClient, certificates, shared_client
from amplifier_app_api.modules.providers.gemini_contents import Contents, translate
from amplifier_app_api.modules.providers.gemini_errors import RAISED, kernel_error
from amplifier_app_api.modules.providers.gemini_models import facts_of, is_older
from amplifier_app_api.modules.providers.gemini_options import PROVIDER, GeminiOptions
from amplifier_app_api.modules.providers.gemini_replies import Reply
from amplifier_app_api.modules.providers.gemini_requests import config_of, model_of
from amplifier_app_api.modules.providers.retry import UNREADABLE, retrying, unreadable
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

CAPABILITIES = ["streaming", "tools", "thinking", "vision", "json_schema"]
PAGE = 1000

_opened: ContextVar[list[httpx2.Response] | None] = ContextVar("gemini_responses", default=None)


class Connections:
    """The SDK's client on connections of ours: it closes none that it is given, and else reads certificates anew."""

    def __init__(self, options: GeminiOptions) -> None:
        self._blocking = httpx2.Client(verify=certificates())  # never used; the SDK wants one
        self._http = httpx2.AsyncClient(
            verify=certificates(),
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            event_hooks={"response": [_note]},
        )
        # Without `base_url` the SDK's GOOGLE_GEMINI_BASE_URL counts. Its other variables do not.
        options_of_http = types.HttpOptions(
            base_url=options.base_url, httpx_client=self._blocking, httpx_async_client=self._http
        )
        self.genai = genai.Client(vertexai=False, api_key=options.api_key, http_options=options_of_http)

    async def close(self) -> None:
        await self._http.aclose()
        self._blocking.close()


class GeminiProvider:
    name = PROVIDER

    def __init__(self, options: GeminiOptions, hooks: Any = None) -> None:
        self._options = options
        self._hooks = hooks
        self._shared: SharedClient[Connections] | None = None
        self.priority = options.priority

    def get_info(self) -> ProviderInfo:
        facts = facts_of(self._options.model)
        return ProviderInfo(
            id=PROVIDER,
            display_name="Google Gemini",
            credential_env_vars=["GOOGLE_API_KEY", "GEMINI_API_KEY"],
            capabilities=CAPABILITIES,
            defaults={
                "model": self._options.model,
                "context_window": self._options.context_window or facts.context_window,
                "max_output_tokens": self._options.max_tokens or facts.max_output_tokens,
            },
            config_fields=[
                ConfigField(id="api_key", display_name="API key", field_type="secret", prompt="Gemini API key"),
            ],
        )

    async def list_models(self) -> list[ModelInfo]:
        """The models this key may use to generate content, as the API lists them."""
        timeout = types.HttpOptions(timeout=round(1000 * self._options.timeout))
        try:
            config = types.ListModelsConfig(page_size=PAGE, http_options=timeout)
            models = [model async for model in await self._client().client.genai.aio.models.list(config=config)]
            return [_model_info(model) for model in models if "generateContent" in (model.supported_actions or [])]
        except RAISED as error:
            raise self._kernel_error(error, self._options.model, began=False, answered=True) from error
        except UNREADABLE as error:
            raise unreadable(error, provider=PROVIDER, model=None) from error

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **overrides: Any) -> ChatResponse:
        model = model_of(request, self._options, overrides)
        contents = translate(request.messages, signed=not is_older(model))
        config = config_of(request, contents.system, model, self._options, overrides)
        report = CallReport(self._hooks, PROVIDER, model)
        await report.repaired(contents.repairs)
        return await report.of(
            lambda: retrying(
                lambda stream: self._attempt(model, contents, config, stream),
                policy=self._options.retry,
                report=report,
                hooks=self._hooks,
                silent=not wants_stream(request),
            ),
            request,
            has_system=bool(contents.system),
            thinking_enabled="thinking_config" in config,
        )

    async def _attempt(
        self, model: str, contents: Contents, config: dict[str, Any], stream: AttemptStream
    ) -> ChatResponse:
        reply = Reply(model, stream)
        call: dict[str, Any] = {"model": model, "contents": contents.turns, "config": config}
        shared = self._client()
        models: Any = shared.client.genai.aio.models  # its types are half unknown
        opened: list[httpx2.Response] = []
        try:
            async with shared.slot(), _connection(opened):
                if self._options.use_streaming:
                    async for chunk in await models.generate_content_stream(**call):
                        await reply.feed(chunk)
                else:
                    await reply.feed(await models.generate_content(**call))
        except RAISED as error:
            raise self._kernel_error(error, model, began=stream.began, answered=bool(opened)) from error
        return await reply.response()

    def _kernel_error(self, error: Exception, model: str, *, began: bool, answered: bool = False) -> LLMError:
        return kernel_error(error, model=model, key=self._options.api_key, began=began, answered=answered)

    def _client(self) -> SharedClient[Connections]:
        if self._shared is None:
            self._shared = shared_client(
                PROVIDER,
                self._options.identity(),
                self._new_client,
                Connections.close,
                max_concurrent_requests=self._options.max_concurrent_requests,
            )
        return self._shared

    def _new_client(self) -> Connections:
        return Connections(self._options)

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.release()


@asynccontextmanager
async def _connection(opened: list[httpx2.Response]) -> AsyncGenerator[None]:
    """Note what is opened within, and close it whatever happens."""
    token = _opened.set(opened)
    try:
        yield
    finally:
        _opened.reset(token)
        for response in opened:
            await response.aclose()


async def _note(response: httpx2.Response) -> None:
    opened = _opened.get()
    if opened is not None:
        opened.append(response)


def _model_info(model: types.Model) -> ModelInfo:
    name = (model.name or "").removeprefix("models/")
    facts = facts_of(name)
    return ModelInfo(
        id=name,
        display_name=model.display_name or name,
        context_window=model.input_token_limit or facts.context_window,
        max_output_tokens=model.output_token_limit or facts.max_output_tokens,
        capabilities=CAPABILITIES,
    )
