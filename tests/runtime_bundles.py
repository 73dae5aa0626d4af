"""Bundles that tests of the runtime open sessions from."""

from pathlib import Path
from typing import Any

import yaml

MODULES = Path(__file__).parent / "fixtures" / "modules"


def bundle_text(
    *,
    replies: list[str] | None = None,
    tools: list[dict[str, Any]] | None = None,
    hooks: list[dict[str, Any]] | None = None,
    provider: dict[str, Any] | None = None,
    session: dict[str, Any] | None = None,
    scripted: dict[str, Any] | None = None,
) -> str:
    """The least that runs, with the scripted provider, changed where a test needs it."""
    document: dict[str, Any] = {
        "bundle": {"name": "test"},
        "includes": [{"bundle": "foundation:minimal"}],
        "providers": [
            provider or {"module": "provider-scripted", "config": {**(scripted or {}), "replies": replies or []}}
        ],
    }
    if tools:
        document["tools"] = tools
    if hooks:
        document["hooks"] = hooks
    if session:
        document["session"] = session
    return yaml.safe_dump(document, sort_keys=False)


def from_folder(module: str, **config: Any) -> dict[str, Any]:
    """An entry for one of the modules written for these tests, from its folder."""
    entry: dict[str, Any] = {"module": module, "source": str(MODULES / module)}
    return {**entry, "config": config} if config else entry
