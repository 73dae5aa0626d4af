"""The rows of a conversation: what a loop stores, and the request it makes of what is stored.

Stored rows have the shapes other Amplifier modules rely on: an assistant's `content` is a list of blocks
and its tool calls appear again under `tool_calls`, with the key `tool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, cast

from amplifier_app_api.modules.kernel import ChatResponse, ContextInjection, Message, ToolCall, ToolSpec

Row = dict[str, Any]

OF_A_HOOK = {"source": "hook"}
"""The metadata of what a hook says under the user's name, as the kernel marks what hooks add to a history."""


def block_dicts(response: ChatResponse, calls: Sequence[ToolCall]) -> list[Row]:
    """The blocks of a reply as plain data; a call the provider reported without a block gets one."""
    blocks = [block.model_dump(exclude_none=True) for block in response.content]
    shown = {block.get("id") for block in blocks if block.get("type") == "tool_call"}
    return blocks + [
        {"type": "tool_call", "id": call.id, "name": call.name, "input": call.arguments}
        for call in calls
        if call.id not in shown
    ]


def text_of(blocks: Sequence[Row]) -> str:
    return "".join(block.get("text") or "" for block in blocks if block.get("type") == "text")


def assistant_row(blocks: list[Row], calls: Sequence[ToolCall], metadata: Mapping[str, Any] | None) -> Row:
    row: Row = {"role": "assistant", "content": blocks}
    if calls:
        row["tool_calls"] = [{"id": call.id, "tool": call.name, "arguments": call.arguments} for call in calls]
    if metadata:
        row["metadata"] = dict(metadata)
    return row


def tool_row(call_id: str, name: str, content: str) -> Row:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


def rows_of_turn(rows: Sequence[Row], prompt: str) -> list[Row]:
    """The last turn: the message that began it, whose text hooks may have changed, and what follows."""
    asked = [index for index, row in enumerate(rows) if row.get("role") == "user"]
    said = [index for index in asked if prompt_of_row(rows[index]) == prompt]
    begins = said[-1:] or asked[-1:]
    return [*rows[begins[0] :]] if begins else [*rows]


def prompt_of_row(row: Row) -> str:
    """What a loop was given of a message of the user that has blocks: their texts, an empty line between two."""
    content = row.get("content")
    if isinstance(content, str):
        return content
    blocks = cast("list[Row]", content or [])
    return "\n\n".join(block.get("text") or "" for block in blocks if block.get("type") == "text")


def text_of_row(row: Row) -> str:
    """The text of a stored message."""
    content = row.get("content")
    return content if isinstance(content, str) else text_of(cast("list[Row]", content or []))


def open_calls(rows: Sequence[Row]) -> list[ToolCall]:
    """The calls of the last reply that have no result yet."""
    answered: set[str] = set()
    for row in reversed(rows):
        if row.get("role") == "tool":
            answered.add(str(row.get("tool_call_id")))
        elif row.get("role") == "assistant":
            calls = map(_call_of, cast("list[Row]", row.get("tool_calls") or []))
            return [call for call in calls if call is not None and call.id not in answered]
    return []


def _call_of(told: Row) -> ToolCall | None:
    """A stored call; None for one that no result can belong to. Rows that were imported may have another shape."""
    function: Any = told.get("function")
    call = cast("Row", function) if isinstance(function, dict) else told
    call_id, name = told.get("id"), call.get("tool") or call.get("name") or ""
    if call_id is None:
        return None
    arguments: Any = call.get("arguments")
    return ToolCall(
        id=str(call_id), name=str(name), arguments=cast("Row", arguments) if isinstance(arguments, dict) else {}
    )


class MadeMessages:
    """The messages of a conversation, made once for each row: a turn costs what is new in it, not its history.

    A row is known by identity: a context that hands out the same rows again is read on from where they end, one that
    hands out others is read anew.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._made: list[Message] = []

    def request(self, rows: Sequence[Row], injections: Sequence[ContextInjection]) -> list[Message]:
        """Rows and this request's own injections as the provider gets them; stored rows stay as they are."""
        known = len(self._rows)
        if known > len(rows) or not all(map(is_, self._rows, rows)):
            known = 0
        self._made[known:] = map(_made_of, rows[known:])
        self._rows = [*rows]
        messages = [*self._made]
        for injection in injections:
            last = messages[-1] if messages else None
            if injection.append_to_last_tool_result and last is not None and last.role == "tool":
                messages[-1] = last.model_copy(update={"content": f"{last.content}\n\n{injection.content}"})
            else:
                row = {"role": injection.role, "content": injection.content, "metadata": OF_A_HOOK}
                messages.append(Message.model_validate(row))
        return messages


def _made_of(row: Row) -> Message:
    """Without the blocks that the kernel has no form for: rows that were imported may hold some."""
    content: Any = row.get("content") or ""
    try:
        return Message.model_validate({**row, "content": content})
    except ValueError:
        if not isinstance(content, list):
            raise
    known = [block for block in cast("list[Row]", content) if _is_known(block)]
    return Message.model_validate({**row, "content": known or ""})


def _is_known(block: Row) -> bool:
    try:
        Message.model_validate({"role": "user", "content": [block]})
    except ValueError:
        return False
    return True


def tool_specs(tools: Mapping[str, Any]) -> list[ToolSpec] | None:
    specs = [
        ToolSpec(
            name=name,
            parameters=cast("dict[str, Any]", getattr(tool, "input_schema", None) or {"type": "object"}),
            description=str(getattr(tool, "description", "") or ""),
        )
        for name, tool in tools.items()
    ]
    return specs or None
