"""One option each: small builders, so that a schema reads as a table.

A default is what the module takes when the option is absent; an option without one is absent by default. Bounds and
choices are enforced by the module. Texts that hold a number or a switch are as good as these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]
Options = Mapping[str, Schema]


def text(
    description: str,
    default: str | None = None,
    *,
    choices: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> Schema:
    """`choices` are all there are, `examples` are some."""
    return _field("string", description, default, enum=list(choices), examples=list(examples))


def address(description: str, default: str | None = None, *, examples: Sequence[str] = ()) -> Schema:
    """An address that must begin with http:// or https://."""
    return {**text(description, default, examples=examples), "format": "uri", "pattern": "^https?://"}


def secret(description: str, *, variable: str | None = None) -> Schema:
    """A text that goes in and never comes out; `variable` is where it is commonly kept."""
    examples = [f"${{{variable}}}"] if variable else []
    return {**text(description, examples=examples), "format": "password", "writeOnly": True}


def integer(
    description: str, default: int | None = None, *, minimum: int | None = None, maximum: int | None = None
) -> Schema:
    return _field("integer", description, default, minimum=minimum, maximum=maximum)


def number(
    description: str, default: float | None = None, *, minimum: float | None = None, maximum: float | None = None
) -> Schema:
    return _field("number", description, default, minimum=minimum, maximum=maximum)


def flag(description: str, default: bool | None = None) -> Schema:
    return _field("boolean", description, default)


def texts(
    description: str,
    default: Sequence[str] | None = (),
    *,
    choices: Sequence[str] = (),
    examples: Sequence[Sequence[str]] = (),
) -> Schema:
    """A list; one text alone stands for a list of it."""
    listed = None if default is None else list(default)
    return {
        **_field("array", description, listed, examples=[list(example) for example in examples]),
        "items": {"type": "string", "enum": list(choices)} if choices else {"type": "string"},
    }


def entries(description: str, options: Options) -> Schema:
    """A list of mappings with options of their own."""
    return {**_field("array", description), "items": {"type": "object", "properties": dict(options)}}


def section(description: str, options: Options) -> Schema:
    """A mapping with options of its own."""
    return {**_field("object", description), "properties": dict(options)}


def mapping(description: str, *, values: Schema | None = None, examples: Sequence[Mapping[str, Any]] = ()) -> Schema:
    """A mapping whose names are free; `values` is the schema of what stands under each."""
    return {
        **_field("object", description, examples=[dict(example) for example in examples]),
        "additionalProperties": values if values is not None else True,
    }


def other_name(option: str, field: Schema) -> Schema:
    """The same option under a second name, which counts where the first is absent."""
    kept = {key: value for key, value in field.items() if key not in ("description", "default", "examples")}
    return {**kept, "description": f"Another name for `{option}`, which wins where both are given."}


def _field(kind: str, description: str, default: Any = None, **more: Any) -> Schema:
    field: Schema = {"type": kind, "description": description}
    if default is not None:
        field["default"] = default
    return field | {name: value for name, value in more.items() if value is not None and value != []}
