"""What our tools have in common: reading what the model gave, and answering with failures instead of raising."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from amplifier_app_api.modules.kernel import ToolResult
from amplifier_app_api.modules.tools.refusals import Refused


class Arguments:
    """What the model gave; unknown keys are nobody's business."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def value(self, name: str) -> Any:
        return self._values.get(name)

    def path(self, default: str | None = None) -> str:
        """Some models write null or nothing for what they leave out: that is no path."""
        value = self._values.get("file_path") or self._values.get("path") or default
        if not isinstance(value, str):
            raise Refused("file_path is missing: the path of a file below the session's folder")
        return value

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str):
            raise Refused(f"{name} is missing: it must be a text")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) and value else None

    def texts(self, name: str) -> list[str]:
        """A list of texts, or one text for a list of it."""
        value = self._values.get(name)
        items = cast("list[Any]", value) if isinstance(value, list) else [value] if value else []
        if not all(isinstance(item, str) for item in items):
            raise Refused(f"{name} must be a list of texts")
        return [str(item) for item in items]

    def choice(self, name: str, among: Sequence[str], default: str | None = None) -> str:
        value = self._values.get(name) or default
        if value not in among:
            raise Refused(f"{name} must be one of: {', '.join(among)}")
        return str(value)

    def count(self, name: str, *, minimum: int = 1) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise Refused(f"{name} must be a whole number from {minimum} on")
        return value

    def seconds(self, name: str, *, most: float) -> float | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
            raise Refused(f"{name} must be a number of seconds, {most:g} at most")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._values.get(name)
        return default if value is None else value is True


class Tool(ABC):
    """A tool whose refusals become failed results.

    `read_only`: it changes nothing, so that it may run again when it is not known whether it ran. `idempotent`:
    running it twice with the same arguments is running it once.
    """

    name: str
    description: str
    input_schema: ClassVar[dict[str, Any]]
    read_only: bool
    idempotent: bool

    async def execute(self, input: dict[str, Any]) -> ToolResult:  # noqa: A002 - the kernel's name for it
        try:
            result = await self._run(Arguments(input))
        except Refused as refusal:
            return ToolResult(success=False, error={"message": str(refusal), "type": type(refusal).__name__})
        return result if isinstance(result, ToolResult) else ToolResult(output=result)

    @abstractmethod
    async def _run(self, given: Arguments) -> Any:
        """What the tool gives back; `Refused` when it will not."""
