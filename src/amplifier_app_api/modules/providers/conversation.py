"""Where a conversation stands, read off its messages alone, so that it is the same after a restart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.kernel import Message, TextBlock

# Agents slip texts into user messages; neither is what the user said.
_REMINDER = re.compile(r"<system-reminder.*?</system-reminder>", re.DOTALL)
_CONTEXT = re.compile(r"\A\s*<message-context>.*?</message-context>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Standing:
    prompt: str  # the latest thing the user said
    number: int  # how many things the user has said, this one included
    results: list[str]  # what tools answered since
    rounds: int  # replies since that called tools


def standing(messages: Sequence[Message], *, count: bool = True) -> Standing:
    """Where the conversation stands. Without `count` only what follows the latest prompt is read; number is then 0."""
    results: list[str] = []
    rounds = 0
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "user" and (prompt := _said(message)):
            number = (
                1 + sum(1 for earlier in messages[:index] if earlier.role == "user" and _said(earlier)) if count else 0
            )
            return Standing(prompt, number, results[::-1], rounds)
        if message.role == "assistant" and _calls_tools(message):
            rounds += 1
        elif message.role in ("tool", "function"):
            results.append(text_of(message.content))
    return Standing("", 0, [], 0)


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))


def _said(message: Message) -> str:
    """The user's own words; nothing for what a hook put in under the user's name."""
    if (message.metadata or {}).get("source") == "hook":
        return ""
    said = _REMINDER.sub("", _CONTEXT.sub("", text_of(message.content), count=1))
    return said if said.strip() else ""


def _calls_tools(message: Message) -> bool:
    if getattr(message, "tool_calls", None):
        return True
    return not isinstance(message.content, str) and any(block.type == "tool_call" for block in message.content)
