"""Making a conversation fit one request, without touching what is stored.

What goes first, and only until the target is met: the text of old tool results; then whole old exchanges,
the user's message together with the last of the replies to it. A reply and its tool results go together, so that no
tool call is ever left without its result; a conversation still starts with a user's message. System
messages and the latest user message always stay. Recent messages are touched only when nothing else helps; when
even then the budget is not met, the latest tool results are cut as well, each by no more than is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.contexts.tokens import estimate_message

Message = dict[str, Any]

NOTE_CHARS = 80  # of the note that stands for what was cut off


@dataclass(frozen=True, slots=True)
class Limits:
    """All sizes in tokens but where they say otherwise."""

    budget: int
    target: int
    recent: int  # this much of the end is spared
    protected_tool_results: int  # number of latest tool results that keep their text
    truncate_chars: int  # letters kept of a shortened tool result


@dataclass(frozen=True, slots=True)
class Compaction:
    messages: list[Message]
    sizes: list[int]  # of the messages, in tokens
    left_out: list[Message]
    tokens: int
    level: int  # 1 results shortened, 2 old exchanges left out, 3 the same among recent messages, 4 the latest results
    removed: int
    truncated: int


def compact(messages: Sequence[Message], sizes: Sequence[int], limits: Limits) -> Compaction:
    """`messages` within `limits.target` if that can be had; `sizes` are their tokens."""
    work = _Work(list(messages), list(sizes), limits)
    spared = _first_recent(sizes, limits.recent)
    work.shorten_results(before=spared)
    if work.fits():
        return work.result(1)
    work.leave_out(before=spared)
    if work.fits() or work.tokens <= limits.budget:
        return work.result(2)
    work.shorten_results(before=len(messages))
    work.leave_out(before=len(messages))
    if work.tokens <= limits.budget:
        return work.result(3)
    work.cut_latest_results()
    return work.result(4)


def _first_recent(sizes: Sequence[int], recent: int) -> int:
    """Index of the first message of the spared end."""
    total = 0
    for index in range(len(sizes) - 1, -1, -1):
        total += sizes[index]
        if total > recent:
            return index + 1
    return 0


class _Work:
    def __init__(self, messages: list[Message], sizes: list[int], limits: Limits) -> None:
        self._before = messages
        self._messages: list[Message | None] = [*messages]
        self._sizes = sizes
        self._limits = limits
        self._truncated: set[int] = set()
        self.tokens = sum(sizes)

    def fits(self) -> bool:
        return self.tokens <= self._limits.target

    def result(self, level: int) -> Compaction:
        kept = [(m, size) for m, size in zip(self._messages, self._sizes, strict=True) if m is not None]
        left_out = [was for was, m in zip(self._before, self._messages, strict=True) if m is None]
        return Compaction(
            [message for message, _ in kept],
            [size for _, size in kept],
            left_out,
            self.tokens,
            level,
            len(left_out),
            len(self._truncated),
        )

    def shorten_results(self, *, before: int) -> None:
        results = [i for i, m in enumerate(self._messages) if m is not None and m.get("role") == "tool"]
        spared = self._limits.protected_tool_results
        for index in results[: len(results) - spared] if spared else results:
            if self.fits():
                return
            if index < before:
                self._shorten(index)

    def cut_latest_results(self) -> None:
        """Whole, they would not let the model be asked at all; some room is left for what comes next."""
        aim = (self._limits.budget + self._limits.target) // 2
        results = [i for i, m in enumerate(self._messages) if m is not None and m.get("role") == "tool"]
        for index in results:
            over = self.tokens - aim
            if over <= 0:
                return
            content: Any = (self._messages[index] or {}).get("content")
            if isinstance(content, str) and self._sizes[index]:
                # As many letters as the tokens left to it have, and a few less for the note.
                left = max(0, self._sizes[index] - over) / self._sizes[index]
                self._shorten(index, max(self._limits.truncate_chars, int(len(content) * left) - NOTE_CHARS))

    def _shorten(self, index: int, keep: int | None = None) -> None:
        message = self._messages[index]
        content = message.get("content") if message is not None else None
        keep = self._limits.truncate_chars if keep is None else keep
        if message is None or not isinstance(content, str) or len(content) <= keep or index in self._truncated:
            return
        note = f"{content[:keep]}\n[{len(content) - keep} more characters left out to make room]"
        shorter = {**message, "content": note}
        size = estimate_message(shorter)
        if size >= self._sizes[index]:
            return
        self._messages[index] = shorter
        self.tokens -= self._sizes[index] - size
        self._sizes[index] = size
        self._truncated.add(index)

    def leave_out(self, *, before: int) -> None:
        """Drop what may go, oldest first, until the target is met."""
        for group in self._groups():
            if self.fits() or group[-1] >= before:
                return
            self._drop(group)

    def _drop(self, group: list[int]) -> None:
        for index in group:
            if self._messages[index] is not None:
                self._messages[index] = None
                self.tokens -= self._sizes[index]
                self._truncated.discard(index)

    def _groups(self) -> list[list[int]]:
        """What can be dropped together, in the order in which it goes: never the latest user message or reply."""
        exchanges: list[list[list[int]]] = [[]]
        for index, message in enumerate(self._messages):
            role = message.get("role") if message is not None else None
            if role is None or role in ("system", "developer"):
                continue
            if role == "user":
                exchanges.append([[index]])
            elif role == "tool" and exchanges[-1]:
                exchanges[-1][-1].append(index)  # with the reply that called it
            else:
                exchanges[-1].append([index])
        order: list[list[int]] = [*exchanges[0]]
        for question, *replies in exchanges[1:-1]:
            order += [*replies[:-1], question + (replies[-1] if replies else [])]
        if len(exchanges) > 1:
            order += exchanges[-1][1:-1]
        return order
