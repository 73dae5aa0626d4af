"""`context-simple`: the conversation in memory, fitted into the model's window for each request.

What is stored is what was added, for ever; making room happens on the way to the model only. Once room was made
the model is shown what is left from then on, until that is too long in turn: a request costs what is new in it, and
what a provider has cached of the earlier ones stays good.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.contexts.compaction import Compaction, Limits, Message, compact
from amplifier_app_api.modules.contexts.summary import summarize, summary_message
from amplifier_app_api.modules.contexts.tokens import estimate_message
from amplifier_app_api.modules.kernel import CONTEXT_COMPACTION
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "context"

MODULE_ID = "context-simple"
RESERVE_TOKENS = 800  # what a request needs beside its messages and tools
DEFAULT_WINDOW = 200_000

logger = logging.getLogger(__name__)

SystemPromptFactory = Callable[[], Awaitable[str]]
Tools = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Shares are of the budget; `max_tokens` is None when the provider's window decides alone."""

    max_tokens: int | None
    compact_threshold: float
    target_usage: float
    protected_recent: float
    protected_tool_results: int
    truncate_chars: int
    summarize: bool
    summary_tokens: int

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
            summarize=_summarizes(options),
            summary_tokens=options.integer("summary_tokens", 1024, minimum=64),
        )


class SimpleContext:
    """Messages are dicts with a `role`; those handed out are copies, one level deep.

    For requests each message has one copy that is handed out again and again, so that whoever made something of it
    knows it by identity.
    """

    def __init__(self, options: ContextOptions, hooks: Any = None, tools: Tools = dict) -> None:
        """`tools` gives the session's, by name: every request describes them, and that takes room, too."""
        self._options = options
        self._hooks = hooks
        self._tools = tools
        self._measured: dict[str, Any] = {}  # the tools as they were last, and what they take
        self._tool_tokens = 0
        self._messages: list[Message] = []
        # What the model is shown of them, each with its size in tokens.
        self._view: list[Message] = []
        self._sizes: list[int] = []
        self._tokens = 0
        self._summary: Message | None = None
        self._shown_preamble: list[Message] = []
        self._system_prompt: SystemPromptFactory | None = None

    async def add_message(self, message: Mapping[str, Any]) -> None:
        """Append one message; `ValueError` when it names no role."""
        if not message.get("role"):
            raise ValueError("A message needs a role")
        size = estimate_message(message)
        self._messages.append(dict(message))
        self._view.append(dict(message))
        self._sizes.append(size)
        self._tokens += size

    async def get_messages(self) -> list[Message]:
        """The whole conversation, as added."""
        return [dict(message) for message in self._messages]

    async def set_messages(self, messages: list[Message]) -> None:
        self._messages = [dict(message) for message in messages]
        self._view = [dict(message) for message in messages]
        self._summary = None
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
        if self._tokens > budget * self._options.compact_threshold:
            await self._make_room(max(budget, 1), provider)
        return preamble + self._view

    async def _make_room(self, budget: int, provider: Any) -> None:
        made = compact(self._view, self._sizes, self._limits(budget))
        if not (made.removed or made.truncated):
            return
        before = (self._tokens, len(self._view))
        view, sizes = made.messages, made.sizes
        if self._options.summarize and made.left_out and provider is not None:
            view, sizes = await self._summarized(made, budget, provider)
        self._view, self._sizes, self._tokens = view, sizes, sum(sizes)
        await self._report(made, budget, before)

    async def _summarized(self, made: Compaction, budget: int, provider: Any) -> tuple[list[Message], list[int]]:
        """What is left, with a summary of all that ever was left out in its place."""
        earlier = "" if self._summary is None else str(self._summary["content"])
        try:
            text = await summarize(
                provider, earlier, made.left_out, tokens=self._options.summary_tokens, room=budget * 3 // 4
            )
        except Exception as error:
            # Whatever a provider raises: without a summary the conversation goes on as it does in the other mode.
            logger.warning("the conversation could not be summarized", extra={"error": type(error).__name__})
            return made.messages, made.sizes
        kept = [
            (message, size)
            for message, size in zip(made.messages, made.sizes, strict=True)
            if message is not self._summary
        ]
        self._summary = summary_message(text)
        place = next((i for i, (message, _) in enumerate(kept) if message.get("role") != "system"), len(kept))
        kept.insert(place, (self._summary, estimate_message(self._summary)))
        return [message for message, _ in kept], [size for _, size in kept]

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
        budget = max(window - output - RESERVE_TOKENS, window // 2) - self._tokens_of_tools()
        return min(budget, self._options.max_tokens or budget)

    def _tokens_of_tools(self) -> int:
        """Measured once for the same tools."""
        tools = dict(self._tools())
        if tools != self._measured:
            described = [
                [name, getattr(t, "description", ""), getattr(t, "input_schema", {})] for name, t in tools.items()
            ]
            self._measured, self._tool_tokens = tools, estimate_message({"content": described})
        return self._tool_tokens

    def _limits(self, budget: int) -> Limits:
        target = int(budget * self._options.target_usage)
        return Limits(
            budget=budget,
            target=target,
            recent=int(budget * self._options.protected_recent),
            protected_tool_results=self._options.protected_tool_results,
            truncate_chars=self._options.truncate_chars,
        )

    async def _report(self, made: Compaction, budget: int, before: tuple[int, int]) -> None:
        if self._hooks is None:
            return
        facts = {
            "before_tokens": before[0],
            "after_tokens": self._tokens,
            "before_messages": before[1],
            "after_messages": len(self._view),
            "summarized": self._summary is not None,
            "messages_removed": made.removed,
            "messages_truncated": made.truncated,
            "strategy_level": made.level,
            "budget": budget,
            "target_tokens": int(budget * self._options.target_usage),
            "protected_recent": self._options.protected_recent,
            "protected_tool_results": self._options.protected_tool_results,
        }
        await self._hooks.emit(CONTEXT_COMPACTION, facts)


def tools_of(coordinator: Any) -> Tools:
    return lambda: coordinator.get("tools") or {}


def _summarizes(options: Options) -> bool:
    way = options.text("compaction") or "drop"
    if way not in ("drop", "summarize"):
        raise options.problem("compaction", "must be drop or summarize")
    return way == "summarize"


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
    context = SimpleContext(ContextOptions.read(MODULE_ID, config), coordinator.hooks, tools_of(coordinator))
    await coordinator.mount("context", context)
