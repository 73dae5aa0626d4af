"""Making the SDK ready before its first call.

It imports the parts of its API, and builds the types of what they answer, when it first meets them: 0.4 seconds in
which an event loop would stand still. Types are met here by reading what an answer is made of.
"""

from __future__ import annotations

import importlib
from typing import Any

from openai import BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent

PARTS = (
    "openai.resources.models",
    "openai.resources.responses.responses",
    "openai.resources.chat.completions.completions",
)

_TEXT: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
_ITEMS: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "", "summary": [{"type": "summary_text", "text": ""}]},
    {"type": "message", "id": "", "role": "assistant", "status": "completed", "content": [_TEXT]},
    {"type": "function_call", "call_id": "", "name": "", "arguments": ""},
]
_TOOLS: list[dict[str, Any]] = [{"type": "function", "name": "", "parameters": {}, "strict": False}]
_USAGE: dict[str, Any] = {"input_tokens_details": {}, "output_tokens_details": {}}
_RESPONSE: dict[str, Any] = {
    "output": _ITEMS,
    "tools": _TOOLS,
    "tool_choice": "auto",
    "reasoning": {},
    "text": {},
    "usage": _USAGE,
}
_EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": _RESPONSE},
    {"type": "response.in_progress", "response": _RESPONSE},
    *({"type": "response.output_item.added", "item": item} for item in _ITEMS),
    {"type": "response.reasoning_summary_part.added", "part": {"type": "summary_text", "text": ""}},
    {"type": "response.reasoning_summary_text.delta", "delta": ""},
    {"type": "response.reasoning_summary_text.done", "text": ""},
    {"type": "response.reasoning_summary_part.done", "part": {"type": "summary_text", "text": ""}},
    {"type": "response.content_part.added", "part": _TEXT},
    {"type": "response.output_text.delta", "delta": "", "logprobs": []},
    {"type": "response.output_text.done", "text": "", "logprobs": []},
    {"type": "response.content_part.done", "part": _TEXT},
    {"type": "response.function_call_arguments.delta", "delta": ""},
    {"type": "response.function_call_arguments.done", "arguments": ""},
    *({"type": "response.output_item.done", "item": item} for item in _ITEMS),
    {"type": "response.completed", "response": _RESPONSE},
]
_CALL: dict[str, Any] = {"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": ""}}
_CHOICE: dict[str, Any] = {"content": "", "tool_calls": [_CALL]}
_COUNTS: dict[str, Any] = {"prompt_tokens_details": {}, "completion_tokens_details": {}}


class _Event(BaseModel):
    event: ResponseStreamEvent


def build_types() -> None:
    for part in PARTS:
        importlib.import_module(part)
    for event in _EVENTS:
        _Event.construct(event=event)
    ChatCompletionChunk.construct(choices=[{"index": 0, "delta": _CHOICE}], usage=_COUNTS)
    ChatCompletion.construct(choices=[{"index": 0, "message": _CHOICE}], usage=_COUNTS)
