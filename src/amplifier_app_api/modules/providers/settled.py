"""A reply in the form in which it can be shown, stored and sent to any provider again.

Models and servers send what they like: two calls under one id, half a letter, numbers that are none, arguments
nested so deep that nothing after us reads them.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any, cast

from amplifier_app_api.modules.kernel import ChatResponse, ToolCall, ToolCallBlock, whole_letters

DEEPEST = 100
"""Levels of a call's arguments; the kernel's hooks take some more than these, with what is around them."""


def settled(response: ChatResponse) -> ChatResponse:
    """The same reply, mended. `ValueError` for arguments that nothing can be done with."""
    ids: set[str] = set()
    for block in response.content:
        if isinstance(block, ToolCallBlock):
            block.id = _own_id(block.id, ids)
            block.name = whole_letters(block.name)
            block.input = cast("dict[str, Any]", _plain(block.input, DEEPEST))
            ids.add(block.id)
        elif block.type == "text":
            block.text = whole_letters(block.text)
        elif block.type == "thinking":
            block.thinking = whole_letters(block.thinking)
    calls = [block for block in response.content if isinstance(block, ToolCallBlock)]
    response.tool_calls = [ToolCall(id=call.id, name=call.name, arguments=call.input) for call in calls] or None
    return response


def _own_id(call_id: str, taken: set[str]) -> str:
    call_id = whole_letters(call_id)
    return call_id if call_id and call_id not in taken else f"call_{uuid.uuid4().hex}"


def _plain(value: Any, levels: int) -> Any:
    if levels == 0:
        raise ValueError("a tool call's arguments are nested too deep")
    if isinstance(value, str):
        return whole_letters(value)
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        return {whole_letters(name): _plain(one, levels - 1) for name, one in named.items()}
    if isinstance(value, list):
        return [_plain(one, levels - 1) for one in cast("list[Any]", value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
