"""Claude models as a kernel provider.

Answers are always read as the SDK's raw event stream, which costs half of its helper stream; who wants no
deltas gets none. The SDK's retries are off: ours tell what they do, and take back what an attempt had
already shown. Cancelling the task that runs `complete` closes the connection at once.
"""

from __future__ import annotations

import logging
from typing import Any

import anthropic
from anthropic.resources.messages.messages import DEPRECATED_MODELS

from amplifier_app_api.modules.kernel import (
    ChatRequest,
    ChatResponse,
    ConfigField,
    InvalidRequestError,
    LLMError,
    ModelInfo,
    ProviderInfo,
    ToolCall,
)
from amplifier_app_api.modules.providers.anthropic_errors import RAISED, kernel_error, refuses_thoughts
from amplifier_app_api.modules.providers.anthropic_messages import Conversation, translate
from amplifier_app_api.modules.providers.anthropic_models import facts_of
from amplifier_app_api.modules.providers.anthropic_options import PROVIDER, AnthropicOptions
from amplifier_app_api.modules.providers.anthropic_replies import Reply
from amplifier_app_api.modules.providers.anthropic_requests import arguments_of
from amplifier_app_api.modules.providers.clients import SharedClient, certificates, shared_client
from amplifier_app_api.modules.providers.retry import UNREADABLE, retrying, unreadable
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

logger = logging.getLogger(__name__)

CAPABILITIES = ["streaming", "tools", "thinking", "vision", "json_schema", "prompt_caching"]


class AnthropicProvider:
    name = PROVIDER

    def __init__(self, options: AnthropicOptions, hooks: Any = None) -> None:
        self._options = options
        self._hooks = hooks
        self._shared: SharedClient[anthropic.AsyncAnthropic] | None = None
        self.priority = options.priority
        if options.model in DEPRECATED_MODELS:
            facts = {"model": options.model, "ends": DEPRECATED_MODELS[options.model]}
            logger.warning("model is deprecated", extra=facts)

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
            models = self._client().client.models.list(limit=1000, timeout=self._options.timeout)
            return [_model_info(model) async for model in models]
        except RAISED as error:
            raise self._kernel_error(error, self._options.model, began=False) from error
        except UNREADABLE as error:
            raise unreadable(error, provider=PROVIDER, model=None) from error

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **overrides: Any) -> ChatResponse:
        talk = self._talk(request)
        arguments = arguments_of(request, talk, self._options, overrides)
        report = CallReport(self._hooks, PROVIDER, arguments["model"])
        await report.repaired(talk.repairs)

        async def attempt(stream: AttemptStream) -> ChatResponse:
            nonlocal arguments, talk
            try:
                return await self._attempt(arguments, stream)
            except InvalidRequestError as error:
                if stream.began or not talk.holds_thoughts or not refuses_thoughts(error):
                    raise
                logger.warning("the API refuses earlier thoughts, which are left out", extra={"provider": PROVIDER})
            talk = self._talk(request, thoughts=False)
            arguments = arguments_of(request, talk, self._options, {**overrides, "extended_thinking": False})
            return await self._attempt(arguments, stream)

        return await report.of(
            lambda: retrying(
                attempt,
                policy=self._options.retry,
                report=report,
                hooks=self._hooks,
                silent=not wants_stream(request),
            ),
            request,
            has_system="system" in arguments,
            thinking_enabled="thinking" in arguments,
        )

    def _talk(self, request: ChatRequest, *, thoughts: bool = True) -> Conversation:
        talk = translate(request.messages, thoughts=thoughts)
        if self._options.enable_prompt_caching:
            talk.mark_for_caching()
        return talk

    async def _attempt(self, arguments: dict[str, Any], stream: AttemptStream) -> ChatResponse:
        reply = Reply(arguments["model"], stream)
        shared = self._client()
        create = shared.client.messages.create
        try:
            async with shared.slot():
                if self._options.use_streaming:
                    async with await create(**arguments, stream=True) as events:
                        async for event in events:
                            await reply.feed(event)
                else:
                    await reply.take(await create(**arguments))
        except RAISED as error:
            raise self._kernel_error(error, arguments["model"], began=stream.began) from error
        return reply.response()

    def _kernel_error(self, error: Exception, model: str, *, began: bool) -> LLMError:
        return kernel_error(error, model=model, key=self._options.api_key, began=began)

    def _client(self) -> SharedClient[anthropic.AsyncAnthropic]:
        if self._shared is None:
            self._shared = shared_client(
                PROVIDER,
                self._options.identity(),
                self._new_client,
                lambda client: client.close(),
                max_concurrent_requests=self._options.max_concurrent_requests,
            )
        return self._shared

    def _new_client(self) -> anthropic.AsyncAnthropic:
        """Without `base_url` the SDK's ANTHROPIC_BASE_URL counts, and its ANTHROPIC_CUSTOM_HEADERS go there alone."""
        client = anthropic.AsyncAnthropic(
            api_key=self._options.api_key,
            base_url=self._options.base_url,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(verify=certificates()),
        )
        if self._options.base_url is not None:
            client._custom_headers = {}  # pyright: ignore[reportPrivateUsage] # those of the environment
        return client

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.release()


def _model_info(model: Any) -> ModelInfo:
    facts = facts_of(model.id)
    return ModelInfo(
        id=model.id,
        display_name=model.display_name,
        context_window=getattr(model, "max_input_tokens", None) or facts.context_window,
        max_output_tokens=getattr(model, "max_tokens", None) or facts.max_output_tokens,
        capabilities=CAPABILITIES,
    )
