"""A conversation as Google's `generateContent` wants it.

Where the API is stricter than the kernel: instructions stand apart, a turn of the user's comes first, results
follow the calls they answer in a turn of their own, one for each, with the tool's name. What the model sent with
a call or a text as its signature goes back with it, or the model loses its thread (and newer ones refuse).
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import Message, ToolCall
from amplifier_app_api.modules.providers.conversation import (
    NO_RESULT,
    Step,
    reminder,
    repairs_of,
    safe_name,
    steps_of,
    text_of,
)

Part = dict[str, Any]

SIGNATURE = "thought_signature"  # our name for it on the kernel's text and tool_call blocks, in base64
SHORTENED = "[Earlier messages were left out]"
_UNSIGNED = b"skip_thought_signature_validator"  # the API's own word for a call that no Gemini model made


@dataclass(slots=True)
class Contents:
    system: list[str] = field(default_factory=list[str])
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def add(self, role: str, parts: list[Part]) -> None:
        if parts:
            self.turns.append({"role": role, "parts": parts})


def translate(messages: Sequence[Message], *, signed: bool) -> Contents:
    """`signed`: the model refuses calls without a signature."""
    made = Contents()
    for step in steps_of(messages):
        content = step.message.content
        match step.kind:
            case "system":
                made.system += _texts(text_of(content))
            case "aside":
                made.add("user", [{"text": reminder(text)} for text in _texts(text_of(content))])
            case "user":
                made.add("user", _user_parts(content))
            case "reply":
                made.add("model", _reply(step, signed=signed))
            case "results":
                made.repairs += repairs_of(step)
                made.add("user", _results(step))
    if made.turns and made.turns[0]["role"] != "user":
        made.turns.insert(0, {"role": "user", "parts": [{"text": SHORTENED}]})
    return made


def _reply(step: Step, *, signed: bool) -> list[Part]:
    """In the order they came, as signatures belong to a place."""
    parts: list[Part] = []
    calls = {call.id: call for call in step.calls}
    content = step.message.content
    for block in [] if isinstance(content, str) else content:
        signature = _signature_of(block)
        if block.type == "text" and (block.text or signature):
            parts.append(_signed({"text": block.text}, signature))
        elif block.type == "tool_call" and (call := calls.pop(block.id, None)) is not None:
            parts.append(_signed(_call(call), signature))
    if isinstance(content, str):
        parts += [{"text": text} for text in _texts(content)]
    parts += [_call(call) for call in calls.values()]
    first = next((part for part in parts if "function_call" in part), None)
    if signed and first is not None and SIGNATURE not in first:  # the first of parallel calls carries it for all
        first[SIGNATURE] = _UNSIGNED
    return parts


def _call(call: ToolCall) -> Part:
    return {"function_call": {"id": call.id, "name": safe_name(call.name), "args": call.arguments}}


def _results(step: Step) -> list[Part]:
    answers: list[Part] = []
    images: list[Part] = []
    for call in step.calls:
        message = (step.results or {}).get(call.id)
        if message is None:
            response = {"error": NO_RESULT}
        else:
            response = {"output": text_of(message.content)}
            images += [part for part in _user_parts(message.content) if "text" not in part]
        answers.append({"function_response": {"id": call.id, "name": safe_name(call.name), "response": response}})
    return answers + images


def _user_parts(content: Any) -> list[Part]:
    if isinstance(content, str):
        return [{"text": text} for text in _texts(content)]
    parts: list[Part] = []
    for block in content:
        if block.type == "text":
            parts += [{"text": text} for text in _texts(block.text)]
        elif block.type == "image" and (part := _image(block.source)) is not None:
            parts.append(part)
    return parts


def _image(source: dict[str, Any]) -> Part | None:
    kind = str(source.get("media_type") or "")
    if source.get("type") == "url":
        url = str(source.get("url") or "")
        known = kind or mimetypes.guess_type(url.partition("?")[0])[0] or "image/jpeg"
        return {"file_data": {"file_uri": url, "mime_type": known}}
    data = _bytes(source.get("data"))
    return None if data is None else {"inline_data": {"data": data, "mime_type": kind or "image/png"}}


def _signature_of(block: Any) -> bytes | None:
    return _bytes(getattr(block, SIGNATURE, None))


def _signed(part: Part, signature: bytes | None) -> Part:
    return part if signature is None else {**part, SIGNATURE: signature}


def _bytes(text: Any) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if text else None
    except (binascii.Error, ValueError, TypeError):
        return None


def _texts(text: str) -> list[str]:
    return [text] if text.strip() else []
