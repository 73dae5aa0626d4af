"""`provider-azure-openai`: OpenAI's models in an Azure resource.

Without an `api_version` the resource's `/openai/v1` is spoken to; with a dated one the paths Azure began
with. The model is the name of a deployment; `base_model` says what was deployed. Instead of a key there may be
a token: from the config, or from the host's capability `azure_openai.token_provider`, an async function. The
server's own identity is never used: a config could send it to any address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.providers.credentials import api_key_of, optional_key
from amplifier_app_api.modules.providers.openai_models import DEFAULT_MODEL
from amplifier_app_api.modules.providers.openai_options import (
    CallOptions,
    Endpoint,
    address_of,
    api_of,
    extra_body,
)

__amplifier_module_type__ = "provider"

MODULE_ID = "provider-azure-openai"
NAME = "azure-openai"
KEY_VARIABLE = "AZURE_OPENAI_API_KEY"
TOKEN_PROVIDER = "azure_openai.token_provider"  # a capability: `async () -> str`

_V1 = frozenset({"v1", "preview", "latest"})


def endpoint_of(options: Options, *, token_provided: bool = False) -> Endpoint:
    """Raises `ConfigurationError` without an address, or without a key or token."""
    version = options.text("api_version")
    v1 = version is None or version in _V1
    token = optional_key(options, "azure_ad_token", module=MODULE_ID, provider=NAME)
    key = token or (
        "" if token_provided else api_key_of(options, module=MODULE_ID, provider=NAME, variable=KEY_VARIABLE)
    )
    return Endpoint(
        provider=NAME,
        display_name="Azure OpenAI",
        api=api_of(options, "responses"),
        base_url=_address(options, v1),
        api_key=key,
        api_version=None if version == "v1" else version,
        azure_paths=not v1,
        bearer=bool(token),
        key_variable=KEY_VARIABLE,
    )


def _address(options: Options, v1: bool) -> str:
    whole = address_of(options, "base_url")
    if whole is not None:
        return whole
    resource = address_of(options, "azure_endpoint", "endpoint")
    if resource is None:
        raise ConfigurationError(
            f"{MODULE_ID} needs an azure_endpoint: write the resource's address in its config", provider=NAME
        )
    root = resource.rstrip("/")
    root = root if root.endswith("/openai") else f"{root}/openai"
    return f"{root}/v1/" if v1 else root


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = Options(MODULE_ID, config)
    token_provider = None if options.has("api_key") else coordinator.get_capability(TOKEN_PROVIDER)
    endpoint = endpoint_of(options, token_provided=token_provider is not None)
    deployment = options.text("deployment") or options.text("azure_deployment") or options.text("deployment_name")
    calls = CallOptions.read(options, default_model=deployment or DEFAULT_MODEL)
    await load_implementation(MODULE_ID, "amplifier_app_api.modules.providers.openai_provider")
    from amplifier_app_api.modules.providers.openai_provider import OpenAIProvider

    provider = OpenAIProvider(
        endpoint,
        calls,
        coordinator.hooks,
        session_id=getattr(coordinator, "session_id", None),
        extra_body=extra_body(options, config),
        token_provider=None if options.has("azure_ad_token") else token_provider,
    )
    await coordinator.mount("providers", provider, name=NAME)
    return provider.close
