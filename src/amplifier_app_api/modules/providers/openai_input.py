"""A conversation as OpenAI's Responses API wants it: instructions, and a flat list of items.

Nothing is kept by the vendor between calls, so the model's reasoning goes back with the conversation: as the
sealed text the API gave out with it, which only the one who sealed it can read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.kernel import Message, ThinkingBlock, ToolCall
from amplifier_app_api.modules.providers.conversation import NO_RESULT, Step, repairs_of, safe_name, steps_of, text_of

Param = dict[str, Any]

LONGEST_ID = 64  # letters of a call's id


@dataclass(slots=True)
class ResponsesInput:
    instructions: list[str] = field(default_factory=list[str])
    items: list[Param] = field(default_factory=list[Param])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    @property
    def holds_thoughts(self) -> bool:
        return any(item.get("type") == "reasoning" for item in self.items)


def responses_input(messages: Sequence[Message], provider: str, *, thoughts: bool = True) -> ResponsesInput:
    made = ResponsesInput()
    for step in steps_of(messages):
        match step.kind:
            case "system":
                if (text := text_of(step.message.content)).strip():
                    made.instructions.append(text)
            case "aside":
                if (text := text_of(step.message.content)).strip():
                    made.items.append({"role": "developer", "content": text})
            case "user":
                if content := _content(step.message.content):
                    made.items.append({"role": "user", "content": content})
            case "reply":
                made.items += _reply_items(step, provider if thoughts else None)
            case "results":
                made.items += [_output(call.id, step) for call in step.calls]
                made.repairs += repairs_of(step)
    return made


def reasoning_block(summary: str, sealed: str, item_id: str, provider: str) -> ThinkingBlock:
    """A reasoning item as the kernel keeps it; `content` has the order that other modules for OpenAI use."""
    return ThinkingBlock.model_validate({"thinking": summary, "content": [sealed, item_id], "made_by": provider})


def safe_id(call_id: str) -> str:
    """Other providers' ids may be longer than these APIs allow."""
    return call_id if len(call_id) <= LONGEST_ID else f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:40]}"


def image_url(source: Param) -> str | None:
    """An image block's source as an address, the picture itself within it where need be."""
    if source.get("type") == "url":
        return cast("str | None", source.get("url"))
    data = source.get("data")
    return f"data:{source.get('media_type') or 'image/png'};base64,{data}" if data else None


def _reply_items(step: Step, provider: str | None) -> list[Param]:
    """In the order they came: the API wants what a thought led to right behind it."""
    items: list[Param] = []
    calls = {call.id: call for call in step.calls}
    content = step.message.content
    if isinstance(content, str):
        items += _texts(content)
    else:
        for block in content:
            if block.type == "text":
                items += _texts(block.text, getattr(block, "phase", None))
            elif block.type == "thinking" and provider and (item := _reasoning(block, provider)) is not None:
                items.append(item)
            elif block.type == "tool_call" and (call := calls.pop(block.id, None)) is not None:
                items.append(_function_call(call))
    items += [_function_call(call) for call in calls.values()]
    while items and items[-1].get("type") == "reasoning":  # the API refuses thoughts that lead to nothing
        items.pop()
    return items


def _function_call(call: ToolCall) -> Param:
    return {
        "type": "function_call",
        "call_id": safe_id(call.id),
        "name": safe_name(call.name),
        "arguments": json.dumps(call.arguments, ensure_ascii=False),
    }


def _reasoning(block: Any, provider: str) -> Param | None:
    """None for what another provider thought, or for thoughts without their seal."""
    sealed = cast("list[Any]", block.content or [])
    if len(sealed) < 2 or not all(isinstance(part, str) and part for part in sealed[:2]):
        return None
    if getattr(block, "made_by", provider) != provider:
        return None
    summary = [{"type": "summary_text", "text": block.thinking}] if block.thinking else []
    return {"type": "reasoning", "id": sealed[1], "summary": summary, "encrypted_content": sealed[0]}


def _texts(text: str, phase: str | None = None) -> list[Param]:
    if not text.strip():
        return []
    item: Param = {"role": "assistant", "content": text}
    return [item | {"phase": phase}] if phase else [item]


def _output(call_id: str, step: Step) -> Param:
    result = (step.results or {}).get(call_id)
    output = NO_RESULT if result is None else _content(result.content)
    return {"type": "function_call_output", "call_id": safe_id(call_id), "output": output}


def _content(content: Any) -> str | list[Param]:
    """Texts and images of a message; one text alone as it is, nothing for a message that says nothing."""
    if isinstance(content, str):
        return content
    parts: list[Param] = []
    for block in content:
        if block.type == "text" and block.text.strip():
            parts.append({"type": "input_text", "text": block.text})
        elif block.type == "image" and (url := image_url(block.source)) is not None:
            parts.append({"type": "input_image", "image_url": url, "detail": "auto"})
    if all(part["type"] == "input_text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
