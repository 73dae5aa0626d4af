"""The loop: call the model, run the tools it asks for, until it answers without asking.

One `Loop` is mounted per session; one `_Turn` lives for one `execute`. The two loops users know differ
only in whether they ask the provider to stream.

A host that lost its process in the middle of a turn calls `resume` with the arguments of `execute`, over the history
as it was recorded: calls without a result are made first, as in any round, and the loop goes on from there. While a
turn runs, `steer` (the capability `session.steer`) hands it another message of the user: it is put into the history
where the next model call is about to be made.

How a turn ends is said in `orchestrator:complete`: `success`; `incomplete` with a `stop_reason` (`max_iterations`,
`denied`); `cancelled`; or `error`. `execution:end` follows `execution:start` always. While a session has a goal
(`goals.py`), each answer to it is told like the end of a turn, and only the last one with `goal_final`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
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
    ORCHESTRATOR_GOAL_PROGRESS,
    ORCHESTRATOR_STEERING_INJECTED,
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
from amplifier_app_api.modules.orchestrators.goal_judge import ModelJudge
from amplifier_app_api.modules.orchestrators.goals import GoalOptions, Pursuit, Step, goal_of
from amplifier_app_api.modules.orchestrators.messages import (
    MadeMessages,
    Row,
    assistant_row,
    block_dicts,
    open_calls,
    rows_of_turn,
    text_of,
    text_of_row,
    tool_row,
    tool_specs,
)
from amplifier_app_api.modules.orchestrators.steering import Steering
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
    """An orchestrator. `name` is its module id; `streaming` is what it asks of providers.

    With `goals` it pursues the goal of its session, where there is one.
    """

    def __init__(self, name: str, options: LoopOptions, *, streaming: bool, goals: GoalOptions | None = None) -> None:
        self.name = name
        self.options = options
        self.goals = goals
        self.streaming = streaming
        self.made = MadeMessages()
        self.steering = Steering()

    async def mount(self, coordinator: Any) -> None:
        """Become the session's loop, and offer to be steered."""
        await coordinator.mount("orchestrator", self)
        coordinator.register_capability("session.steer", self.steering.steer)

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
        self.steering.clear()
        turn = _Turn(self, context, providers, tools, hooks, coordinator)
        try:
            return await turn.run(prompt)
        finally:
            turn.close()

    async def resume(
        self,
        prompt: str,
        context: Any,
        providers: Mapping[str, Any],
        tools: Mapping[str, Any],
        hooks: Any,
        coordinator: Any = None,
        **_: Any,
    ) -> str:
        """Go on with the turn that the end of the history belongs to, and give its final text."""
        self.steering.clear()
        turn = _Turn(self, context, providers, tools, hooks, coordinator)
        try:
            return await turn.resume(prompt)
        finally:
            turn.close()


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
        self._coordinator = coordinator
        self._gate = HookGate(hooks, coordinator)
        self._cancellation = getattr(coordinator, "cancellation", None)
        self._iterations = 0
        self._text = ""
        self._acted = False  # tools were called since the user, or the goal, last said something
        self._outcome: Step | None = None
        state = getattr(coordinator, "session_state", None)
        self._pursuit: Pursuit | None = None
        if loop.goals is not None and isinstance(state, MutableMapping):
            self._pursuit = Pursuit(loop.name, loop.goals, cast("MutableMapping[str, Any]", state))

    def close(self) -> None:
        self._gate.close()

    async def run(self, prompt: str) -> str:
        self._gate.hold()  # what hooks add here comes after the message it is about
        answer = await self._gate.emit(PROMPT_SUBMIT, {"prompt": prompt})
        if answer.altered("prompt", prompt):
            prompt = str(answer.data["prompt"])
        if answer.denied:
            return await self._finish(_denied(answer.reason))
        return await self._executed(prompt, self._begin(prompt))

    async def _begin(self, prompt: str) -> Ending:
        await self._context.add_message(self._message(prompt))
        await self._gate.release()
        return await self._pursued(await self._iterate())

    def _message(self, text: str) -> Row:
        return {"role": "user", "content": text} if self._pursuit is None else self._pursuit.message(text)

    async def resume(self, prompt: str) -> str:
        return await self._executed(prompt, self._go_on(prompt))

    async def _go_on(self, prompt: str) -> Ending:
        rows = rows_of_turn(await self._context.get_messages(), prompt)
        answers = [row for row in rows if row.get("role") == "assistant"]
        self._iterations = len(answers)
        self._text = next(filter(None, (text_of_row(row) for row in reversed(answers))), "")
        if self._pursuit is not None:
            self._pursuit.restore(rows)
        self._acted = _called_tools(rows)
        calls = open_calls(rows)
        if calls:
            await self._run_tools(calls)
        elif rows and rows[-1] in answers and not self._loop.steering:
            # It was the answer; only what comes after it was missing.
            return await self._pursued(Ending(self._text))
        return await self._pursued(await self._iterate())

    async def _pursued(self, ending: Ending) -> Ending:
        """Go on until the goal of the session is reached or given up; without one the answer stands."""
        pursuit, goals = self._pursuit, self._loop.goals
        if pursuit is None or goals is None or not pursuit.active:
            return ending
        judge = ModelJudge(
            goals,
            self._gate,
            self._coordinator,
            self._providers,
            default=self._choose_provider,
            rows=self._context.get_messages,
        )
        while ending.status == "success" and pursuit.active:
            if self._is_cancelled:
                await self._say_cancelled()
                ending = Ending(self._text, "cancelled")
                break
            turn, step = pursuit.turn, await pursuit.judged(judge, acted=self._acted)
            if step is None or step.prompt is None:
                self._outcome = step
                return ending
            await self._tell_ending(ending, goal_turn=turn, final=False)
            await self._gate.emit(ORCHESTRATOR_GOAL_PROGRESS, step.facts)
            if not pursuit.active:  # taken away by who heard of it
                return ending
            ending = await self._continued(step.prompt)
        if ending.status != "success":
            state, reason = _GIVEN_UP.get(ending.stop_reason or ending.status, ("error", ending.text))
            self._outcome = pursuit.ended(state, reason)
        return ending

    async def _continued(self, prompt: str) -> Ending:
        """Another answer, to what is said for the goal."""
        pursuit = cast("Pursuit", self._pursuit)
        pursuit.continuing()
        self._acted = False
        self._gate.hold()
        answer = await self._gate.emit(PROMPT_SUBMIT, {"prompt": prompt})
        if answer.altered("prompt", prompt):
            prompt = str(answer.data["prompt"])
        if answer.denied:
            await self._gate.release()
            return _denied(answer.reason)
        await self._context.add_message(pursuit.message(prompt))
        await self._gate.release()
        return await self._iterate()

    async def _executed(self, prompt: str, work: Coroutine[Any, Any, Ending]) -> str:
        """Run the turn between the two events that always come in a pair."""
        try:
            await self._gate.emit(EXECUTION_START, {"prompt": prompt})
            ending = await work
        except asyncio.CancelledError:
            await self._answer_open_calls()
            await self._say_cancelled()
            if self._pursuit is not None:
                self._outcome = self._pursuit.ended(*_GIVEN_UP["cancelled"])
            await self._end(Ending(self._text, "cancelled"))
            raise
        except Exception:
            await self._end(Ending(self._text, "error"))
            raise
        finally:
            work.close()
        text = await self._finish(ending)
        await self._gate.emit(EXECUTION_END, {"status": ending.status, "response": text})
        return text

    async def _iterate(self) -> Ending:
        """The loop itself; starts from the history as it stands."""
        limit = self._loop.options.max_iterations
        while True:
            if self._is_cancelled:
                await self._say_cancelled()
                return Ending(self._text, "cancelled")
            if 0 <= limit <= self._iterations:
                return Ending(self._text, "incomplete", "max_iterations")
            await self._steer()
            self._iterations += 1
            name, provider = await self._choose_provider()
            answer = await self._gate.emit(PROVIDER_REQUEST, {"provider": name, "iteration": self._iterations})
            if answer.denied:
                return _denied(answer.reason)
            calls = await self._ask(name, provider)
            if calls:
                await self._run_tools(calls)
            elif not self._loop.steering:
                return Ending(self._text)

    @property
    def _is_cancelled(self) -> bool:
        return self._cancellation is not None and bool(self._cancellation.is_cancelled)

    async def _steer(self) -> None:
        """What the user said in between, into the history, each as a message."""
        while (text := self._loop.steering.take()) is not None:
            await self._context.add_message({"role": "user", "content": text})
            facts = {
                "orchestrator": self._loop.name,
                "content": text,
                "iteration": self._iterations,
                "queued_remaining": len(self._loop.steering),
                "metadata": None,
            }
            await self._gate.emit(ORCHESTRATOR_STEERING_INJECTED, facts)

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
        self._acted = True
        self._gate.hold()
        tools = ToolRound(self._tools, self._gate, self._cancellation, self._coordinator)
        answers, cancelled = await tools.run(calls)
        for call, answer in zip(calls, answers, strict=True):
            await self._context.add_message(tool_row(call.id, call.name, answer))
        await self._gate.release()
        if cancelled:
            raise asyncio.CancelledError

    async def _answer_open_calls(self) -> None:
        """Wherever the cancellation struck, no call is left without a result."""
        for call in open_calls(await self._context.get_messages()):
            await self._context.add_message(tool_row(call.id, call.name, CANCELLED))

    async def _finish(self, ending: Ending) -> str:
        await self._tell_ending(ending, goal_turn=self._goal_turn())
        await self._tell_outcome()
        return ending.text

    async def _tell_ending(self, ending: Ending, *, goal_turn: int | None, final: bool = True) -> None:
        facts = {"response_preview": ending.text[:PREVIEW_CHARS], "length": len(ending.text)}
        await self._gate.emit(PROMPT_COMPLETE, facts)
        await self._say_complete(ending, goal_turn=goal_turn, final=final)

    async def _tell_outcome(self) -> None:
        """How the pursuit of a goal ended."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            await self._gate.emit(ORCHESTRATOR_GOAL_PROGRESS, outcome.facts)

    def _goal_turn(self) -> int | None:
        if self._outcome is not None:
            return self._outcome.facts["turn"]
        return None if self._pursuit is None else self._pursuit.turn

    async def _end(self, ending: Ending) -> None:
        """A turn that ends without an answer."""
        await self._say_complete(ending, goal_turn=self._goal_turn())
        await self._tell_outcome()
        await self._gate.emit(EXECUTION_END, {"status": ending.status})

    async def _say_complete(self, ending: Ending, *, goal_turn: int | None, final: bool = True) -> None:
        facts: dict[str, Any] = {
            "orchestrator": self._loop.name,
            "turn_count": self._iterations,
            "status": ending.status,
        }
        if ending.stop_reason is not None:
            facts["stop_reason"] = ending.stop_reason
        if self._pursuit is not None:
            goal = self._outcome.facts if self._outcome is not None else self._pursuit.goal
            continuations = None if goal is None else goal["continuations"]
            facts |= {"goal_turn": goal_turn, "goal_final": final, "continuations": continuations}
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


_GIVEN_UP: Mapping[str, tuple[str, str]] = {
    "cancelled": ("cancelled", "the turn was cancelled"),
    "max_iterations": ("cap_hit", "the turn may ask the model no more often"),
}
"""How a pursuit ends with its turn: the state, and the reason."""


def _called_tools(rows: Sequence[Row]) -> bool:
    """Whether tools were called since something was last said for a goal."""
    for row in reversed(rows):
        if row.get("role") == "tool":
            return True
        if row.get("role") == "user" and goal_of(row) is not None:
            break
    return False


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
