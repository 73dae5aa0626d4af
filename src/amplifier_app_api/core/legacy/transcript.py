"""A transcript of the predecessor's: the messages that its context module gave back, as one JSON list.

They are the kernel's own message dicts, so a restored session gets exactly them. Two things are put right. A system
message at the beginning is shown and not restored: the prompt is made anew from the Config, and the model would read
it twice. A tool call that has no result gets one, for no provider takes a history with an open call.
"""

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

from amplifier_app_api.core.legacy.row import CannotCarry, Row, moment_of
from amplifier_app_api.runtime.blocks import blocks_of
from amplifier_app_api.storage.imports import ImportedMessage

ROLES = {"system", "developer", "user", "assistant", "function", "tool"}

LOST_CALL = "What this call did was not recorded; whether it took effect is not known."


def messages_of(row: Row, *, since: datetime) -> list[ImportedMessage]:
    """The transcript of a session. `since` is the time of messages that do not tell their own.

    One entry that cannot be read spoils the whole: a conversation with a hole would go on as another one.
    """
    stored = row.json("transcript")
    if stored is None:
        return []
    if not isinstance(stored, list):
        raise CannotCarry("its transcript is not a list")
    entries = [_checked(number, entry) for number, entry in enumerate(cast("list[Any]", stored), 1)]
    return [_message(entry, since, first=index == 0) for index, entry in enumerate(_with_results(entries))]


def _checked(number: int, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CannotCarry(f"message {number} of its transcript is not an object")
    message = cast("dict[str, Any]", entry)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise CannotCarry(f"message {number} of its transcript has no role that is known")
    if content is not None and not isinstance(content, str | list):
        raise CannotCarry(f"the content of message {number} of its transcript is neither text nor blocks")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):  # pyright: ignore[reportUnknownVariableType]
        raise CannotCarry(f"the tool calls of message {number} of its transcript are not objects")
    return message


def _with_results(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages, and after each run of tool results those that are missing."""
    waiting: dict[str, str] = {}
    for entry in entries:
        results = _results(entry)
        if results:
            waiting = {call: tool for call, tool in waiting.items() if call not in results}
        else:
            yield from _missing(waiting)
            waiting = _calls(entry) if entry["role"] == "assistant" else {}
        yield entry
    yield from _missing(waiting)


def _results(message: dict[str, Any]) -> set[str]:
    """The calls that a message answers: as a tool's, or in blocks of a user's."""
    results = {str(message.get("tool_call_id"))} if message["role"] in ("tool", "function") else set[str]()
    content = message.get("content")
    for block in cast("list[Any]", content) if isinstance(content, list) else ():
        match block:
            case {"type": "tool_result", "tool_call_id": call} | {"type": "tool_result", "tool_use_id": call}:
                results.add(str(call))
            case _:
                continue
    return results


def _calls(message: dict[str, Any]) -> dict[str, str]:
    calls = [block["tool_use"] for block in blocks_of(message) if block["type"] == "tool_use"]
    return {str(call["id"]): str(call["name"]) for call in calls}


def _missing(calls: dict[str, str]) -> Iterator[dict[str, Any]]:
    for call_id, tool in calls.items():
        yield {"role": "tool", "tool_call_id": call_id, "name": tool, "content": LOST_CALL}


def _message(entry: dict[str, Any], since: datetime, *, first: bool) -> ImportedMessage:
    metadata = entry.get("metadata")
    details = cast("dict[str, Any]", metadata) if isinstance(metadata, dict) else {}
    role = "system" if entry["role"] == "developer" else "tool" if entry["role"] == "function" else entry["role"]
    return ImportedMessage(
        message_id=str(uuid.uuid4()),
        role=role,
        content="" if entry.get("content") is None else entry["content"],
        kernel=None if first and role == "system" else entry,
        created_at=moment_of(details.get("timestamp") or "") or since,
        tool_calls=entry.get("tool_calls") or None,
        tool_call_id=_text(entry.get("tool_call_id")),
        name=_text(entry.get("name")),
        metadata=details,
    )


def _text(value: Any) -> str | None:
    # A column of text cannot hold U+0000; the kernel's dict keeps it.
    return None if value is None else str(value).replace("\0", "")
