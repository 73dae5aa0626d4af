"""The options that the providers speaking OpenAI's two APIs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.retry import RetryPolicy

Api = Literal["responses", "chat"]

_APIS: dict[str, Api] = {
    "responses": "responses",
    "chat": "chat",
    "chat_completions": "chat",
    "chat-completions": "chat",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom the calls go to. `vendor`: OpenAI's own models, which this server knows windows and prices of."""

    provider: str
    display_name: str
    api: Api
    base_url: str | None = None  # None: the SDK's own, or its OPENAI_BASE_URL
    api_key: str = field(default="", repr=False)
    organization: str | None = None
    project: str | None = None
    api_version: str | None = None
    azure_paths: bool = False  # deployments in the path and the version in the query, as Azure began
    bearer: bool = True  # on `azure_paths`: the key is a token, not an `api-key`
    vendor: bool = True
    key_variable: str | None = None

    @property
    def official(self) -> bool:
        return self.provider == "openai" and self.base_url is None

    def identity(self) -> dict[str, object]:
        """What a client of this endpoint is made of."""
        return {
            "provider": self.provider,
            "base_url": self.base_url,
            "api_key": self.api_key,
            "organization": self.organization,
            "project": self.project,
            "api_version": self.api_version,
            "azure_paths": self.azure_paths,
            "bearer": self.bearer,
        }


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Durations in seconds. None: the API's or the model's own default."""

    model: str
    base_model: str | None = None  # what `model` is, where it is the name of a deployment
    max_tokens: int | None = None
    context_window: int | None = None
    temperature: float | None = None
    priority: float = 100
    timeout: float = 600
    max_concurrent_requests: int = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    use_streaming: bool = True
    reasoning_effort: str | None = None
    reasoning_summary: str | None = "auto"
    parallel_tool_calls: bool = True
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    truncation: str | None = None
    enable_long_context: bool = False
    filtered: bool = True

    @classmethod
    def read(cls, options: Options, *, default_model: str) -> CallOptions:
        summary = options.text("reasoning_summary") or "auto"
        return cls(
            model=options.text("default_model") or options.text("model") or default_model,
            base_model=options.text("base_model"),
            max_tokens=positive(options, "max_tokens") or positive(options, "max_output_tokens"),
            context_window=positive(options, "context_window"),
            temperature=options.number("temperature", 0, minimum=0) if options.has("temperature") else None,
            priority=options.number("priority", 100),
            timeout=options.number("timeout", 600, minimum=0.001),
            max_concurrent_requests=options.integer("max_concurrent_requests", 0, minimum=0),
            retry=RetryPolicy.read(options),
            use_streaming=options.flag("use_streaming", True),
            reasoning_effort=options.text("reasoning_effort") or options.text("reasoning"),
            reasoning_summary=None if summary in ("off", "none", "False") else summary,
            parallel_tool_calls=options.flag("parallel_tool_calls", True),
            prompt_cache_key=options.text("prompt_cache_key"),
            prompt_cache_retention=options.text("prompt_cache_retention"),
            safety_identifier=options.text("safety_identifier"),
            service_tier=options.text("service_tier"),
            truncation=options.text("truncation"),
            enable_long_context=options.flag("enable_long_context", False),
            filtered=options.flag("filtered", True),
        )

    def known_as(self, model: str) -> str:
        """The model's own name, by which windows and prices are known."""
        return self.base_model if self.base_model and model == self.model else model


def extra_body(options: Options, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fields of a request that only this server knows; the option `extra_body` is a mapping."""
    given: Any = (values or {}).get("extra_body") or {}
    if not isinstance(given, Mapping):
        raise options.problem("extra_body", "must be a mapping")
    return dict(cast("Mapping[str, Any]", given))


def positive(options: Options, name: str) -> int | None:
    return options.integer(name, 0, minimum=0) or None


def api_of(options: Options, default: Api) -> Api:
    named = options.text("api")
    if named is None:
        return default
    api = _APIS.get(named)
    if api is None:
        raise options.problem("api", "must be responses or chat")
    return api


def address_of(options: Options, *names: str) -> str | None:
    """The first of these options that is given, which must be an http address."""
    for name in names:
        address = options.text(name)
        if address is not None:
            if not address.startswith(("http://", "https://")):
                raise options.problem(name, "must begin with http:// or https://")
            return address
    return None


def first_given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
