"""The options of `provider-anthropic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.anthropic_models import DEFAULT_MODEL

MODULE_ID = "provider-anthropic"


@dataclass(frozen=True, slots=True)
class AnthropicOptions:
    """Durations in seconds. None: the API's or the model's own default."""

    api_key: str = field(repr=False)
    base_url: str | None = None
    model: str = DEFAULT_MODEL
    max_tokens: int | None = None
    context_window: int | None = None
    temperature: float | None = None
    priority: float = 100
    timeout: float = 600
    max_retries: int = 5
    min_retry_delay: float = 1
    max_retry_delay: float = 60
    use_streaming: bool = True
    enable_prompt_caching: bool = True
    effort: str | None = None
    thinking: bool = False
    thinking_budget_tokens: int | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> AnthropicOptions:
        """`ConfigurationError` without a usable key: it comes from the config alone, never from the environment."""
        options = Options(MODULE_ID, values)
        budget = options.integer("thinking_budget_tokens", 0, minimum=0) or None
        return cls(
            api_key=_key(options),
            base_url=options.text("base_url"),
            model=options.text("default_model") or options.text("model") or DEFAULT_MODEL,
            max_tokens=options.integer("max_tokens", 0, minimum=0) or None,
            context_window=options.integer("context_window", 0, minimum=0) or None,
            temperature=options.number("temperature", 0, minimum=0) if options.has("temperature") else None,
            priority=options.number("priority", 100),
            timeout=options.number("timeout", 600, minimum=0.001),
            max_retries=options.integer("max_retries", 5, minimum=0),
            min_retry_delay=options.number("min_retry_delay", 1, minimum=0),
            max_retry_delay=options.number("max_retry_delay", 60, minimum=0),
            use_streaming=options.flag("use_streaming", True),
            enable_prompt_caching=options.flag("enable_prompt_caching", True),
            effort=options.text("effort"),
            thinking=options.flag("extended_thinking", False) or budget is not None,
            thinking_budget_tokens=budget,
        )


def _key(options: Options) -> str:
    key = (options.text("api_key") or "").strip()
    if not key:
        raise ConfigurationError(
            f"{MODULE_ID} needs an api_key: write `api_key: ${{ANTHROPIC_API_KEY}}` in its config", provider="anthropic"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{MODULE_ID}: the api_key holds characters no key has", provider="anthropic")
    return key
