"""TOML that somebody else wrote. The library's reader takes quadratic time for long keys, and recursion has its end."""

import tomllib
from typing import Any

_MOST_DOTS = 256
"""In one line. Every part of a key is looked at once for each part before it."""


def toml_of(content: bytes) -> dict[str, Any]:
    """The tables of a text; `ValueError` when it cannot be read, or is like no file that people write."""
    text = content.decode()
    if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
        raise ValueError("a key has too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
