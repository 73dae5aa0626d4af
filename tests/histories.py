"""What the strictest providers say about a history: which pairing of calls and results they refuse."""

from collections.abc import Mapping, Sequence
from typing import Any


def refused_by_openai(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Problems of kernel messages: right behind a message with calls comes a result of each, and no other is there."""
    problems: list[str] = []
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                problems.append(f"message {index} answers no open call")
            else:
                open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            problems.append(f"message {index} comes while calls are open: {open_calls}")
        open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    if open_calls:
        problems.append(f"calls without a result: {open_calls}")
    return problems


def refused_by_anthropic(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Problems of a request: results come first in the message right behind their calls, and no text is empty."""
    problems: list[str] = []
    calls: list[str] = []
    if messages and messages[0]["role"] != "user":
        problems.append("the first message is not the user's")
    for index, message in enumerate(messages):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kinds = [block["type"] for block in blocks]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(calls):
            problems.append(f"message {index} answers {results}, asked were {calls}")
        if kinds[: len(results)] != ["tool_result"] * len(results):
            problems.append(f"message {index} has something before its results")
        if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            problems.append(f"message {index} is empty or has an empty text")
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    if calls:
        problems.append(f"calls without a result: {calls}")
    return problems
