"""Which provider and model an agent gets: the first of its preferences that the mount plan can serve."""

import copy
import fnmatch
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from amplifier_app_api.errors import Invalid

from .values import is_mapping, is_text

PROTECTED = frozenset(
    {
        "access_token",
        "api_key",
        "api_version",
        "azure_endpoint",
        "base_url",
        "bearer_token",
        "ca_bundle",
        "client_id",
        "client_secret",
        "deployment_name",
        "host",
        "http_proxy",
        "https_proxy",
        "managed_identity_client_id",
        "organization",
        "password",
        "project",
        "proxy",
        "secret",
        "ssl_verify",
        "tenant_id",
        "token",
        "use_default_credential",
        "use_managed_identity",
        "verify",
        "verify_ssl",
    }
)
"""Options that say who is called with which key. A preference, which a model may have written, cannot set them."""

Models = Callable[[Mapping[str, Any]], Awaitable[Sequence[str]]]
"""From a provider's entry in the mount plan to the models it has; none when that cannot be known."""

Preference = Mapping[str, Any]


class InvalidPreference(Invalid):
    """A preference that names no provider or no model."""


def prefer(plan: Mapping[str, Any], preferences: Iterable[Preference]) -> dict[str, Any]:
    """A plan in which the preferred provider comes first, with the preferred model; patterns stay as written."""
    for preference in _checked(preferences):
        index = _entry_for(plan, preference["provider"])
        if index is not None:
            return _promoted(plan, index, preference, preference["model"])
    return copy.deepcopy(dict(plan))


async def prefer_existing(plan: Mapping[str, Any], preferences: Iterable[Preference], models: Models) -> dict[str, Any]:
    """`prefer`, where a model with `*`, `?` or `[` is a pattern for those its provider has."""
    chosen = await choose(plan, preferences, models)
    return prefer(plan, [] if chosen is None else [chosen])


async def choose(plan: Mapping[str, Any], preferences: Iterable[Preference], models: Models) -> Preference | None:
    """The first preference that the plan can serve, its model a name and no pattern.

    Of several models that match the last by plain text order is taken; a pattern that matches none passes to the
    next preference.
    """
    for preference in _checked(preferences):
        index = _entry_for(plan, preference["provider"])
        if index is None:
            continue
        model: str | None = preference["model"]
        if any(mark in preference["model"] for mark in "*?["):
            model = _best(await models(plan["providers"][index]), preference["model"])
        if model is not None:
            return {**preference, "model": model}
    return None


def mounted_names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The names a provider of this entry may be mounted under, the most likely first."""
    names = (entry.get("instance_id"), entry.get("id"), _short(entry.get("module")), entry.get("module"))
    return tuple(dict.fromkeys(name for name in names if is_text(name)))


def _checked(preferences: Iterable[Preference]) -> list[Preference]:
    checked = list(preferences)
    for preference in checked:
        for key in ("provider", "model"):
            if not is_text(preference.get(key)):
                raise InvalidPreference(f"A provider preference must have a {key}.")
    return checked


def _entry_for(plan: Mapping[str, Any], name: str) -> int | None:
    """The entry a preference names, by module id, the id without `provider-`, or instance; of several the last."""
    providers: Sequence[Any] = plan.get("providers") or ()
    named = [index for index, entry in enumerate(providers) if is_mapping(entry) and name in mounted_names(entry)]
    return named[-1] if named else None


def _short(module: object) -> str | None:
    return module.removeprefix("provider-") if is_text(module) else None


def _best(models: Sequence[str], pattern: str) -> str | None:
    matching = [model for model in models if fnmatch.fnmatchcase(model.lower(), pattern.lower())]
    return max(matching, default=None)


def _promoted(plan: Mapping[str, Any], index: int, preference: Preference, model: str) -> dict[str, Any]:
    promoted: dict[str, Any] = copy.deepcopy(dict(plan))
    for entry in promoted["providers"]:
        if is_mapping(entry):
            entry["config"] = entry.get("config") or {}
    wanted: Any = preference.get("config")
    options = {key: value for key, value in wanted.items() if key not in PROTECTED} if is_mapping(wanted) else {}
    config: dict[str, Any] = promoted["providers"][index]["config"]
    config.update(copy.deepcopy(options) | {"priority": 0, "default_model": model})
    return promoted
