"""What the kernel's proxies tell the host."""

from collections.abc import Mapping
from typing import Any, Protocol


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

    async def message_added(self, message: dict[str, Any]) -> None:
        """The loop adds a message to the context."""
        ...

    async def tool_started(self, call_id: str, tool: str, arguments: Any) -> None:
        """A tool is about to run."""
        ...

    async def tool_ended(self, call_id: str, tool: str, *, ok: bool, output: str) -> None:
        """A tool has run."""
        ...

    def tool_left(self, call_id: str, said: str) -> None:
        """The task that ran a tool was cancelled."""
        ...


class NoticeSink(Protocol):
    """Who is told what people should read."""

    def notice(self, level: str, text: str, source: str) -> None:
        """Something people should read."""
        ...
