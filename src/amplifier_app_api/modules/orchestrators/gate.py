"""Emitting kernel events and obeying what hooks answer.

The kernel returns a hook's answer and leaves it to the loop to act on it. An answer of several hooks is
folded into one: an altered payload comes back in `data` under the action `continue`, and is therefore
recognised by comparing it with what was sent, never by the action. When one hook alters and another adds something
to the context, the kernel keeps what is added only: a witness of ours, the last of the hooks, has then seen the rest.
"""

from __future__ import annotations

import contextvars
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    PROMPT_SUBMIT,
    TOOL_POST,
    TOOL_PRE,
    ContextInjection,
    HookResult,
    whole_letters,
)

logger = logging.getLogger(__name__)

ALTERABLE = frozenset({PROMPT_SUBMIT, TOOL_PRE, TOOL_POST})
"""Events whose payload a loop takes back."""
LAST = 2**31 - 1

_seen: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("payload_seen_last", default=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hooks of one event decided."""

    denied: bool = False
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])

    def altered(self, key: str, sent: Any) -> bool:
        """Whether hooks replaced `key`; `sent` must be plain JSON data."""
        return key in self.data and self.data[key] is not None and self.data[key] != sent


class HookGate:
    """One turn's door to the hooks.

    Texts that hooks want shown for one request only collect until the next request takes them. Where nothing
    may be added to the history, as between a reply's tool calls and their results, injections wait: from
    `hold` to `release`.
    """

    def __init__(self, hooks: Any, coordinator: Any) -> None:
        self._hooks = hooks
        self._coordinator = coordinator
        self._held: list[tuple[HookResult, str]] | None = None
        self._ephemeral: list[ContextInjection] = []
        self._witnesses: dict[str, Callable[[], Any]] = {}

    def close(self) -> None:
        """The turn is over."""
        while self._witnesses:
            self._witnesses.popitem()[1]()

    async def emit(self, event: str, data: dict[str, Any]) -> Answer:
        result = await self._emitted(event, data)
        if not isinstance(result, HookResult):
            return Answer()
        if result.action == "inject_context" and self._held is not None:
            self._held.append((result, event))
            return Answer(data=result.data or {})
        return await self._obey(result, event)

    async def _emitted(self, event: str, data: dict[str, Any]) -> Any:
        if event not in ALTERABLE or not self._witnessed(event):
            return await self._hooks.emit(event, data)
        seen: dict[str, Any] = {}
        token = _seen.set(seen)
        try:
            result = await self._hooks.emit(event, data)
        finally:
            _seen.reset(token)
        if isinstance(result, HookResult) and result.action == "inject_context" and result.data is None:
            return result.model_copy(update={"data": seen or None})
        return result

    def _witnessed(self, event: str) -> bool:
        """Whether somebody sees what the hooks of an event make of it; with one hook there is nothing to see."""
        if event not in self._witnesses and self._listeners(event) > 1:
            name = f"loop-witness-{uuid.uuid4().hex}"
            self._witnesses[event] = self._hooks.register(event, _witness, LAST, name)
        return event in self._witnesses

    def _listeners(self, event: str) -> int:
        # The kernel's own recorder of events, which its conformance tests give a loop, cannot tell.
        told = getattr(self._hooks, "list_handlers", None)
        return 0 if told is None else len(told(event).get(event) or ())

    async def permitted(self, event: str, data: dict[str, Any]) -> Answer:
        """Emit an event beside the conversation: hooks may refuse, but what they would add has no place there."""
        result = await self._hooks.emit(event, data)
        if not isinstance(result, HookResult) or result.action not in ("deny", "ask_user"):
            return Answer()
        return await self._obey(result, event)

    def hold(self) -> None:
        self._held = []

    async def release(self) -> None:
        held, self._held = self._held or [], None
        for result, event in held:
            await self._obey(result, event)

    def take_ephemeral(self) -> list[ContextInjection]:
        taken, self._ephemeral = self._ephemeral, []
        return taken

    async def _obey(self, result: HookResult, event: str) -> Answer:
        if self._coordinator is not None and (result.action != "continue" or result.user_message):
            processed = await self._processed(result, event)
        else:
            processed = result
        if processed is None:
            return Answer(data=result.data or {})
        if result.action == "inject_context":
            self._ephemeral += _ephemeral_of(result)
        # Without a coordinator nobody can be asked, and an unanswered question is a no.
        denied = processed.action in ("deny", "ask_user")
        return Answer(denied=denied, reason=processed.reason or "", data=result.data or {})

    async def _processed(self, result: HookResult, event: str) -> HookResult | None:
        """None for a text that is longer than the session's limits allow: it is left out, as a hook that fails is."""
        try:
            return cast("HookResult", await self._coordinator.process_hook_result(result, event, "hook"))
        except ValueError as error:
            if result.action != "inject_context":
                raise
            logger.warning("a hook's text is not added", extra={"event": event, "error": str(error)})
            return None


async def _witness(_: str, data: dict[str, Any]) -> None:
    """Runs in a task of its own that sees the variables of whoever emits."""
    seen = _seen.get()
    if seen is not None:
        seen.update(data)


def _ephemeral_of(result: HookResult) -> list[ContextInjection]:
    if result.context_injections:
        return [injection for injection in result.context_injections if injection.ephemeral]
    if not (result.ephemeral and result.context_injection):
        return []
    return [
        ContextInjection(
            content=result.context_injection,
            role=result.context_injection_role,
            ephemeral=True,
            append_to_last_tool_result=result.append_to_last_tool_result,
        )
    ]


def plain(value: Any) -> Any:
    """`value` as the JSON data that hooks receive and return, so that the two can be compared.

    The kernel takes strict JSON only: `NaN` and its kind go as texts, half a letter as a mark.
    """
    return json.loads(whole_letters(json.dumps(value, default=str, ensure_ascii=False)), parse_constant=str)
