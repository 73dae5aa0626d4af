"""`hooks-todo-reminder`: shows the model the list it keeps with `tool-todo` before it goes on.

At the beginning of a turn, and when it has used other tools for a while without touching the list. The reminder is
part of one request only; what is done is counted, not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from amplifier_app_api.modules.hooks.registrations import CONTINUE, Registrations
from amplifier_app_api.modules.kernel import PROMPT_SUBMIT, PROVIDER_REQUEST, TOOL_POST, HookResult
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-todo-reminder"
TODO_TOOL = "todo"

MAX_ITEMS = 20
MAX_TEXT = 200

Role = Literal["user", "system"]


def reminder_of(items: Sequence[Mapping[str, Any]]) -> str | None:
    """What to say about a list; None when nothing on it is left to do."""
    left = [item for item in items if item.get("status") in ("in_progress", "pending")]
    if not left:
        return None
    left.sort(key=lambda item: item.get("status") != "in_progress")
    lines = [f"- [{_mark(item)}] {_text(item)}" for item in left[:MAX_ITEMS]]
    if len(left) > MAX_ITEMS:
        lines.append(f"- and {len(left) - MAX_ITEMS} more")
    done = len(items) - len(left)
    return "\n".join(
        [
            "<todo-reminder>",
            f"Your list ({done} of {len(items)} done), the current step first:",
            *lines,
            "Keep it up to date as you go; this note is not from the user and needs no answer.",
            "</todo-reminder>",
        ]
    )


def _mark(item: Mapping[str, Any]) -> str:
    return ">" if item.get("status") == "in_progress" else " "


def _text(item: Mapping[str, Any]) -> str:
    text = " ".join(str(item.get("content") or "").replace("<", "‹").split())
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


class TodoReminder:
    def __init__(self, coordinator: Any, role: Role, threshold: int) -> None:
        self._coordinator = coordinator
        self._role: Role = role
        self._threshold = threshold
        self._due = True
        self._others = 0

    async def on_prompt(self, event: str, data: dict[str, Any]) -> HookResult:
        self._due = True
        return CONTINUE

    async def on_tool(self, event: str, data: dict[str, Any]) -> HookResult:
        self._others = 0 if data.get("tool_name") == TODO_TOOL else self._others + 1
        return CONTINUE

    async def on_request(self, event: str, data: dict[str, Any]) -> HookResult:
        if not self._due and self._others < self._threshold:
            return CONTINUE
        self._due, self._others = False, 0
        said = reminder_of(getattr(self._coordinator, "todo_state", None) or [])
        if said is None:
            return CONTINUE
        return HookResult(
            action="inject_context",
            context_injection=said,
            context_injection_role=self._role,
            ephemeral=True,
            append_to_last_tool_result=True,
        )


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    options = Options(MODULE_ID, config)
    reminder = TodoReminder(coordinator, role_of(options), options.integer("recent_tool_threshold", 3, minimum=1))
    handlers = Registrations(coordinator, MODULE_ID, options.integer("priority", 10))
    handlers.on(PROMPT_SUBMIT, reminder.on_prompt)
    handlers.on(TOOL_POST, reminder.on_tool)
    handlers.on(PROVIDER_REQUEST, reminder.on_request)
    return handlers.close


def role_of(options: Options) -> Role:
    """In whose name something is said to the model."""
    match options.text("inject_role") or "user":
        case "user":
            return "user"
        case "system":
            return "system"
        case _:
            raise options.problem("inject_role", "must be user or system")
