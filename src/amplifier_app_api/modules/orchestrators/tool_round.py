"""Running the tool calls of one reply.

They run side by side, each in a task of its own, and are answered in the order the model made them. Which
call a task runs the coordinator's `_tool_dispatch_contexts` says meanwhile, for tools that tell others whose
call they are. Whatever happens, every call gets an answer: a history with an unanswered call is refused by
the next provider that reads it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from amplifier_app_api.modules.kernel import TOOL_ERROR, TOOL_POST, TOOL_PRE, ToolCall, ToolResult
from amplifier_app_api.modules.orchestrators.gate import HookGate, plain

logger = logging.getLogger(__name__)

CANCELLED = "cancelled by user"
UNWIND_SECONDS = 2.0  # how long a cancelled tool may tidy up before the turn ends without it


class ToolRound:
    """`run` gives one answer per call, in call order, and is never cut short by a failing tool."""

    def __init__(self, tools: Mapping[str, Any], gate: HookGate, cancellation: Any, coordinator: Any = None) -> None:
        self._tools = tools
        self._gate = gate
        self._cancellation = cancellation
        self._in_hand = _calls_in_hand(coordinator)

    async def run(self, calls: Sequence[ToolCall]) -> tuple[list[str], bool]:
        """The answers, and whether we were cancelled meanwhile: open calls are then answered `CANCELLED`."""
        group = uuid.uuid4().hex
        tasks = [asyncio.create_task(self._answer(call, group), name=f"tool {call.name} {call.id}") for call in calls]
        cancelled = False
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            cancelled = True
            for task in tasks:
                task.cancel()
            _, stuck = await asyncio.wait(tasks, timeout=UNWIND_SECONDS)
            for task in stuck:
                logger.warning("tool ignores its cancellation", extra={"task": task.get_name()})
        return [_answer_of(task) for task in tasks], cancelled

    async def _answer(self, call: ToolCall, group: str) -> str:
        """The text the model reads; never raises but for a cancellation."""
        facts: dict[str, Any] = {"tool_name": call.name, "tool_call_id": call.id, "parallel_group_id": group}
        arguments, shown = call.arguments, plain(call.arguments)
        answer = await self._gate.emit(TOOL_PRE, {**facts, "tool_input": shown})
        if answer.denied:
            return f"Denied by hook: {answer.reason or 'no reason given'}"
        if answer.altered("tool_input", shown) and isinstance(answer.data["tool_input"], dict):
            arguments = shown = cast("dict[str, Any]", answer.data["tool_input"])
        facts["tool_input"] = shown

        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return await self._failed(facts, "ToolNotFound", f"There is no tool {call.name!r}. Tools: {known}")
        try:
            result = await self._execute(tool, call, arguments, group)
        except (Exception, SystemExit) as error:  # a tool may raise anything; the model is told and the turn goes on
            logger.exception("tool raised", extra={"tool": call.name, "tool_call_id": call.id})
            return await self._failed(facts, type(error).__name__, str(error) or type(error).__name__)

        try:
            result, denied = await self._reviewed(result, facts)
            if denied is not None:
                return f"Denied by hook: {denied or 'no reason given'}"
        except asyncio.CancelledError:
            # What the tool did is done; its result stands, even if hooks did not get to see it.
            logger.info("cancelled after the tool had run", extra={"tool": call.name, "tool_call_id": call.id})
        return _text_of(result)

    async def _reviewed(self, result: ToolResult, facts: dict[str, Any]) -> tuple[ToolResult, str | None]:
        """The result as hooks leave it, and the reason for which the model is not to have it."""
        shown = plain({"success": result.success, "output": result.output, "error": result.error})
        answer = await self._gate.emit(TOOL_POST, {**facts, "result": shown})
        if answer.denied:
            return result, answer.reason
        altered = answer.altered("result", shown)
        return _result_from(answer.data["result"], result) if altered else result, None

    async def _execute(self, tool: Any, call: ToolCall, arguments: dict[str, Any], group: str) -> ToolResult:
        task = asyncio.current_task()
        self._in_hand[task] = {"tool_call_id": call.id, "parallel_group_id": group}
        if self._cancellation is not None:
            self._cancellation.register_tool_start(call.id, call.name)
        try:
            result = await tool.execute(arguments)
        finally:
            self._in_hand.pop(task, None)
            if self._cancellation is not None:
                self._cancellation.register_tool_complete(call.id)
        return result if isinstance(result, ToolResult) else ToolResult(output=result)

    async def _failed(self, facts: dict[str, Any], kind: str, message: str) -> str:
        await self._gate.emit(TOOL_ERROR, {**facts, "error": {"type": kind, "msg": message}})
        return f"Error: {message}"


def _calls_in_hand(coordinator: Any) -> dict[Any, dict[str, Any]]:
    """The calls that run in a session, by their tasks."""
    if coordinator is None:
        return {}
    known: Any = getattr(coordinator, "_tool_dispatch_contexts", None)
    if known is None:
        known = coordinator._tool_dispatch_contexts = {}
    return known


def _answer_of(task: asyncio.Task[str]) -> str:
    if not task.done() or task.cancelled():
        return CANCELLED
    if error := task.exception():  # not the tool's: a hook or the kernel failed around it
        logger.error("tool call failed", exc_info=error)
        return f"Error: {error}"
    return task.result()


def _text_of(result: ToolResult) -> str:
    """The one encoding of results; what has no JSON of its own (dates, paths) goes as its text."""
    try:
        return result.get_serialized_output()
    except TypeError:
        return ToolResult(success=result.success, output=plain(result.output)).get_serialized_output()


def _result_from(value: Any, original: ToolResult) -> ToolResult:
    """A hook's replacement: a whole result, or just its output."""
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if "success" not in fields and "output" not in fields:
        return ToolResult(success=original.success, output=cast("Any", value))
    return ToolResult(
        success=bool(fields.get("success", original.success)), output=fields.get("output"), error=fields.get("error")
    )
