"""Whoever speaks one of OpenAI's APIs, through OpenAI's own SDK: OpenAI, Azure, vLLM and servers like it.

Answers are always read as the SDK's raw event stream; who wants no deltas gets none. The SDK's retries are
off: ours tell what they do, and take back what an attempt had already shown. Cancelling the task that runs
`complete` closes the connection at once. The vendor keeps nothing of a conversation.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import openai

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
from amplifier_app_api.modules.providers.clients import SharedClient, certificates, shared_client
from amplifier_app_api.modules.providers.openai_chat_messages import ChatMessages, chat_messages
from amplifier_app_api.modules.providers.openai_chat_replies import ChatReply
from amplifier_app_api.modules.providers.openai_errors import RAISED, kernel_error, refuses_thoughts
from amplifier_app_api.modules.providers.openai_input import LONGEST_ID, Param, ResponsesInput, responses_input
from amplifier_app_api.modules.providers.openai_models import OPENAI, facts_of, reasons, window_of
from amplifier_app_api.modules.providers.openai_options import CallOptions, Endpoint
from amplifier_app_api.modules.providers.openai_replies import ResponsesReply
from amplifier_app_api.modules.providers.openai_requests import chat_arguments, responses_arguments
from amplifier_app_api.modules.providers.openai_types import build_types
from amplifier_app_api.modules.providers.retry import UNREADABLE, retrying, unreadable
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

logger = logging.getLogger(__name__)

CAPABILITIES = ["streaming", "tools", "thinking", "vision", "json_mode"]
CONNECT_TIMEOUT = 10.0  # seconds
UNKNOWN_WINDOW, UNKNOWN_OUTPUT = 32_768, 4_096  # of a model on somebody's own server

_TALKS = ("gpt-", "chatgpt-", "o1", "o3", "o4", "codex-")
_TALKS_NOT = ("audio", "realtime", "image", "transcribe", "tts", "embedding", "moderation", "search-api")

TokenProvider = Callable[[], Awaitable[str]]


class OpenAIProvider:
    def __init__(
        self,
        endpoint: Endpoint,
        options: CallOptions,
        hooks: Any = None,
        *,
        session_id: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        token_provider: TokenProvider | None = None,
    ) -> None:
        self.name = endpoint.provider
        self.priority = options.priority
        self._endpoint = endpoint
        self._options = options
        self._hooks = hooks
        self._extra_body = extra_body
        self._token_provider = token_provider
        self._cache_key = _cache_key(session_id)
        self._windows: dict[str, int] = {}  # as the server told them
        self._shared: SharedClient[openai.AsyncOpenAI] | None = None

    def get_info(self) -> ProviderInfo:
        variable = self._endpoint.key_variable
        window, output = self._limits(self._options.model)
        return ProviderInfo(
            id=self.name,
            display_name=self._endpoint.display_name,
            credential_env_vars=[variable] if variable else [],
            capabilities=CAPABILITIES,
            defaults={
                "model": self._options.model,
                "context_window": self._options.context_window or window,
                "max_output_tokens": self._options.max_tokens or output,
            },
            config_fields=[
                ConfigField(
                    id="api_key",
                    display_name="API key",
                    field_type="secret",
                    prompt=f"{self._endpoint.display_name} API key",
                    required=bool(variable),
                ),
            ],
        )

    async def list_models(self) -> list[ModelInfo]:
        """The models this key may use, as the API lists them; of OpenAI's own, those that answer in text."""
        try:
            models = self._share().client.models.list(timeout=_timeout(self._options.timeout))
            listed = [model async for model in models]
            choose = self._endpoint.official and self._options.filtered
            return [self._model_info(model) for model in listed if not choose or _talks(model.id)]
        except RAISED as error:
            raise self._kernel_error(error, None, began=False) from error
        except UNREADABLE as error:
            raise unreadable(error, provider=self.name, model=None) from error

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **overrides: Any) -> ChatResponse:
        arguments, talk = self._call(request, overrides)
        report = CallReport(self._hooks, self.name, arguments["model"])
        await report.repaired(talk.repairs)

        async def attempt(stream: AttemptStream) -> ChatResponse:
            nonlocal arguments, talk
            try:
                return await self._attempt(arguments, stream, request.stop)
            except InvalidRequestError as error:
                thoughtful = isinstance(talk, ResponsesInput) and talk.holds_thoughts
                if stream.began or not thoughtful or not refuses_thoughts(error):
                    raise
                logger.warning("the API refuses earlier thoughts, which are left out", extra={"provider": self.name})
            arguments, talk = self._call(request, overrides, thoughts=False)
            return await self._attempt(arguments, stream, request.stop)

        return await report.of(
            lambda: retrying(
                attempt,
                policy=self._options.retry,
                report=report,
                hooks=self._hooks,
                silent=not wants_stream(request),
            ),
            request,
            has_instructions="instructions" in arguments,
            reasoning_enabled="reasoning" in arguments or "reasoning_effort" in arguments,
        )

    def _call(
        self, request: ChatRequest, overrides: Mapping[str, Any], *, thoughts: bool = True
    ) -> tuple[Param, ResponsesInput | ChatMessages]:
        """The arguments of one call, and the conversation in them."""
        if self._endpoint.api == "responses":
            talk = responses_input(request.messages, self.name, thoughts=thoughts)
            arguments = responses_arguments(request, talk, self._options, overrides, self._cache_key)
        else:
            talk = chat_messages(request.messages, self.name)
            arguments = chat_arguments(request, talk, self._options, overrides, self._cache_key, self._endpoint)
        if self._extra_body:
            arguments["extra_body"] = dict(self._extra_body)
        if self._options.use_streaming:
            arguments["stream"] = True
            if self._endpoint.api == "chat":
                arguments["stream_options"] = {"include_usage": True}
        arguments["timeout"] = _timeout(request.timeout or self._options.timeout)
        return arguments, talk

    async def _attempt(self, arguments: Param, stream: AttemptStream, stop: list[str] | None) -> ChatResponse:
        shared, model = self._share(), arguments["model"]
        known_as = self._options.known_as(model)
        reply: ResponsesReply | ChatReply
        create: Any
        if self._endpoint.api == "responses":
            reply = ResponsesReply(self._endpoint, model, stream, known_as=known_as, stop=stop)
            create = shared.client.responses.create
        else:
            reply = ChatReply(self._endpoint, model, stream, known_as=known_as)
            create = shared.client.chat.completions.create
        try:
            async with shared.slot():
                if self._options.use_streaming:
                    async with await create(**arguments) as events:
                        async for event in events:
                            await reply.feed(event)
                else:
                    await reply.take(await create(**arguments))
        except RAISED as error:
            raise self._kernel_error(error, model, began=stream.began) from error
        return reply.response()

    def _kernel_error(self, error: Exception, model: str | None, *, began: bool) -> LLMError:
        return kernel_error(error, provider=self.name, model=model, key=self._endpoint.api_key, began=began)

    def _limits(self, model: str) -> tuple[int, int]:
        model = self._options.known_as(model)
        if not self._endpoint.vendor and model not in OPENAI:
            return self._windows.get(model, UNKNOWN_WINDOW), UNKNOWN_OUTPUT
        return window_of(model, long_context=self._options.enable_long_context), facts_of(model).max_output_tokens

    def _model_info(self, model: Any) -> ModelInfo:
        told = getattr(model, "max_model_len", None)  # vLLM's word for the window
        if isinstance(told, int) and told > 0:
            self._windows[model.id] = told
        window, output = self._limits(model.id)
        able = [
            one
            for one in CAPABILITIES
            if one != "thinking" or not self._endpoint.vendor or reasons(self._options.known_as(model.id))
        ]
        return ModelInfo(
            id=model.id,
            display_name=model.id,
            context_window=window,
            max_output_tokens=output,
            capabilities=able,
        )

    def _share(self) -> SharedClient[openai.AsyncOpenAI]:
        """Our share of the client, taken when it is first needed."""
        if self._shared is None:
            identity = self._endpoint.identity()
            if self._token_provider is not None:
                identity["token_provider"] = id(self._token_provider)  # nobody else's while the client holds it
            self._shared = shared_client(
                "openai",
                identity,
                lambda: _client(self._endpoint, self._token_provider),
                _close,
                max_concurrent_requests=self._options.max_concurrent_requests,
            )
        return self._shared

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.release()


def _client(endpoint: Endpoint, token_provider: TokenProvider | None) -> openai.AsyncOpenAI:
    """With nothing of the server's environment but OPENAI_BASE_URL: a config may send its calls anywhere."""
    common: dict[str, Any] = {
        "max_retries": 0,
        "http_client": openai.DefaultAsyncHttpx2Client(verify=certificates()),
    }
    client: openai.AsyncOpenAI
    if endpoint.azure_paths:
        credential: dict[str, Any] = {"azure_ad_token" if endpoint.bearer else "api_key": endpoint.api_key}
        client = openai.AsyncAzureOpenAI(
            base_url=endpoint.base_url or "",
            api_version=endpoint.api_version,
            **({"azure_ad_token_provider": token_provider} if token_provider else credential),
            **common,
        )
    else:
        client = openai.AsyncOpenAI(
            api_key=token_provider or endpoint.api_key,
            base_url=endpoint.base_url,
            default_query={"api-version": endpoint.api_version} if endpoint.api_version else None,
            **common,
        )
    client.organization, client.project = endpoint.organization, endpoint.project
    client.admin_api_key = client.webhook_secret = None
    if endpoint.base_url is not None:
        client._custom_headers = {}  # pyright: ignore[reportPrivateUsage] # those of OPENAI_CUSTOM_HEADERS
    return client


def _timeout(seconds: float) -> openai.Timeout:
    return openai.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT))


async def _close(client: openai.AsyncOpenAI) -> None:
    await client.close()


def _cache_key(session_id: str | None) -> str | None:
    """Calls of one session find each other's prompts in the vendor's cache."""
    if not session_id or len(session_id) <= LONGEST_ID:
        return session_id or None
    return hashlib.sha256(session_id.encode()).hexdigest()[:LONGEST_ID]


def _talks(model: str) -> bool:
    return model.startswith(_TALKS) and not any(word in model for word in _TALKS_NOT)


build_types()  # here, in the thread that imports this file: the first call's event loop does not wait for it
