"""Plain values read from YAML: what they are, where they are, when two are equal.

Documents are untyped data until a section has been looked at, so the narrowing helpers here are the one
place where `Any` becomes a mapping or a list.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

_SHOWN = 200


def is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether the value is a mapping. Its keys may still be of any type in a document not yet checked."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_text(value: object) -> TypeGuard[str]:
    """Whether the value is a text with something in it."""
    return isinstance(value, str) and value != ""


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901) from its unescaped parts; none is the whole document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def pointer_parts(text: str) -> list[str]:
    """The unescaped parts of a JSON pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def quoted(value: object) -> str:
    """A value as a sentence may show it: quoted, and cut short when it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def fingerprint_of(value: object) -> object:
    """A hashable stand-in, equal for two values exactly when they are the same data.

    Type aware, unlike `==`: 1, 1.0 and true all differ. The order of keys does not matter.
    """
    if is_mapping(value):
        return ("mapping", frozenset((fingerprint_of(key), fingerprint_of(item)) for key, item in value.items()))
    if is_list(value):
        return ("list", tuple(fingerprint_of(item) for item in value))
    # repr: 0.0 and -0.0 compare equal, and NaN does not equal itself.
    return (type(value).__name__, repr(value))


def same(left: object, right: object) -> bool:
    """Whether two values are the same data, type for type."""
    return fingerprint_of(left) == fingerprint_of(right)


def texts_in(value: object, *at: str | int) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text value inside a value, with its path; keys are not values."""
    if isinstance(value, str):
        yield at, value
    elif is_mapping(value):
        for key, item in value.items():
            yield from texts_in(item, *at, key)
    elif is_list(value):
        for index, item in enumerate(value):
            yield from texts_in(item, *at, index)
