"""Writes `docs/reference/modules.md` from the schemas; `python tests/docs/modules_page.py` prints it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from amplifier_app_api.modules import BUILTIN_MODULES, BuiltinModule
from amplifier_app_api.modules.schemas import schema_of

INTRODUCTION = """\
# Modules

These modules need no `source:` in a bundle. Their options stand under `config:`, and all may be left out but for the
key of a vendor and the address of a server that nobody else knows. An option that a module does not have is ignored,
and is a warning of [`validate` and `plan`](../howto/plan-and-validate.md) that names the one that may have been meant.
A running server tells the same as JSON Schema, see [`/modules`](http.md#modules).

A text that holds a value, such as `"5"`, is as good as the value, since
[`${NAME}`](../explanation/bundles.md#variables-e) makes texts. Times are in seconds and sizes in bytes unless a name
says otherwise. A list may be one text. A `*` stands for a name of one's own.

A module that needs an *extra* is installed with it: `pip install "amplifier-app-api[anthropic]"`.
"""

TITLES = {
    "orchestrator": "Loops",
    "context": "Contexts",
    "provider": "Providers",
    "tool": "Tools",
    "hook": "Hooks",
}


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for kind in TITLES for line in _of_kind(kind))]).rstrip() + "\n"


def _of_kind(kind: str) -> Iterator[str]:
    modules = [module for module in BUILTIN_MODULES.values() if module.kind == kind]
    if modules:
        yield f"## {TITLES[kind]}\n"
    for module in modules:
        yield from _of_module(module)


def _of_module(module: BuiltinModule) -> Iterator[str]:
    yield f"### {module.id}\n"
    extra = f" Needs the extra `{module.extra}`." if module.extra else ""
    yield f"{module.description}.{extra}\n"
    properties = schema_of(module.id)["properties"]
    if not properties:
        yield "It has no options.\n"
        return
    yield "| option | value | default | |"
    yield "|---|---|---|---|"
    yield from (_row(name, option) for name, option in _options(properties))
    yield ""


def _options(properties: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, option in properties.items():
        yield f"{at}{name}", option
        yield from _options(option.get("properties", {}), f"{at}{name}.")
        each = option.get("items", option.get("additionalProperties"))
        if isinstance(each, Mapping):
            yield from _options(each.get("properties", {}), f"{at}{name}.*.")


def _row(name: str, option: Mapping[str, Any]) -> str:
    default = f"`{json.dumps(option['default'])}`" if "default" in option else ""
    return f"| `{name}` | {_value(option)} | {default} | {option['description']} |"


def _value(option: Mapping[str, Any]) -> str:
    choices = option.get("enum", option.get("items", {}).get("enum"))
    if choices:
        return ("list of " if option["type"] == "array" else "") + " or ".join(f"`{choice}`" for choice in choices)
    least, most = option.get("minimum"), option.get("maximum")
    kind = {"object": "mapping", "array": "list", "string": "text", "boolean": "true or false"}.get(
        option["type"], option["type"]
    )
    if least is not None and most is not None:
        return f"{kind}, {least:,} to {most:,}"
    return kind if least is None else f"{kind}, at least {least:,}"


if __name__ == "__main__":
    print(page(), end="")
