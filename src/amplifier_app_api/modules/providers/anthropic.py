"""`provider-anthropic`: Claude through Anthropic's own SDK, which is imported when the module is mounted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from amplifier_app_api.modules.providers.anthropic_options import MODULE_ID, PROVIDER, AnthropicOptions
from amplifier_app_api.modules.providers.clients import load_implementation

__amplifier_module_type__ = "provider"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = AnthropicOptions.read(config)
    await load_implementation(MODULE_ID, f"{__name__}_provider")
    from amplifier_app_api.modules.providers.anthropic_provider import AnthropicProvider

    provider = AnthropicProvider(options, coordinator.hooks)
    await coordinator.mount("providers", provider, name=PROVIDER)
    return provider.close
