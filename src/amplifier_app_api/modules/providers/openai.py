"""`provider-openai`: OpenAI's models through the Responses API, and servers compatible with Chat Completions.

`api` says which of the two is spoken. By default it is `responses` with OpenAI itself, and `chat` with a
`base_url` that is not OpenAI's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.providers.credentials import api_key_of
from amplifier_app_api.modules.providers.openai_models import DEFAULT_MODEL
from amplifier_app_api.modules.providers.openai_options import (
    CallOptions,
    Endpoint,
    address_of,
    api_of,
    extra_body,
)

__amplifier_module_type__ = "provider"

MODULE_ID = "provider-openai"
NAME = "openai"


def endpoint_of(options: Options) -> Endpoint:
    base_url = address_of(options, "base_url")
    vendor = base_url is None or (urlsplit(base_url).hostname or "").endswith(".openai.com")
    return Endpoint(
        provider=NAME,
        display_name="OpenAI" if vendor else options.text("display_name") or "OpenAI-compatible server",
        api=api_of(options, "responses" if vendor else "chat"),
        base_url=base_url,
        api_key=api_key_of(options, module=MODULE_ID, provider=NAME, variable="OPENAI_API_KEY"),
        organization=options.text("organization"),
        project=options.text("project"),
        vendor=vendor,
        key_variable="OPENAI_API_KEY",
    )


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = Options(MODULE_ID, config)
    endpoint = endpoint_of(options)
    calls = CallOptions.read(options, default_model=DEFAULT_MODEL)
    await load_implementation(MODULE_ID, "amplifier_app_api.modules.providers.openai_provider")
    from amplifier_app_api.modules.providers.openai_provider import OpenAIProvider

    provider = OpenAIProvider(
        endpoint,
        calls,
        coordinator.hooks,
        session_id=getattr(coordinator, "session_id", None),
        extra_body=extra_body(options, config),
    )
    await coordinator.mount("providers", provider, name=NAME)
    return provider.close
