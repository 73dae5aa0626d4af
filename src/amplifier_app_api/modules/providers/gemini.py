"""`provider-gemini`: Gemini through Google's own SDK, which is imported when the module is mounted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.providers.gemini_options import MODULE_ID, PROVIDER, GeminiOptions

__amplifier_module_type__ = "provider"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = GeminiOptions.read(config)
    await load_implementation(MODULE_ID, f"{__name__}_provider")
    from amplifier_app_api.modules.providers.gemini_provider import GeminiProvider

    provider = GeminiProvider(options, coordinator.hooks)
    await coordinator.mount("providers", provider, name=PROVIDER)
    return provider.close
