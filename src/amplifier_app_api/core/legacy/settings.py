"""The predecessor's table `configuration`: JSON values by key.

The older program kept there what a session could name: `providers` with their keys and options, `bundles` and
`modules` with their sources, and which bundle and provider were active. The newer one left the table unused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.core.legacy.report import Report, Verdict
from amplifier_app_api.core.legacy.row import CannotCarry, Row
from amplifier_app_api.runtime.masking import names_secret

KEYS = {
    "anthropic": "ANTHROPIC_API_KEY",
    "openai": "OPENAI_API_KEY",
    "azure-openai": "AZURE_OPENAI_API_KEY",
    "google": "GOOGLE_API_KEY",
    "gemini": "GEMINI_API_KEY",
}
"""The variable that holds the key of a provider."""


@dataclass
class LegacySettings:
    """What older sessions refer to. `providers` are options without their secrets."""

    providers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    bundles: dict[str, str] = field(default_factory=dict[str, str])
    active_bundle: str | None = None
    active_provider: str | None = None


def read_settings(rows: Iterator[Row], report: Report) -> LegacySettings:
    """The settings, and an entry of the report for each that has no place here."""
    settings = LegacySettings()
    for row in rows:
        key = row.shown("key")
        try:
            value = row.json("value")
        except CannotCarry as problem:
            report.add("setting", key, Verdict.NOT_CARRIED, [str(problem)])
            continue
        if value in (None, {}, [], ""):
            continue
        match key, value:
            case "active_bundle", str():
                settings.active_bundle = value
            case "active_provider", str():
                settings.active_provider = value
            case "providers", dict():
                _read_providers(cast("dict[str, Any]", value), settings, report)
            case "bundles", dict():
                _read_bundles(cast("dict[str, Any]", value), settings, report)
            case "modules", dict():
                for name in cast("dict[str, Any]", value):
                    reason = "a module's source stands in the config that uses it"
                    report.add("setting", f"modules.{name}", Verdict.NOT_CARRIED, [reason])
            case _:
                report.add("setting", key, Verdict.NOT_CARRIED, ["nothing here has this setting"])
    return settings


def _read_providers(value: Mapping[str, Any], settings: LegacySettings, report: Report) -> None:
    for name, entry in value.items():
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        options = fields.get("config")
        given = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
        secrets = [option for option in given if names_secret(option)]
        settings.providers[name] = {option: given[option] for option in given if option not in secrets}
        if secrets or fields.get("api_key"):
            variable = KEYS.get(name)
            instead = f"give the server {variable}" if variable else "write it into the configs as a variable"
            report.add("setting", f"providers.{name}", Verdict.CARRIED, [f"its key is not copied: {instead}"])


def _read_bundles(value: Mapping[str, Any], settings: LegacySettings, report: Report) -> None:
    for name, entry in value.items():
        source: Any = cast("dict[str, Any]", entry).get("source") if isinstance(entry, dict) else entry
        if isinstance(source, str) and source:
            settings.bundles[name] = source
        else:
            report.add("bundle", name, Verdict.NOT_CARRIED, ["it has no source"])
