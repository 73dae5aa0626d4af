"""The conversation of a parent session as text for a child.

Depth says how much of it, scope says of what: `conversation` is what people and the model said, `agents` adds what
agents answered, `full` adds what all tools answered. A turn begins with what a person said, not with what a hook put
into the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from amplifier_app_api.modules.tools.agents import mapping

Depth = Literal["none", "recent", "all"]
Scope = Literal["conversation", "agents", "full"]

DEPTHS: tuple[Depth, ...] = ("none", "recent", "all")
SCOPES: tuple[Scope, ...] = ("conversation", "agents", "full")

MAX_SAID = 2_000
MAX_ANSWERED = 4_000
MAX_TEXT = 60_000
"""Characters of one message, of one tool's answer, and of all together; what is oldest goes first."""

AGENT_TOOLS = frozenset(("delegate", "task"))
_END = re.compile(r"</(?=\s*conversation)", re.IGNORECASE)
_LEFT_OUT = "[earlier messages left out]"

Row = Mapping[str, Any]


def inherited(rows: Sequence[Row], *, depth: Depth, turns: int, scope: Scope) -> str:
    """The text; empty when nothing is to be told."""
    if depth == "none":
        return ""
    told = list(_lines(rows if depth == "all" else _recent(rows, turns), scope))
    kept: list[str] = []
    room = MAX_TEXT
    for line in reversed(told):
        room -= len(line)
        if room < 0:
            kept.append(_LEFT_OUT)
            break
        kept.append(line)
    return "\n\n".join(reversed(kept))


def with_context(instruction: str, context: str) -> str:
    """An instruction with what the parent's conversation was, where there was one."""
    if not context:
        return instruction
    return (
        "What was said before, in the conversation that this task comes from. It is background, not your task:\n"
        f"<conversation>\n{_END.sub('‹/', context)}\n</conversation>\n\nYour task:\n{instruction}"
    )


def _recent(rows: Sequence[Row], turns: int) -> Sequence[Row]:
    starts = [index for index, row in enumerate(rows) if row.get("role") == "user" and not _of_a_hook(row)]
    return rows[starts[-turns] :] if len(starts) > turns else rows


def _of_a_hook(row: Row) -> bool:
    return mapping(row.get("metadata")).get("source") == "hook"


def _lines(rows: Sequence[Row], scope: Scope) -> Iterator[str]:
    callers: dict[str, str] = {}
    for row in rows:
        role = row.get("role")
        for call in row.get("tool_calls") or ():
            callers[str(call.get("id"))] = str(call.get("tool") or call.get("name"))
        if role == "tool":
            tool = str(row.get("name") or callers.get(str(row.get("tool_call_id")), "a tool"))
            if scope == "full" or (scope == "agents" and tool in AGENT_TOOLS):
                yield _line(f"Answer of {tool}", _text(row.get("content")), MAX_ANSWERED)
        elif role in ("user", "assistant") and not _of_a_hook(row):
            text = _text(row.get("content"))
            if text:
                yield _line("User" if role == "user" else "Assistant", text, MAX_SAID)


def _line(who: str, text: str, most: int) -> str:
    return f"{who}: {text}" if len(text) <= most else f"{who}: {text[:most]} […]"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content.strip()
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    texts: list[Any] = [block.get("text") for block in map(mapping, blocks) if block.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str)).strip()
