"""How many tokens a message takes, by its letters: four to a token, and a little for its frame.

An estimate is all that is needed to decide when to make room. Each message is measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

CHARS_PER_TOKEN = 4
FRAME_TOKENS = 4
IMAGE_TOKENS = 1_600


def estimate_message(message: Mapping[str, Any]) -> int:
    """Tokens of one message. `tool_calls` repeat what the blocks say and count only without blocks."""
    content: Any = message.get("content")
    chars, images = _measure(content if isinstance(content, list) else [content, message.get("tool_calls")])
    return chars // CHARS_PER_TOKEN + images * IMAGE_TOKENS + FRAME_TOKENS


def _measure(value: Any) -> tuple[int, int]:
    """Letters and images in a JSON-like value, walked without recursion."""
    chars = images = 0
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            chars += len(item)
        elif isinstance(item, Mapping):
            mapping = cast("Mapping[str, Any]", item)
            if mapping.get("type") == "image":
                images += 1
                continue
            chars += sum(len(str(key)) for key in mapping)
            pending.extend(mapping.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(cast("list[Any]", item))
        elif item is not None:
            chars += len(str(item))
    return chars, images
