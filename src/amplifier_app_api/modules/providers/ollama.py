"""`provider-ollama`: models that run on one's own machine, through Ollama's own SDK.

`num_ctx` is always said: a server left to itself cuts the beginning off a longer conversation without a word.
With `num_ctx: 0` it is the server's to decide. Models are pulled only with `auto_pull`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.providers.ollama_options import MODULE_ID, NAME, OllamaOptions

__amplifier_module_type__ = "provider"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = OllamaOptions.read(config)
    await load_implementation(MODULE_ID, "amplifier_app_api.modules.providers.ollama_provider")
    from amplifier_app_api.modules.providers.ollama_provider import OllamaProvider

    provider = OllamaProvider(options, coordinator.hooks)
    await coordinator.mount("providers", provider, name=NAME)
    return provider.close
