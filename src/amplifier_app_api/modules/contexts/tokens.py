"""How many tokens a message takes, by its bytes in UTF-8: four to a token, and a little for its frame.

Bytes and not letters: of most alphabets but the Latin a token holds one or two letters only, and a conversation in
Chinese would otherwise be thought a third of what it is.

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
    size, images = _measure(content if isinstance(content, list) else [content, message.get("tool_calls")])
    return size // CHARS_PER_TOKEN + images * IMAGE_TOKENS + FRAME_TOKENS


def _measure(value: Any) -> tuple[int, int]:
    """Bytes and images in a JSON-like value, walked without recursion."""
    size = images = 0
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            size += _bytes(item)
        elif isinstance(item, Mapping):
            mapping = cast("Mapping[str, Any]", item)
            if mapping.get("type") == "image":
                images += 1
                continue
            size += sum(len(str(key)) for key in mapping)
            pending.extend(mapping.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(cast("list[Any]", item))
        elif item is not None:
            size += len(str(item))
    return size, images


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
