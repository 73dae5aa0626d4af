"""Secrets go in and never come out: the values a session was opened with are masked in what it tells."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson

from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.observability.redaction import MASK, names_secret

__all__ = ["MASK", "SecretMask", "names_secret", "secrets_in"]

MIN_LENGTH = 6
"""A shorter value would mask ordinary words."""


class SecretMask:
    """Replaces known secret values in texts and JSON values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        found = {value for value in values if len(value) >= MIN_LENGTH}
        # Tools quote what they show, as JSON or as Python does: a key of several lines is known in these forms, too.
        found |= {orjson.dumps(made_storable(value)).decode()[1:-1] for value in found}
        found |= {repr(value)[1:-1] for value in found}
        known = sorted(found, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """`text` with every known value replaced."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def json(self, value: Any) -> Any:
        """`value` with every text in it masked, and every member whose name says that it is a secret."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(item) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {key: self._member(str(key), item) for key, item in cast("dict[Any, Any]", value).items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        return MASK if names_secret(name) and isinstance(value, str) else self.json(value)


def secrets_in(plan: Mapping[str, Any]) -> set[str]:
    """Every text of a plan whose name says that it is a secret."""
    found: set[str] = set()
    pending: list[Any] = [plan]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            for key, value in cast("Mapping[Any, Any]", item).items():
                if isinstance(value, str) and names_secret(str(key)):
                    found.add(value)
                else:
                    pending.append(value)
        elif isinstance(item, list):
            pending.extend(cast("list[Any]", item))
    return found
