"""The edits that the helpers make: functions from a text to the text with one entry more."""

from collections.abc import Callable
from typing import Any

from amplifier_app_api.bundles import DocumentLimits, Edit, add_include, add_module
from amplifier_app_api.core.fields import valid
from amplifier_app_api.models.config import BundleRequest, ModuleRequest

TextEdit = Callable[[str, DocumentLimits], Edit]


def tool_edit(
    module: str, source: str | None = None, config: dict[str, Any] | None = None, *, replace: bool = False
) -> TextEdit:
    """Append a tool; one of the same identity is `ModuleExists`, with `replace` the two are merged."""
    return _module_edit("tools", module, source, config, replace)


def provider_edit(
    module: str, source: str | None = None, config: dict[str, Any] | None = None, *, replace: bool = False
) -> TextEdit:
    """Append a provider; one of the same identity is `ModuleExists`, with `replace` the two are merged."""
    return _module_edit("providers", module, source, config, replace)


def include_edit(bundle_uri: str, *, replace: bool = False) -> TextEdit:
    """Append an include; one that is there already is `ModuleExists`, with `replace` it stays."""
    uri = valid(BundleRequest, {"bundle_uri": bundle_uri}).bundle_uri
    return lambda text, limits: add_include(text, uri, replace=replace, limits=limits)


def _module_edit(
    section: str, module: str, source: str | None, config: dict[str, Any] | None, replace: bool
) -> TextEdit:
    request = valid(ModuleRequest, {"module": module, "source": source, "config": config})
    entry = request.model_dump(exclude_none=True)
    if request.config is not None:
        entry["config"] = request.config  # whole: a null in it is the module's business
    return lambda text, limits: add_module(text, section, entry, replace=replace, limits=limits)
