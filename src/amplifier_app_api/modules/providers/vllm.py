"""`provider-vllm`: models on a vLLM server, or one like it, through Chat Completions.

No key is needed. What the model thinks is shown and goes back while the turn lasts; `enable_thinking` switches
it for models whose template knows the switch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.providers.credentials import optional_key
from amplifier_app_api.modules.providers.openai_options import (
    CallOptions,
    Endpoint,
    address_of,
    api_of,
    extra_body,
)

__amplifier_module_type__ = "provider"

MODULE_ID = "provider-vllm"
NAME = "vllm"
DEFAULT_ADDRESS = "http://localhost:8000/v1"
DEFAULT_MODEL = "openai/gpt-oss-20b"
NO_KEY = "none"  # the SDK wants one


def endpoint_of(options: Options) -> Endpoint:
    return Endpoint(
        provider=NAME,
        display_name="vLLM",
        api=api_of(options, "chat"),
        base_url=address_of(options, "base_url") or DEFAULT_ADDRESS,
        api_key=optional_key(options, "api_key", module=MODULE_ID, provider=NAME) or NO_KEY,
        vendor=False,
    )


def body_of(options: Options, config: Mapping[str, Any] | None) -> dict[str, Any]:
    body = extra_body(options, config)
    if options.has("enable_thinking"):
        given = cast("Mapping[str, Any]", body.get("chat_template_kwargs") or {})
        body["chat_template_kwargs"] = {**given, "enable_thinking": options.flag("enable_thinking", True)}
    return body


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = Options(MODULE_ID, config)
    endpoint = endpoint_of(options)
    calls = CallOptions.read(options, default_model=DEFAULT_MODEL)
    await load_implementation(MODULE_ID, "amplifier_app_api.modules.providers.openai_provider")
    from amplifier_app_api.modules.providers.openai_provider import OpenAIProvider

    provider = OpenAIProvider(endpoint, calls, coordinator.hooks, extra_body=body_of(options, config))
    await coordinator.mount("providers", provider, name=NAME)
    return provider.close
