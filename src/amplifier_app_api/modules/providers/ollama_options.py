"""The options of `provider-ollama`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.credentials import optional_key
from amplifier_app_api.modules.providers.retry import RetryPolicy

MODULE_ID = "provider-ollama"
NAME = "ollama"
DEFAULT_MODEL = "llama3.2:3b"
DEFAULT_NUM_CTX = 16_384


@dataclass(frozen=True, slots=True)
class OllamaOptions:
    """Durations in seconds. `num_ctx`: tokens of prompt and answer, 0 for what the server gives."""

    host: str | None = None  # None: the SDK's OLLAMA_HOST, or this machine
    api_key: str | None = field(default=None, repr=False)  # of a server that wants one
    model: str = DEFAULT_MODEL
    max_tokens: int = 4096
    num_ctx: int = DEFAULT_NUM_CTX
    context_window: int | None = None
    temperature: float | None = None
    keep_alive: float | str | None = None  # how long the model stays loaded: seconds, or as in "5m"
    enable_thinking: bool | None = None  # None: the model's own way
    auto_pull: bool = False
    priority: float = 100
    timeout: float = 300
    use_streaming: bool = True
    max_concurrent_requests: int = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> OllamaOptions:
        options = Options(MODULE_ID, values)
        return cls(
            host=options.text("host") or options.text("base_url"),
            api_key=optional_key(options, "api_key", module=MODULE_ID, provider=NAME),
            model=options.text("default_model") or options.text("model") or DEFAULT_MODEL,
            max_tokens=options.integer("max_tokens", 4096, minimum=1),
            num_ctx=options.integer("num_ctx", DEFAULT_NUM_CTX, minimum=0),
            context_window=options.integer("context_window", 0, minimum=0) or None,
            temperature=options.number("temperature", 0, minimum=0) if options.has("temperature") else None,
            keep_alive=_keep_alive(options),
            enable_thinking=options.flag("enable_thinking", True) if options.has("enable_thinking") else None,
            auto_pull=options.flag("auto_pull", False),
            priority=options.number("priority", 100),
            timeout=options.number("timeout", 300, minimum=0.001),
            use_streaming=options.flag("use_streaming", True),
            max_concurrent_requests=options.integer("max_concurrent_requests", 0, minimum=0),
            retry=RetryPolicy.read(options),
        )


def _keep_alive(options: Options) -> float | str | None:
    text = options.text("keep_alive")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text
