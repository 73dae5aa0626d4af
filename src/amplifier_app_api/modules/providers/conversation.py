"""What providers read off a conversation's messages alone, so that it is the same after a restart.

`standing` tells where it stands. `steps_of` gives it in the order that model APIs insist on: every reply that
calls tools is followed at once by one result for each call. What does not fit is mended here, never in what
is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from amplifier_app_api.modules.kernel import Message, TextBlock, ToolCall

NO_RESULT = "No result: the call was interrupted"

LONGEST_NAME = 64

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")

# Agents slip texts into user messages; neither is what the user said.
_REMINDER = re.compile(r"<system-reminder.*?</system-reminder>", re.DOTALL)
_CONTEXT = re.compile(r"\A\s*<message-context>.*?</message-context>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Standing:
    prompt: str  # the latest thing the user said
    number: int  # how many things the user has said, this one included
    results: list[str]  # what tools answered since
    rounds: int  # replies since that called tools


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a conversation. `system` is what stands in front; a later instruction is an `aside`."""

    kind: Literal["system", "aside", "user", "reply", "results"]
    message: Message  # for results, the reply that asked for them
    calls: Sequence[ToolCall] = ()  # of a reply, and of its results
    results: Mapping[str, Message] | None = None  # by call; a call that is missing here has no result


def steps_of(messages: Sequence[Message]) -> Iterator[Step]:
    begun = False
    for position, message in enumerate(messages):
        match message.role:
            case "system" | "developer":
                yield Step("aside" if begun else "system", message)
            case "assistant":
                begun = True
                calls = calls_of(message)
                yield Step("reply", message, calls)
                if calls:
                    yield Step("results", message, calls, _results_after(messages, position))
            case "user":
                begun = True
                yield Step("user", message)
            case _:
                pass  # tool results went with the calls they answer; without one they mean nothing


def calls_of(message: Message) -> list[ToolCall]:
    """The tools a reply calls, each once: loops store calls as blocks and as a list beside the content."""
    calls: dict[str, ToolCall] = {}
    if not isinstance(message.content, str):
        for block in message.content:
            if block.type == "tool_call":
                calls[block.id] = ToolCall(id=block.id, name=block.name, arguments=block.input)
    for told in cast("list[dict[str, Any]]", getattr(message, "tool_calls", None) or []):
        call = cast("dict[str, Any]", told.get("function") or told)
        call_id, name = str(told.get("id") or ""), str(call.get("tool") or call.get("name") or "")
        if call_id and name and call_id not in calls:
            calls[call_id] = ToolCall(id=call_id, name=name, arguments=_arguments(call.get("arguments")))
    return list(calls.values())


def safe_name(name: str) -> str:
    """A tool's name that an API takes in a history: a model may have called what never was a tool."""
    return _NOT_IN_NAMES.sub("_", name)[:LONGEST_NAME] or "_"


def _arguments(told: Any) -> dict[str, Any]:
    """As an object; other hosts' loops may have stored them as JSON text."""
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            told = None
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


def repairs_of(step: Step) -> list[dict[str, str]]:
    """The calls of a `results` step without a result, as `CallReport.repaired` tells them."""
    results = step.results or {}
    return [{"tool_call_id": call.id, "tool_name": call.name} for call in step.calls if call.id not in results]


def reminder(text: str) -> str:
    """An instruction in the middle of a conversation, for an API that takes them only in front.

    It stays in its place, so that what is before it stays as it was and can be read from a cache.
    """
    return f"<system-reminder>\n{text}\n</system-reminder>"


def _results_after(messages: Sequence[Message], position: int) -> dict[str, Message]:
    """The tool results between this reply and the next, by call."""
    results: dict[str, Message] = {}
    for following in range(position + 1, len(messages)):
        message = messages[following]
        if message.role == "assistant":
            break
        if message.role in ("tool", "function") and message.tool_call_id:
            results[message.tool_call_id] = message
    return results


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
