"""`context-simple`: the conversation in memory, fitted into the model's window for each request.

What is stored is what was added, for ever; making room happens on the way to the model only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.contexts.compaction import Compaction, Limits, Message, compact
from amplifier_app_api.modules.contexts.tokens import estimate_message
from amplifier_app_api.modules.kernel import CONTEXT_COMPACTION
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "context"

MODULE_ID = "context-simple"
RESERVE_TOKENS = 800  # what a request needs beside its messages and tools we cannot see
DEFAULT_WINDOW = 200_000

logger = logging.getLogger(__name__)

SystemPromptFactory = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Shares are of the budget; `max_tokens` is None when the provider's window decides alone."""

    max_tokens: int | None
    compact_threshold: float
    target_usage: float
    protected_recent: float
    protected_tool_results: int
    truncate_chars: int

    @classmethod
    def read(cls, module: str, values: Mapping[str, Any] | None, *, protected_recent: float = 0.3) -> ContextOptions:
        options = Options(module, values)
        return cls(
            max_tokens=options.integer("max_tokens", DEFAULT_WINDOW, minimum=1) if options.has("max_tokens") else None,
            compact_threshold=options.number("compact_threshold", 0.92, minimum=0.01, maximum=1),
            target_usage=options.number("target_usage", 0.5, minimum=0.01, maximum=1),
            protected_recent=options.number("protected_recent", protected_recent, minimum=0, maximum=1),
            protected_tool_results=options.integer("protected_tool_results", 5, minimum=0),
            truncate_chars=options.integer("truncate_chars", 250, minimum=0),
        )


class SimpleContext:
    """Messages are dicts with a `role`; those handed out are copies, one level deep.

    For requests each message has one copy that is handed out again and again, so that whoever made something of it
    knows it by identity: a request costs what is new in it, not the whole conversation.
    """

    def __init__(self, options: ContextOptions, hooks: Any = None) -> None:
        self._options = options
        self._hooks = hooks
        self._messages: list[Message] = []
        self._handed_out: list[Message] = []
        self._shown_preamble: list[Message] = []
        self._sizes: list[int] = []
        self._tokens = 0
        self._system_prompt: SystemPromptFactory | None = None

    async def add_message(self, message: Mapping[str, Any]) -> None:
        """Append one message; `ValueError` when it names no role."""
        if not message.get("role"):
            raise ValueError("A message needs a role")
        size = estimate_message(message)
        self._messages.append(dict(message))
        self._handed_out.append(dict(message))
        self._sizes.append(size)
        self._tokens += size

    async def get_messages(self) -> list[Message]:
        """The whole conversation, as added."""
        return [dict(message) for message in self._messages]

    async def set_messages(self, messages: list[Message]) -> None:
        self._messages = [dict(message) for message in messages]
        self._handed_out = [dict(message) for message in messages]
        self._sizes = [estimate_message(message) for message in self._messages]
        self._tokens = sum(self._sizes)

    async def clear(self) -> None:
        await self.set_messages([])

    async def set_system_prompt_factory(self, factory: SystemPromptFactory | None) -> None:
        """`factory` makes the system prompt anew for every request."""
        self._system_prompt = factory

    async def get_messages_for_request(self, token_budget: int | None = None, provider: Any = None) -> list[Message]:
        """The system prompt and as much of the conversation as fits: `token_budget`, or the provider's window."""
        preamble = await self._same_preamble()
        budget = token_budget or self._budget(provider)
        budget -= sum(estimate_message(message) for message in preamble)
        if self._tokens <= budget * self._options.compact_threshold:
            return preamble + self._handed_out
        made = compact(self._messages, self._sizes, self._limits(max(budget, 1)))
        if made.removed or made.truncated:
            await self._report(made, budget)
        return preamble + [dict(message) for message in made.messages]

    async def _preamble(self) -> list[Message]:
        text = await self._system_prompt() if self._system_prompt is not None else ""
        return [{"role": "system", "content": text}] if text else []

    async def _same_preamble(self) -> list[Message]:
        """The preamble; the same objects as long as it says the same."""
        preamble = await self._preamble()
        if preamble != self._shown_preamble:
            self._shown_preamble = preamble
        return self._shown_preamble

    def _budget(self, provider: Any) -> int:
        window, output = _window_of(provider)
        if window is None:
            return self._options.max_tokens or DEFAULT_WINDOW
        # A provider may say that its whole window can be output; half of it stays for reading.
        budget = max(window - output - RESERVE_TOKENS, window // 2)
        return min(budget, self._options.max_tokens or budget)

    def _limits(self, budget: int) -> Limits:
        target = int(budget * self._options.target_usage)
        return Limits(
            budget=budget,
            target=target,
            recent=int(budget * self._options.protected_recent),
            protected_tool_results=self._options.protected_tool_results,
            truncate_chars=self._options.truncate_chars,
        )

    async def _report(self, made: Compaction, budget: int) -> None:
        if self._hooks is None:
            return
        facts = {
            "before_tokens": self._tokens,
            "after_tokens": made.tokens,
            "before_messages": len(self._messages),
            "after_messages": len(made.messages),
            "messages_removed": made.removed,
            "messages_truncated": made.truncated,
            "strategy_level": made.level,
            "budget": budget,
            "target_tokens": int(budget * self._options.target_usage),
            "protected_recent": self._options.protected_recent,
            "protected_tool_results": self._options.protected_tool_results,
        }
        await self._hooks.emit(CONTEXT_COMPACTION, facts)


def _window_of(provider: Any) -> tuple[int | None, int]:
    """A provider's context window and the most it may write, as far as it tells."""
    get_info = getattr(provider, "get_info", None)
    if get_info is None:
        return None, 0
    try:
        defaults: Mapping[str, Any] = get_info().defaults or {}
        window, output = defaults.get("context_window"), defaults.get("max_output_tokens")
    except Exception:  # a third-party provider may fail here; a default window is better than a failed turn
        logger.warning("provider does not tell its window", exc_info=True)
        return None, 0
    usable = isinstance(window, int) and window > 0
    return (window if usable else None), (output if isinstance(output, int) else 0)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    context = SimpleContext(ContextOptions.read(MODULE_ID, config), coordinator.hooks)
    await coordinator.mount("context", context)
