"""What our hooks have in common: registering handlers, and taking them away again."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from amplifier_app_api.modules.kernel import HookResult

logger = logging.getLogger(__name__)

_events: Any = importlib.import_module("amplifier_core.events")

CONTINUE = HookResult(action="continue")

STREAM_EVENTS = frozenset({"content_block:delta", "thinking:delta"})
"""Events of the kernel that come once for each piece of a text. No hook of ours listens to them."""

KNOWN_EVENTS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *(str(name) for name in _events.ALL_EVENTS if name not in STREAM_EVENTS),
            "session:config",
            "provider:concurrency",
            "mentions:resolved",
            "task:agent_spawned",
            "task:agent_resumed",
            "task:agent_completed",
            "delegate:agent_spawned",
            "delegate:agent_resumed",
            "delegate:agent_completed",
            "delegate:agent_cancelled",
            "delegate:error",
            "orchestrator:rate_limit_delay",
            "orchestrator:steering_injected",
            "orchestrator:goal_progress",
            "skills:discovered",
            "skill:loaded",
            "tool:selecting",
            "tool:selected",
            "error:provider",
            "error:tool",
            "budget:warning",
            "budget:exceeded",
        ]
    )
)
"""Every event that the kernel and the modules of its ecosystem tell, but for pieces of texts.

The kernel delivers by exact name, so whoever wants to hear everything has to know everything.
"""

Handler = Callable[[str, dict[str, Any]], Awaitable[HookResult]]


class Registrations:
    """One module's handlers. The kernel finds a handler by its name: each gets one of its own."""

    def __init__(self, coordinator: Any, module: str, priority: int) -> None:
        """`priority`: the lowest number runs first."""
        self._hooks = coordinator.hooks
        self._module = module
        self._priority = priority
        self._removers: list[Callable[[], Any]] = []

    def on(self, event: str, handler: Handler, *, priority: int | None = None) -> None:
        place = self._priority if priority is None else priority
        self._removers.append(self._hooks.register(event, handler, place, f"{self._module}:{event}"))

    def on_all(self, events: Iterable[str], handler: Handler) -> None:
        for event in events:
            self.on(event, handler)

    def close(self) -> None:
        while self._removers:
            self._removers.pop()()


def redactor_of(coordinator: Any) -> Any:
    """The session's redactor (see `redaction.py`); None where there is none."""
    return coordinator.get_capability("session.redactor")


def masked_text(coordinator: Any, text: str) -> str:
    redactor = redactor_of(coordinator)
    return text if redactor is None else str(redactor.redact(text))


def masked_value(coordinator: Any, value: Any) -> Any:
    redactor = redactor_of(coordinator)
    return value if redactor is None else redactor.redact_value(value)


async def show(coordinator: Any, level: str, text: str, source: str) -> None:
    """Tell people something through the host's display; without one it goes into the log."""
    display: Any = getattr(coordinator, "display_system", None)
    said = masked_text(coordinator, text)
    if display is None:
        logger.warning("notice", extra={"source": source, "notice": said})
        return
    shown = display.show_message(said, level, source)
    if inspect.isawaitable(shown):
        await shown


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}  # pyright: ignore[reportUnknownVariableType] - untyped data
