"""`tool-todo`: the model's own list of what is to be done.

The list lives on `coordinator.todo_state`, where other modules expect it: a list of `{"content", "activeForm",
"status"}`. It is not stored anywhere else. When a session is opened again, the list is taken from the conversation:
it is what the last successful call of this tool set.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from amplifier_app_api.modules.kernel import HookResult
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

SESSION_RESUME: str = importlib.import_module("amplifier_core.events").SESSION_RESUME

STATUSES = ("pending", "in_progress", "completed")
MAX_ITEMS = 200
MAX_TEXT = 1_000

Item = dict[str, str]


class Todo(Tool):
    name = "todo"
    description = (
        "Keep a list of the steps of a longer task. create and update both replace the whole list; list shows it. "
        "Each step has content (what to do: 'Run the tests'), activeForm (what is being done: 'Running the tests') "
        "and status. Keep one step in_progress, and mark a step completed as soon as it is done."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["create", "update", "list"]},
            "todos": {
                "type": "array",
                "description": "The whole list, for create and update",
                "items": {
                    "type": "object",
                    "properties": {
                        "content": {"type": "string"},
                        "activeForm": {"type": "string"},
                        "status": {"type": "string", "enum": list(STATUSES)},
                    },
                    "required": ["content", "activeForm", "status"],
                },
            },
        },
        "required": ["action"],
    }
    read_only = False
    idempotent = True

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    async def _run(self, given: Arguments) -> dict[str, Any]:
        action = given.choice("action", ("create", "update", "list"))
        if action == "list":
            items: list[Item] = self._coordinator.todo_state or []
            return {"status": "listed", "count": len(items), "todos": _copies(items)}
        items = _items(given.value("todos"))
        self._coordinator.todo_state = items
        if action == "create":
            return {"status": "created", "count": len(items), "todos": _copies(items)}
        counts = {status: sum(item["status"] == status for item in items) for status in STATUSES}
        return {"status": "updated", "count": len(items), **counts}


def _items(given: Any) -> list[Item]:
    """What the model gave as a list of items of our own; `Refused` when it is none."""
    if not isinstance(given, list):
        raise Refused("todos is missing: it must be a list")
    entries = cast("list[Any]", given)
    if len(entries) > MAX_ITEMS:
        raise Refused(f"A list has at most {MAX_ITEMS} items")
    return [_item(number, entry) for number, entry in enumerate(entries, start=1)]


def _item(number: int, entry: Any) -> Item:
    values: Mapping[str, Any] = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {}
    item: Item = {}
    for key in ("content", "activeForm", "status"):
        value = values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise Refused(f"Item {number} has no {key}")
        if len(value) > MAX_TEXT:
            raise Refused(f"The {key} of item {number} is longer than {MAX_TEXT:,} characters")
        item[key] = value
    if item["status"] not in STATUSES:
        raise Refused(f"The status of item {number} must be one of: {', '.join(STATUSES)}")
    return item


def _copies(items: Sequence[Item]) -> list[Item]:
    return [dict(item) for item in items]


def last_list(messages: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The list as the last call of the tool that was carried out left it; empty when there was none."""
    for message in reversed(messages):
        for call in reversed(message.get("tool_calls") or []):
            if call.get("tool") != Todo.name:
                continue
            arguments: Mapping[str, Any] = call.get("arguments") or {}
            if arguments.get("action") not in ("create", "update"):
                continue
            try:
                return _items(arguments.get("todos"))
            except Refused:
                continue  # it was refused then, too
    return []


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    coordinator.todo_state = []

    async def restore(event: str, data: dict[str, Any]) -> HookResult:
        context = coordinator.get("context")
        if context is not None and not coordinator.todo_state:
            coordinator.todo_state = last_list(await context.get_messages())
        return HookResult(action="continue")

    unregister: Callable[[], None] = coordinator.hooks.register(SESSION_RESUME, restore, 0, "tool-todo:restore")
    await coordinator.mount("tools", Todo(coordinator), name=Todo.name)

    async def close() -> None:
        unregister()

    return close
