"""The options of `provider-anthropic`.

The key comes from the config alone, never from the environment: what of it a config may see is the host's to
say. Options that other versions of this module know and this one does not: `rate_limit_state_path` and the
throttling by it (state shared by all keys), `fallback_*` and `speed` (another model than the one asked for),
`enable_web_search` and `task_budget_tokens` (the API's own tools), `raw` and `filtered`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.anthropic_models import DEFAULT_MODEL
from amplifier_app_api.modules.providers.credentials import api_key_of
from amplifier_app_api.modules.providers.retry import RetryPolicy

MODULE_ID = "provider-anthropic"
PROVIDER = "anthropic"


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
    max_concurrent_requests: int = 0  # with this key, over all sessions of the process; 0: no limit
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    use_streaming: bool = True
    enable_prompt_caching: bool = True
    effort: str | None = None
    thinking: bool = False
    thinking_budget_tokens: int | None = None
    thinking_display: str = "summarized"
    beta_headers: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> AnthropicOptions:
        """`ConfigurationError` without a usable key."""
        options = Options(MODULE_ID, values)
        budget = options.integer("thinking_budget_tokens", 0, minimum=0) or None
        return cls(
            api_key=api_key_of(options, module=MODULE_ID, provider=PROVIDER, variable="ANTHROPIC_API_KEY"),
            base_url=options.text("base_url"),
            model=options.text("default_model") or options.text("model") or DEFAULT_MODEL,
            max_tokens=options.integer("max_tokens", 0, minimum=0) or None,
            context_window=options.integer("context_window", 0, minimum=0) or None,
            temperature=options.number("temperature", 0, minimum=0) if options.has("temperature") else None,
            priority=options.number("priority", 100),
            timeout=options.number("timeout", 600, minimum=0.001),
            max_concurrent_requests=options.integer("max_concurrent_requests", 0, minimum=0),
            retry=RetryPolicy.read(options),
            use_streaming=options.flag("use_streaming", True),
            enable_prompt_caching=options.flag("enable_prompt_caching", True),
            effort=options.text("effort"),
            thinking=options.flag("extended_thinking", False) or budget is not None,
            thinking_budget_tokens=budget,
            thinking_display=_display(options),
            beta_headers=tuple(options.texts("beta_headers")),
        )

    def identity(self) -> dict[str, object]:
        """What a client is made of."""
        return {"api_key": self.api_key, "base_url": self.base_url}


def _display(options: Options) -> str:
    display = options.text("thinking_display") or "summarized"
    if display not in ("summarized", "omitted"):
        raise options.problem("thinking_display", "must be summarized or omitted")
    return display
