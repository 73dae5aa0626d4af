"""A Config from what an older session stored itself: its bundle, provider, model and further options."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from amplifier_app_api.bundles import dump_yaml
from amplifier_app_api.core.legacy.row import Row
from amplifier_app_api.core.legacy.settings import KEYS, LegacySettings

DEFAULT_BUNDLE = "foundation"
SECTIONS = ("session", "providers", "tools", "hooks", "agents", "context", "spawn")
"""What of a session's options is a section of a bundle."""

_NAMESPACE = uuid.UUID("6f2b7b0e-4d0b-5c36-9d43-0f6a2f6c8f11")


@dataclass(frozen=True, slots=True)
class ComposedConfig:
    """A text, the id that every session with this text shares, and a name for people."""

    config_id: str
    name: str
    text: str


def compose_config(row: Row, settings: LegacySettings) -> ComposedConfig:
    """The Config that runs what an older session ran, as far as its row tells."""
    bundle = row.optional_text("bundle") or settings.active_bundle or DEFAULT_BUNDLE
    provider = row.optional_text("provider") or settings.active_provider
    model = row.optional_text("model")
    if model is not None and provider is None:
        row.note("its model names no provider")
    name = " ".join(part for part in (bundle, provider, model if provider else None) if part)
    data: dict[str, Any] = {
        "bundle": {"name": "migrated", "description": f"From older sessions: {name}"},
        "includes": [{"bundle": bundle}],
    }
    if provider is not None:
        data["providers"] = [_provider(provider, model, settings)]
    for section, value in _sections(row):
        own = data.get(section)
        data[section] = [*cast("list[Any]", own), *value] if own and isinstance(value, list) else value
    text = dump_yaml(data)
    return ComposedConfig(str(uuid.uuid5(_NAMESPACE, text)), name[:200], text)


def _provider(name: str, model: str | None, settings: LegacySettings) -> dict[str, Any]:
    short = name.removeprefix("provider-")
    options = {**settings.providers.get(name, settings.providers.get(short, {}))}
    if short in KEYS:
        options["api_key"] = f"${{{KEYS[short]}}}"
    if model is not None:
        # Both words are about; an option that names another model would win otherwise.
        options.pop("default_model", None)
        options["model"] = model
    entry: dict[str, Any] = {"module": f"provider-{short}"}
    return {**entry, "config": options} if options else entry


def _sections(row: Row) -> Iterator[tuple[str, Any]]:
    for key, value in row.json_object("config").items():
        if key in SECTIONS and value:
            yield key, value
        elif value not in (None, {}, [], ""):
            row.note(f"its option {key[:50]!r} has no place in a bundle")
