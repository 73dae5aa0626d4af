"""The loop: call the model, run the tools it asks for, until it answers without asking.

One `Loop` is mounted per session; one `_Turn` lives for one `execute`. The two loops users know differ
only in whether they ask the provider to stream.

How a turn ends is said once, in `orchestrator:complete`: `success`; `incomplete` with a `stop_reason`
(`max_iterations`, `denied`); `cancelled`; or `error`. `execution:end` follows `execution:start` always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    CANCEL_COMPLETED,
    CANCEL_REQUESTED,
    CONTENT_BLOCK_END,
    CONTENT_BLOCK_START,
    EXECUTION_END,
    EXECUTION_START,
    ORCHESTRATOR_COMPLETE,
    PROMPT_COMPLETE,
    PROMPT_SUBMIT,
    PROVIDER_ERROR,
    PROVIDER_REQUEST,
    PROVIDER_RESPONSE,
    ChatRequest,
    ChatResponse,
    ConfigurationError,
    LLMError,
    ToolCall,
)
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.orchestrators.gate import HookGate
from amplifier_app_api.modules.orchestrators.messages import (
    MadeMessages,
    Row,
    assistant_row,
    block_dicts,
    open_calls,
    text_of,
    tool_row,
    tool_specs,
)
from amplifier_app_api.modules.orchestrators.tool_round import CANCELLED, ToolRound

DEFAULT_PRIORITY = 100.0
PREVIEW_CHARS = 200


@dataclass(frozen=True, slots=True)
class LoopOptions:
    max_iterations: int  # model calls per turn; negative: no limit
    extended_thinking: bool
    reasoning_effort: str | None

    @classmethod
    def read(cls, module: str, values: Mapping[str, Any] | None) -> LoopOptions:
        options = Options(module, values)
        return cls(
            max_iterations=options.integer("max_iterations", -1),
            extended_thinking=options.flag("extended_thinking", False),
            reasoning_effort=options.text("reasoning_effort"),
        )


@dataclass(frozen=True, slots=True)
class Ending:
    text: str
    status: str = "success"
    stop_reason: str | None = None


class Loop:
    """An orchestrator. `name` is its module id; `streaming` is what it asks of providers."""

    def __init__(self, name: str, options: LoopOptions, *, streaming: bool) -> None:
        self.name = name
        self.options = options
        self.streaming = streaming
        self.made = MadeMessages()

    async def execute(
        self,
        prompt: str,
        context: Any,
        providers: Mapping[str, Any],
        tools: Mapping[str, Any],
        hooks: Any,
        coordinator: Any = None,
        **_: Any,
    ) -> str:
        """Run one turn and give its final text; see the module docstring for how it can end."""
        return await _Turn(self, context, providers, tools, hooks, coordinator).run(prompt)


class _Turn:
    def __init__(
        self,
        loop: Loop,
        context: Any,
        providers: Mapping[str, Any],
        tools: Mapping[str, Any],
        hooks: Any,
        coordinator: Any,
    ) -> None:
        self._loop = loop
        self._context = context
        self._providers = providers
        self._tools = tools
        self._gate = HookGate(hooks, coordinator)
        self._cancellation = getattr(coordinator, "cancellation", None)
        self._iterations = 0
        self._text = ""

    async def run(self, prompt: str) -> str:
        self._gate.hold()  # what hooks add here comes after the message it is about
        answer = await self._gate.emit(PROMPT_SUBMIT, {"prompt": prompt})
        if answer.altered("prompt", prompt):
            prompt = str(answer.data["prompt"])
        if answer.denied:
            return await self._finish(_denied(answer.reason))

        await self._gate.emit(EXECUTION_START, {"prompt": prompt})
        try:
            await self._context.add_message({"role": "user", "content": prompt})
            await self._gate.release()
            ending = await self._iterate()
        except asyncio.CancelledError:
            await self._answer_open_calls()
            await self._say_cancelled()
            await self._end(Ending(self._text, "cancelled"))
            raise
        except Exception:
            await self._end(Ending(self._text, "error"))
            raise
        text = await self._finish(ending)
        await self._gate.emit(EXECUTION_END, {"status": ending.status, "response": text})
        return text

    async def _iterate(self) -> Ending:
        """The loop itself; starts from the history as it stands."""
        limit = self._loop.options.max_iterations
        while True:
            if self._cancellation is not None and self._cancellation.is_cancelled:
                await self._say_cancelled()
                return Ending(self._text, "cancelled")
            if 0 <= limit <= self._iterations:
                return Ending(self._text, "incomplete", "max_iterations")
            self._iterations += 1
            name, provider = await self._choose_provider()
            answer = await self._gate.emit(PROVIDER_REQUEST, {"provider": name, "iteration": self._iterations})
            if answer.denied:
                return _denied(answer.reason)
            calls = await self._ask(name, provider)
            if not calls:
                return Ending(self._text)
            await self._run_tools(calls)

    async def _choose_provider(self) -> tuple[str, Any]:
        if not self._providers:
            error = ConfigurationError("No provider is mounted: the bundle's `providers:` names none that works")
            await self._gate.emit(PROVIDER_ERROR, _error_facts(None, error))
            raise error
        return min(self._providers.items(), key=lambda item: _priority(item[1]))  # ties: the first in the plan

    async def _ask(self, name: str, provider: Any) -> list[ToolCall]:
        """One model call: the reply is stored, what it wants run is returned."""
        rows = await self._context.get_messages_for_request(provider=provider)
        request = self._request(rows)
        options = {"extended_thinking": True} if self._loop.options.extended_thinking else {}
        try:
            response = cast("ChatResponse", await provider.complete(request, **options))
        except Exception as error:
            await self._gate.emit(PROVIDER_ERROR, _error_facts(name, error))
            raise
        calls = list(cast("list[ToolCall]", provider.parse_tool_calls(response)))
        blocks = block_dicts(response, calls)
        await self._report(name, response, blocks, calls)
        self._text = text_of(blocks) or self._text
        if blocks:
            await self._context.add_message(assistant_row(blocks, calls, response.metadata))
        return calls

    def _request(self, rows: list[Row]) -> ChatRequest:
        return ChatRequest(
            messages=self._loop.made.request(rows, self._gate.take_ephemeral()),
            tools=tool_specs(self._tools),
            stream=self._loop.streaming,
            metadata=None if self._loop.streaming else {"stream": False},
            reasoning_effort=self._loop.options.reasoning_effort,
        )

    async def _report(self, name: str, response: ChatResponse, blocks: list[Row], calls: list[ToolCall]) -> None:
        usage = response.usage.model_dump(exclude_none=True) if response.usage else None
        await self._gate.emit(PROVIDER_RESPONSE, {"provider": name, "tool_calls": bool(calls), "usage": usage})
        for index, block in enumerate(blocks):
            place = {"block_index": index, "total_blocks": len(blocks)}
            await self._gate.emit(CONTENT_BLOCK_START, {"block_type": block.get("type"), **place})
            await self._gate.emit(CONTENT_BLOCK_END, {**place, "block": block, "usage": usage})

    async def _run_tools(self, calls: list[ToolCall]) -> None:
        self._gate.hold()
        answers, cancelled = await ToolRound(self._tools, self._gate, self._cancellation).run(calls)
        for call, answer in zip(calls, answers, strict=True):
            await self._context.add_message(tool_row(call.id, call.name, answer))
        await self._gate.release()
        if cancelled:
            raise asyncio.CancelledError

    async def _answer_open_calls(self) -> None:
        """Wherever the cancellation struck, no call is left without a result."""
        for call_id, name in open_calls(await self._context.get_messages()):
            await self._context.add_message(tool_row(call_id, name, CANCELLED))

    async def _finish(self, ending: Ending) -> str:
        facts = {"response_preview": ending.text[:PREVIEW_CHARS], "length": len(ending.text)}
        await self._gate.emit(PROMPT_COMPLETE, facts)
        await self._say_complete(ending)
        return ending.text

    async def _end(self, ending: Ending) -> None:
        """A turn that ends without an answer."""
        await self._say_complete(ending)
        await self._gate.emit(EXECUTION_END, {"status": ending.status})

    async def _say_complete(self, ending: Ending) -> None:
        facts: dict[str, Any] = {
            "orchestrator": self._loop.name,
            "turn_count": self._iterations,
            "status": ending.status,
        }
        if ending.stop_reason is not None:
            facts["stop_reason"] = ending.stop_reason
        await self._gate.emit(ORCHESTRATOR_COMPLETE, facts)

    async def _say_cancelled(self) -> None:
        """A cancelled task without a request for it, or with one for an immediate stop, stops immediately."""
        immediate = self._cancellation is None or not self._cancellation.is_graceful
        facts = {"orchestrator": self._loop.name, "turn_count": self._iterations}
        state = "immediate" if immediate else "graceful"
        await self._gate.emit(CANCEL_REQUESTED, {**facts, "state": state})
        if self._cancellation is not None:
            await self._cancellation.trigger_callbacks()
        await self._gate.emit(CANCEL_COMPLETED, {**facts, "was_immediate": immediate})


def _denied(reason: str) -> Ending:
    return Ending(f"Operation denied: {reason or 'no reason given'}", "incomplete", "denied")


def _priority(provider: Any) -> float:
    """A provider's place in the queue: its attribute, else its option, else 100. The lowest is used."""
    value = getattr(provider, "priority", None)
    if value is None:
        config = getattr(provider, "config", None)
        value = cast("Mapping[str, Any]", config).get("priority") if isinstance(config, Mapping) else None
    try:
        return DEFAULT_PRIORITY if value is None else float(value)
    except (TypeError, ValueError):
        return DEFAULT_PRIORITY


def _error_facts(provider: str | None, error: Exception) -> dict[str, Any]:
    facts: dict[str, Any] = {"provider": provider, "error": {"type": type(error).__name__, "msg": str(error)}}
    if isinstance(error, LLMError):
        facts |= {
            "retryable": error.retryable,
            "status_code": error.status_code,
            "retry_after": error.retry_after,
            "model": error.model,
        }
    return facts
