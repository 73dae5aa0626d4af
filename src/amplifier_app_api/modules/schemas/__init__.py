"""What options each built-in module has, as JSON Schema (2020-12).

The schemas are for people and for their tools. What is enforced is enforced where the options are read; tests compare
the two. Reading a schema imports no module and no SDK.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.modules.schemas.contexts import CONTEXTS
from amplifier_app_api.modules.schemas.fields import Options, Schema
from amplifier_app_api.modules.schemas.hooks import HOOKS
from amplifier_app_api.modules.schemas.orchestrators import ORCHESTRATORS
from amplifier_app_api.modules.schemas.providers import PROVIDERS
from amplifier_app_api.modules.schemas.tools import TOOLS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_OPTIONS: Mapping[str, Options] = {**ORCHESTRATORS, **CONTEXTS, **PROVIDERS, **TOOLS, **HOOKS}


@dataclass(frozen=True, slots=True)
class UnknownOption:
    """An option that a module does not have, with the way to it, and the one that may have been meant."""

    path: tuple[str, ...]
    near: str | None


def schema_of(module_id: str) -> Schema:
    """The schema of a built-in module's `config:`, a copy of one's own; `KeyError` when there is no such module.

    Options that it does not name are ignored by the module, so it does not forbid them.
    """
    module = BUILTIN_MODULES[module_id]
    return {
        "$schema": DIALECT,
        "title": module.id,
        "description": f"{module.description}.",
        "type": "object",
        "properties": copy.deepcopy(dict(_OPTIONS[module_id])),
    }


def unknown_options(module_id: str, values: Mapping[Any, Any]) -> Iterator[UnknownOption]:
    """Every option among `values` that the module does not have, also inside options that are mappings."""
    yield from _unknown(_OPTIONS[module_id], values, ())


def _unknown(options: Options, values: Mapping[Any, Any], at: tuple[str, ...]) -> Iterator[UnknownOption]:
    for name, value in values.items():
        option = options.get(name)
        if option is None:
            near = difflib.get_close_matches(str(name).lower()[:60], options, n=1, cutoff=0.6)
            yield UnknownOption((*at, str(name)), next(iter(near), None))
        elif isinstance(value, Mapping):
            yield from _inside(option, cast("Mapping[Any, Any]", value), (*at, name))
        elif isinstance(value, list) and "items" in option:
            for number, entry in enumerate(cast("list[Any]", value)):
                if isinstance(entry, Mapping):
                    yield from _inside(option["items"], cast("Mapping[Any, Any]", entry), (*at, name, str(number)))


def _inside(option: Schema, values: Mapping[Any, Any], at: tuple[str, ...]) -> Iterator[UnknownOption]:
    if "properties" in option:
        yield from _unknown(option["properties"], values, at)
        return
    each: Any = option.get("additionalProperties")
    if isinstance(each, dict):
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from _inside(cast("Schema", each), cast("Mapping[Any, Any]", value), (*at, str(name)))
