"""Reading a module's options: the `config:` mapping of its entry in a bundle.

Values come from YAML or, through `${VAR}`, from the environment as text; so `"5"` is as good as `5`.
Unknown options are ignored, for bundles written for other versions of a module. The mapping is only
read: hosts may share it between sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from amplifier_app_api.modules.kernel import ConfigurationError

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Options:
    """Typed access to one module's options; a value of the wrong kind raises `ConfigurationError`."""

    def __init__(self, module: str, values: Mapping[str, Any] | None) -> None:
        self._module = module
        self._values: Mapping[str, Any] = values or {}

    def problem(self, name: str, sentence: str) -> ConfigurationError:
        return ConfigurationError(f"{self._module}: option {name!r} {sentence}", provider=self._module)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, name: str, default: int, *, minimum: int | None = None) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise self.problem(name, "must be a whole number")
        if minimum is not None and value < minimum:
            raise self.problem(name, f"must be at least {minimum}")
        return int(value)

    def number(self, name: str, default: float, *, minimum: float | None = None, maximum: float | None = None) -> float:
        value = self._values.get(name)
        if value is None:
            return default
        try:
            number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):  # an integer may be larger than any float
            number = None
        if number is None or number != number or number in (float("inf"), float("-inf")):
            raise self.problem(name, "must be a number")
        if minimum is not None and number < minimum:
            raise self.problem(name, f"must be at least {minimum:g}")
        if maximum is not None and number > maximum:
            raise self.problem(name, f"must be at most {maximum:g}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        flag = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
        if flag is None:
            raise self.problem(name, "must be true or false")
        return flag

    def text(self, name: str) -> str | None:
        """A text, or None when it is absent or empty (an empty `${VAR:}` counts as absent)."""
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise self.problem(name, "must be a text")
        return str(value)

    def texts(self, name: str) -> list[str]:
        value = self._values.get(name)
        if value is None:
            return []
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise self.problem(name, "must be a list of texts")
        return [str(item) for item in items]
