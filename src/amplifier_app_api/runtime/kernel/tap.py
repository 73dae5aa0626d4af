"""What the kernel's proxies tell the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a tool call gave in an earlier attempt of the turn, as JSON: `{"result": …}` or `{"raised": …}`.

    A result is the fields of a `ToolResult`; what a tool raised is its text.
    """

    result: dict[str, Any]

    @classmethod
    def failure(cls, said: str) -> "Recalled":
        """A call that failed with these words."""
        return cls({"result": {"success": False, "output": said}})

    @property
    def ok(self) -> bool:
        """Whether the tool said that it succeeded."""
        return bool(self._fields.get("success", False))

    @property
    def text(self) -> str:
        """What the tool said, as text."""
        said = self.result.get("raised") or self._fields.get("output") or ""
        return said if isinstance(said, str) else orjson.dumps(said).decode()

    @property
    def _fields(self) -> Mapping[str, Any]:
        fields: Mapping[str, Any] | None = self.result.get("result")
        return fields or {}


class Tap(Protocol):
    """A turn, as the proxies see it. Everything that must be recorded before it goes on is awaited."""

    def on_event(self, event: str, data: Mapping[str, Any]) -> None:
        """A hook event that a module emitted."""
        ...

    async def before_model_call(self) -> None:
        """A provider is about to be called."""
        ...

    def model_answered(self, response: Any) -> None:
        """A provider answered with a `ChatResponse`."""
        ...

    def model_failed(self, error: Exception) -> None:
        """A provider raised."""
        ...

    def model_left(self) -> None:
        """The task that asked a provider was cancelled."""
        ...

    async def message_added(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The loop adds a message to the context. What takes its place there, if anything does."""
        ...

    async def recall(self, call_id: str, tool: str) -> Recalled | None:
        """A tool is asked for: what became of this call before, when it is not to be made now."""
        ...

    async def tool_started(self, call_id: str, tool: str, arguments: Any, *, repeatable: str | None = None) -> None:
        """A tool is about to run. `repeatable` is why it may be run again when nobody knows whether it ran."""
        ...

    async def tool_ended(self, call_id: str, tool: str, *, ok: bool, output: str, result: Any = None) -> None:
        """A tool has run. `result` is what `Recalled` holds."""
        ...

    def tool_left(self, call_id: str, said: str) -> None:
        """The task that ran a tool was cancelled."""
        ...


class NoticeSink(Protocol):
    """Who is told what people should read."""

    def notice(self, level: str, text: str, source: str) -> None:
        """Something people should read."""
        ...
