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


def standing(messages: Sequence[Message]) -> Standing:
    prompt, number = "", 0
    results: list[str] = []
    rounds = 0
    for message in messages:
        if message.role == "user" and (said := _said(message)):
            prompt, number, results, rounds = said, number + 1, [], 0
        elif message.role == "assistant" and _calls_tools(message):
            rounds += 1
        elif message.role in ("tool", "function"):
            results.append(text_of(message.content))
    return Standing(prompt, number, results, rounds)


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
