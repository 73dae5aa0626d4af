"""Keys, from the config alone: what of the server's environment a config may see is the host's to say."""

from __future__ import annotations

from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.options import Options


def api_key_of(options: Options, *, module: str, provider: str, variable: str) -> str:
    """The option `api_key`; `ConfigurationError`, which never repeats it, when there is none that can be one."""
    key = optional_key(options, "api_key", module=module, provider=provider)
    if not key:
        raise ConfigurationError(
            f"{module} needs an api_key: write `api_key: ${{{variable}}}` in its config", provider=provider
        )
    return key


def optional_key(options: Options, name: str, *, module: str, provider: str) -> str | None:
    """A key or token that need not be there; `ConfigurationError`, which never repeats it, when it cannot be one."""
    key = (options.text(name) or "").strip()
    if key and (not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigurationError(f"{module}: the {name} holds characters no key has", provider=provider)
    return key or None
