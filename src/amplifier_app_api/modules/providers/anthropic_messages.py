"""A conversation as Anthropic's Messages API wants it.

Where the API is stricter than the kernel: system texts stand apart, roles alternate and start with a user's,
every tool call is followed at once by its result. What does not fit is mended here, never in what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.kernel import Message

Param = dict[str, Any]

NO_RESULT = "No result: the call was interrupted"
SHORTENED = "[Earlier messages were left out]"

_ID = re.compile(r"[^a-zA-Z0-9_-]")
_CACHED_TYPES = {"text", "image", "tool_result"}


@dataclass(slots=True)
class Conversation:
    system: list[Param] = field(default_factory=list[Param])
    messages: list[Param] = field(default_factory=list[Param])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])  # calls that got `NO_RESULT`

    def add(self, role: str, blocks: list[Param]) -> None:
        """Append blocks; those of one role in a row become one message."""
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"].extend(blocks)
        else:
            self.messages.append({"role": role, "content": list(blocks)})

    def mark_for_caching(self) -> None:
        """Let the API keep the system prompt and the conversation up to here."""
        if self.system:
            self.system[-1] = _cached(self.system[-1])
        if self.messages:
            content = cast("list[Param]", self.messages[-1]["content"])
            if content[-1]["type"] in _CACHED_TYPES:
                content[-1] = _cached(content[-1])


def translate(messages: Sequence[Message]) -> Conversation:
    made = Conversation()
    for position, message in enumerate(messages):
        match message.role:
            case "system" | "developer":
                _add_system(made, message)
            case "assistant":
                _add_assistant(made, message, messages, position)
            case "user":
                made.add("user", _user_blocks(message.content))
            case _:
                pass  # tool results went in with the calls they answer; without one they mean nothing
    if made.messages and made.messages[0]["role"] != "user":
        made.messages.insert(0, {"role": "user", "content": [_text(SHORTENED)]})
    return made


def _add_system(made: Conversation, message: Message) -> None:
    """In front: the system prompt. Later: a reminder in its place, so that what is before it stays as it was."""
    text = _plain(message.content)
    if not text.strip():
        return
    if made.messages:
        made.add("user", [_text(f"<system-reminder>\n{text}\n</system-reminder>")])
    else:
        made.system.append(_text(text))


def _add_assistant(made: Conversation, message: Message, messages: Sequence[Message], position: int) -> None:
    blocks = _assistant_blocks(message)
    made.add("assistant", blocks)
    calls = [block for block in blocks if block["type"] == "tool_use"]
    if not calls:
        return
    results = _results_after(messages, position)
    answers: list[Param] = []
    for call in calls:
        answer = results.get(call["id"])
        if answer is None:
            made.repairs.append({"tool_call_id": call["id"], "tool_name": call["name"]})
            answer = {"type": "tool_result", "tool_use_id": call["id"], "content": NO_RESULT, "is_error": True}
        answers.append(answer)
    made.add("user", answers)


def _results_after(messages: Sequence[Message], position: int) -> dict[str, Param]:
    """The tool results between this reply and the next, by call."""
    results: dict[str, Param] = {}
    for following in range(position + 1, len(messages)):
        message = messages[following]
        if message.role == "assistant":
            break
        if message.role in ("tool", "function") and message.tool_call_id:
            call_id = _safe_id(message.tool_call_id)
            content = message.content if isinstance(message.content, str) else _user_blocks(message.content)
            results[call_id] = {"type": "tool_result", "tool_use_id": call_id, "content": content}
    return results


def _assistant_blocks(message: Message) -> list[Param]:
    if isinstance(message.content, str):
        blocks = _texts(message.content)
    else:
        blocks = [made for block in message.content if (made := _assistant_block(block)) is not None]
    shown = {block["id"] for block in blocks if block["type"] == "tool_use"}
    for call in cast("list[Param]", getattr(message, "tool_calls", None) or []):
        call_id = _safe_id(str(call.get("id") or ""))
        if call_id and call_id not in shown:
            name = call.get("tool") or call.get("name")
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": call.get("arguments") or {}})
    return blocks


def _assistant_block(block: Any) -> Param | None:
    match block.type:
        case "text" if block.text.strip():
            return _text(block.text)
        case "thinking" if block.signature:  # only what this API signed can be shown to it again
            return {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
        case "redacted_thinking":
            return {"type": "redacted_thinking", "data": block.data}
        case "tool_call":
            return {"type": "tool_use", "id": _safe_id(block.id), "name": block.name, "input": block.input}
        case _:
            return None


def _user_blocks(content: Any) -> list[Param]:
    if isinstance(content, str):
        return _texts(content)
    blocks: list[Param] = []
    for block in content:
        if block.type == "image":
            blocks.append({"type": "image", "source": block.source})
        elif block.type == "text":
            blocks += _texts(block.text)
    return blocks


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if block.type == "text")


def _texts(text: str) -> list[Param]:
    """The API refuses blank texts."""
    return [_text(text)] if text.strip() else []


def _text(text: str) -> Param:
    return {"type": "text", "text": text}


def _cached(block: Param) -> Param:
    return {**block, "cache_control": {"type": "ephemeral"}}


def _safe_id(call_id: str) -> str:
    """Other providers' ids may hold letters this API does not allow in one."""
    return _ID.sub("_", call_id)
