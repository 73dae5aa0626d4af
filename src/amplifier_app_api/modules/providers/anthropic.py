"""`provider-anthropic`: Claude through Anthropic's own SDK.

Answers are always read as the SDK's raw event stream, which costs half of its helper stream; who wants no
deltas gets none. The SDK's retries are off: ours tell what they do, and take back what an attempt had
already shown. Cancelling the task that runs `complete` closes the connection at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, cast

import anthropic
import httpx2
from anthropic.resources.messages.messages import DEPRECATED_MODELS

from amplifier_app_api.modules.kernel import (
    PROVIDER_TOOL_SEQUENCE_REPAIRED,
    ChatRequest,
    ChatResponse,
    ConfigField,
    LLMError,
    ModelInfo,
    ProviderInfo,
    ToolCall,
    Usage,
)
from amplifier_app_api.modules.providers.anthropic_errors import PROVIDER, RAISED, kernel_error
from amplifier_app_api.modules.providers.anthropic_messages import translate
from amplifier_app_api.modules.providers.anthropic_models import facts_of
from amplifier_app_api.modules.providers.anthropic_options import AnthropicOptions
from amplifier_app_api.modules.providers.anthropic_replies import Reply
from amplifier_app_api.modules.providers.anthropic_requests import arguments_of
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

__amplifier_module_type__ = "provider"

logger = logging.getLogger(__name__)

CAPABILITIES = ["streaming", "tools", "thinking", "vision"]


class AnthropicProvider:
    name = PROVIDER

    def __init__(self, options: AnthropicOptions, hooks: Any = None) -> None:
        self._options = options
        self._hooks = hooks
        self._client: anthropic.AsyncAnthropic | None = None
        self.priority = options.priority

    def get_info(self) -> ProviderInfo:
        facts = facts_of(self._options.model)
        return ProviderInfo(
            id=PROVIDER,
            display_name="Anthropic",
            credential_env_vars=["ANTHROPIC_API_KEY"],
            capabilities=CAPABILITIES,
            defaults={
                "model": self._options.model,
                "context_window": self._options.context_window or facts.context_window,
                "max_output_tokens": self._options.max_tokens or facts.max_output_tokens,
            },
            config_fields=[
                ConfigField(id="api_key", display_name="API key", field_type="secret", prompt="Anthropic API key"),
            ],
        )

    async def list_models(self) -> list[ModelInfo]:
        """The models this key may use, as the API lists them."""
        try:
            return [_model_info(model) async for model in self._sdk().models.list(limit=1000)]
        except RAISED as error:
            raise self._kernel_error(error, self._options.model, began=False) from error

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **overrides: Any) -> ChatResponse:
        talk = translate(request.messages)
        if talk.repairs and self._hooks is not None:
            facts = {"provider": PROVIDER, "repair_count": len(talk.repairs), "repairs": talk.repairs}
            await self._hooks.emit(PROVIDER_TOOL_SEQUENCE_REPAIRED, facts)
        if self._options.enable_prompt_caching:
            talk.mark_for_caching()
        arguments = arguments_of(request, talk, self._options, overrides)
        report = CallReport(self._hooks, PROVIDER, arguments["model"])
        await report.requested(request, has_system="system" in arguments, thinking_enabled="thinking" in arguments)
        try:
            response = await self._with_retries(arguments, report, silent=not wants_stream(request))
        except LLMError as error:
            await report.failed(error)
            raise
        await report.answered(cast("Usage", response.usage))
        return response

    async def _with_retries(self, arguments: dict[str, Any], report: CallReport, *, silent: bool) -> ChatResponse:
        attempt = 0
        while True:
            stream = AttemptStream(self._hooks, silent=silent)
            try:
                return await self._attempt(arguments, stream)
            except LLMError as error:
                await stream.abort(error)
                attempt += 1
                delay = self._delay(error, attempt)
                if delay is None:
                    raise
                await report.retrying(error, attempt=attempt, max_retries=self._options.max_retries, delay=delay)
                await asyncio.sleep(delay)

    def _delay(self, error: LLMError, attempt: int) -> float | None:
        """Seconds until the next attempt; None when there is none.

        An API that wants more patience than the options have gets no further attempt: whoever asked learns
        of `retry_after` now and can decide better than we can while holding the turn.
        """
        options = self._options
        if not error.retryable or attempt > options.max_retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= options.max_retry_delay else None
        backoff = min(options.max_retry_delay, options.min_retry_delay * 2.0 ** (attempt - 1))
        return backoff * random.uniform(0.75, 1.0)  # so that sessions do not all come back at once

    async def _attempt(self, arguments: dict[str, Any], stream: AttemptStream) -> ChatResponse:
        reply = Reply(arguments["model"], stream)
        try:
            if self._options.use_streaming:
                async with await self._sdk().messages.create(**arguments, stream=True) as events:
                    async for event in events:
                        await reply.feed(event)
            else:
                await reply.take(await self._sdk().messages.create(**arguments))
        except RAISED as error:
            raise self._kernel_error(error, arguments["model"], began=stream.began) from error
        return reply.response()

    def _kernel_error(self, error: Exception, model: str, *, began: bool) -> LLMError:
        return kernel_error(error, model=model, key=self._options.api_key, began=began)

    def _sdk(self) -> anthropic.AsyncAnthropic:
        """The client, made when it is first needed. Without `base_url` the SDK's ANTHROPIC_BASE_URL counts."""
        if self._client is None:
            self._client = anthropic.AsyncAnthropic(
                api_key=self._options.api_key,
                base_url=self._options.base_url,
                timeout=self._options.timeout,
                max_retries=0,
                http_client=anthropic.DefaultAsyncHttpxClient(verify=_certificates()),
            )
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """One per process: reading the certificates takes 20 ms and memory, for every session alike."""
    return httpx2.create_ssl_context()


def _model_info(model: Any) -> ModelInfo:
    facts = facts_of(model.id)
    return ModelInfo(
        id=model.id,
        display_name=model.display_name,
        context_window=getattr(model, "max_input_tokens", None) or facts.context_window,
        max_output_tokens=getattr(model, "max_tokens", None) or facts.max_output_tokens,
        capabilities=CAPABILITIES,
    )


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = AnthropicOptions.read(config)
    if options.model in DEPRECATED_MODELS:
        facts = {"model": options.model, "ends": DEPRECATED_MODELS[options.model]}
        logger.warning("model is deprecated", extra=facts)
    provider = AnthropicProvider(options, coordinator.hooks)
    await coordinator.mount("providers", provider, name=PROVIDER)
    return provider.close
