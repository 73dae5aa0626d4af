"""A conversation as Chat Completions wants it, OpenAI's own and the many servers that speak it.

Pictures may stand in a user's message alone; those a tool returned follow its result in one. What a server
sent as `reasoning_content` goes back to it while the turn it belongs to lasts: servers that think between tool
calls need it there, and nobody needs it later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import Message, ThinkingBlock
from amplifier_app_api.modules.providers.conversation import NO_RESULT, Step, repairs_of, safe_name, steps_of, text_of
from amplifier_app_api.modules.providers.openai_input import Param, image_url, safe_id

_ANY_NAME = {"vllm"}  # servers that leave a tool's name to whoever made the tool

PICTURES = "[Pictures the tools returned]"


@dataclass(slots=True)
class ChatMessages:
    messages: list[Param] = field(default_factory=list[Param])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def chat_messages(messages: Sequence[Message], provider: str) -> ChatMessages:
    made = ChatMessages()
    turn_begins = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    current = {id(message) for message in messages[turn_begins:]}
    for step in steps_of(messages):
        match step.kind:
            case "system" | "aside":
                if (text := text_of(step.message.content)).strip():
                    made.messages.append({"role": "system", "content": text})
            case "user":
                if content := _content(step.message.content):
                    made.messages.append({"role": "user", "content": content})
            case "reply":
                thoughts = _thoughts(step.message, provider) if id(step.message) in current else ""
                made.messages += _reply(step, thoughts, provider)
            case "results":
                made.messages += _results(step)
                made.repairs += repairs_of(step)
    return made


def chat_thought(text: str, provider: str) -> ThinkingBlock:
    return ThinkingBlock.model_validate({"thinking": text, "made_by": provider})


def _reply(step: Step, thoughts: str, provider: str) -> list[Param]:
    text = text_of(step.message.content)
    named = str if provider in _ANY_NAME else safe_name
    calls = [
        {
            "id": safe_id(call.id),
            "type": "function",
            "function": {"name": named(call.name), "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in step.calls
    ]
    if not text.strip() and not calls:
        return []
    made: Param = {"role": "assistant", "content": text or None}
    if thoughts:
        made["reasoning_content"] = thoughts
    if calls:
        made["tool_calls"] = calls
    return [made]


def _thoughts(message: Message, provider: str) -> str:
    if isinstance(message.content, str):
        return ""
    return "\n".join(
        block.thinking
        for block in message.content
        if block.type == "thinking" and block.thinking and getattr(block, "made_by", None) == provider
    )


def _results(step: Step) -> list[Param]:
    made: list[Param] = []
    pictures: list[Param] = []
    for call in step.calls:
        result = (step.results or {}).get(call.id)
        content = NO_RESULT if result is None else result.content
        made.append({"role": "tool", "tool_call_id": safe_id(call.id), "content": text_of(content)})
        if not isinstance(content, str):
            pictures += _pictures(content)
    if pictures:
        made.append({"role": "user", "content": [{"type": "text", "text": PICTURES}, *pictures]})
    return made


def _content(content: Any) -> str | list[Param]:
    if isinstance(content, str):
        return content
    pictures = _pictures(content)
    if not pictures:
        return text_of(content)
    parts: list[Param] = []
    for block in content:
        if block.type == "text" and block.text.strip():
            parts.append({"type": "text", "text": block.text})
        elif block.type == "image":
            parts += _pictures([block])
    return parts


def _pictures(blocks: Sequence[Any]) -> list[Param]:
    urls = [image_url(block.source) for block in blocks if block.type == "image"]
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls if url is not None]
