"""What people are shown of a message: everything secret masked, but what holds the parts of a conversation together.

Ids, names of tools and the like stay: a mask in one of them would tear a call from its result. So do pictures.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.storage.messages import NewMessage

_KEPT = frozenset({"type", "id", "name", "tool", "tool_name", "tool_call_id", "tool_use_id", "role", "signature"})


def shown_content(content: Any, mask: SecretMask) -> Any:
    """The content of a message, a text or blocks."""
    if isinstance(content, list):
        return [shown_part(part, mask) for part in cast("list[Any]", content)]
    return mask.text(content) if isinstance(content, str) else mask.json(content)


def shown_part(part: Any, mask: SecretMask) -> Any:
    """A block, or a tool call."""
    match part:
        case {"type": "image", "source": {"data": str()}}:
            return part
        case {"type": "tool_use", "tool_use": {**call}}:
            return {**part, "tool_use": shown_part(call, mask)}
        case {**members}:
            return {name: value if name in _KEPT else _member(name, value, mask) for name, value in members.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
        case _:
            return mask.json(part)


def shown_mapping(value: Mapping[str, Any] | None, mask: SecretMask) -> dict[str, Any] | None:
    """JSON that comes with a message."""
    if not value:
        return None if value is None else {}
    shown = mask.json({**value})
    return cast("dict[str, Any]", shown) if isinstance(shown, dict) else {}


def shown_row(row: NewMessage, mask: SecretMask) -> NewMessage:
    """An entry of the transcript; its `kernel` is left as it is."""
    return replace(
        row,
        content=shown_content(row.content, mask),
        tool_calls=None if row.tool_calls is None else [shown_part(call, mask) for call in row.tool_calls],
        metadata=shown_mapping(row.metadata, mask) or {},
        context=shown_mapping(row.context, mask),
    )


def shown_message(message: Mapping[str, Any], mask: SecretMask) -> dict[str, Any]:
    """A kernel's message dict."""
    shown: dict[str, Any] = {}
    for name, value in message.items():
        if name == "content":
            shown[name] = shown_content(value, mask)
        elif name == "tool_calls" and isinstance(value, list):
            shown[name] = [shown_part(call, mask) for call in cast("list[Any]", value)]
        else:
            shown[name] = value if name in _KEPT else _member(name, value, mask)
    return shown


def _member(name: str, value: Any, mask: SecretMask) -> Any:
    """A member by its name: that may say that it is a secret."""
    shown = mask.json({name: value})
    return cast("dict[str, Any]", shown).get(name) if isinstance(shown, dict) else shown
