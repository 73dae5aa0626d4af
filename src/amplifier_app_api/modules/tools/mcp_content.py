"""What servers say, as text for a model: bounded, and with a note in place of what is no text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import mcp_types as types
from pydantic_core import to_json

from amplifier_app_api.modules.tools.refusals import Refused

MAX_NAME = 64
"""Characters of a tool's name; more no vendor takes."""
MAX_DESCRIPTION = 4_000
MAX_SCHEMA = 100_000
MAX_SCHEMA_DEPTH = 40
_ANYTHING: Mapping[str, Any] = {"type": "object"}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")

Content = types.ContentBlock | types.TextResourceContents | types.BlobResourceContents


def check_sendable(value: Any) -> None:
    """`Refused` for what JSON cannot say: half a character, or a nest too deep. Sent, it would end the connection."""
    try:
        to_json(value)
    except (ValueError, RecursionError):
        raise Refused("That cannot be sent to a server: it holds half a character, or is nested too deep") from None


def bounded(text: str, most: int) -> str:
    """The text; the beginning and the end of one that is too long."""
    if len(text) <= most:
        return text
    head, tail = most - most // 2, most // 2
    return f"{text[:head]}\n[{len(text) - most:,} characters left out]\n{text[-tail:]}"


def told(contents: Iterable[Content], most: int) -> str:
    return bounded("\n".join(_text(content) for content in contents), most)


def result_text(result: types.CallToolResult, most: int) -> str:
    """What a tool answered. Structured content is told where there is no other: it says the same."""
    if not result.content and result.structured_content is not None:
        return bounded(json.dumps(result.structured_content, ensure_ascii=False), most)
    return told(result.content, most)


def _text(content: Content) -> str:
    match content:
        case types.TextContent() | types.TextResourceContents():
            return content.text
        case types.ImageContent() | types.AudioContent():
            return _left_out(content.mime_type, len(content.data))
        case types.BlobResourceContents():
            return _left_out(content.mime_type or "data", len(content.blob))
        case types.EmbeddedResource():
            return f"{content.resource.uri}:\n{_text(content.resource)}"
        case types.ResourceLink():
            return f"[resource {content.uri}: {content.description or content.name}]"


def _left_out(kind: str, encoded: int) -> str:
    return f"[{kind}, about {encoded * 3 // 4:,} bytes, not shown]"


def tool_name(server: str, tool: str, taken: Iterable[str]) -> str:
    """`mcp_<server>_<tool>` in letters that every vendor takes; with a mark where that would name another tool too."""
    name = f"mcp_{server}_{_NOT_IN_NAMES.sub('_', tool)}"
    if len(name) <= MAX_NAME and name not in taken:
        return name
    mark = hashlib.sha256(f"{server}\n{tool}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9]}_{mark}"


def safe_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's input schema; one that takes anything where the server's is none for an object, or is too large."""
    if schema.get("type", "object") != "object" or _depth(schema) > MAX_SCHEMA_DEPTH:
        return dict(_ANYTHING)
    given = {**schema, "type": "object"}
    return given if len(json.dumps(given)) <= MAX_SCHEMA else dict(_ANYTHING)


def _depth(value: Any) -> int:
    """How deep a nest is, as far as that matters."""
    depth, level = 0, [value]
    while level and depth <= MAX_SCHEMA_DEPTH:
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return depth
