"""What modules get instead of the kernel's own objects: everything is handed on, the host listens.

The kernel gives its real hooks and coordinator to the loop, so the orchestrator's proxy replaces those two
arguments. What a module mounts is wrapped where the host must step in: the orchestrator (its task can be
cancelled), the context (every message is a row), providers (every model call is counted and its error seen),
tools (every run is told).
"""

import asyncio
import contextvars
import copy
import inspect
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from amplifier_core import HookResult, ToolResult
from amplifier_core import events as kernel_events

from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.kernel.tap import Recalled, Tap

STREAM_EVENTS = frozenset({"llm:stream_block_start", "llm:stream_block_delta", "llm:stream_block_end"})
TOOL_PRE = str(kernel_events.TOOL_PRE)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
PROMPT_COMPLETE = str(kernel_events.PROMPT_COMPLETE)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
OBSERVED_EVENTS: frozenset[str] = STREAM_EVENTS | {
    "llm:stream_aborted",
    "content_block:delta",
    "context:compaction",
    "orchestrator:complete",
    "orchestrator:goal_progress",
}

_MODEL_CALL = ("llm:request", "llm:response", "provider:retry", "provider:throttle", "provider:error")
CORRELATED: Mapping[str, tuple[str, ...]] = dict.fromkeys(_MODEL_CALL, _MODEL_CALL)

_CONTINUE = HookResult(action="continue")
_call_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("tool_call_id", default=None)
current_call: contextvars.ContextVar["CallInHand | None"] = contextvars.ContextVar("current_call", default=None)
"""The tool call that the running task is about: what a hook or a tool asks a person about."""

_asking: contextvars.ContextVar[bool] = contextvars.ContextVar("asking_model", default=False)
_beside: contextvars.ContextVar[bool] = contextvars.ContextVar("beside_the_turn", default=False)
"""Set for hooks that hear that the answer is out, and for the tasks they start, which may well outlive the turn."""

CurrentTap = Callable[[], Tap | None]

PREVIEW = 200
"""How much of an answer the event of its completion shows, as loops do it that tell it themselves."""

DEPTH = 64
"""How deep a nest is kept as one when it cannot be kept whole."""


@dataclass(frozen=True, slots=True)
class CallInHand:
    """A tool call on its way. `arguments` are exactly what the tool is given; None while only the call is known."""

    call_id: str
    tool: str
    arguments: Any


def _take_in_hand(call_id: Any, tool: Any, arguments: Any) -> None:
    """The next tool that runs in this task answers this call."""
    before = current_call.get()
    if call_id is None:
        return
    _call_id.set(str(call_id))
    if arguments is None and before is not None and before.call_id == call_id:
        return  # known already, and with its arguments
    current_call.set(CallInHand(str(call_id), str(tool), arguments))


class Proxy:
    """Hands every attribute on to the object it stands for, and says that it is one.

    Where the host steps in, a module may do so too: what it puts in place of such a method stays on the proxy, so
    that the method it calls in turn is the host's, once.
    """

    def __init__(self, inner: Any) -> None:
        object.__setattr__(self, "_inner", inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_inner"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)

    def __delattr__(self, name: str) -> None:
        if hasattr(type(self), name):
            object.__delattr__(self, name)
        else:
            delattr(self._inner, name)

    def __copy__(self) -> "Proxy":
        """A stand-in for a copy. Modules copy a provider to give the copy another coordinator."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _inner=copy.copy(self._inner))
        return twin

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody sets it
        return self._inner.__class__


class HooksProxy(Proxy):
    """The hook registry: events the host observes are seen here, before anybody can change them.

    `completed` says whether somebody has told the end of the running turn.
    """

    completed = False

    def __init__(self, inner: Any, tap: CurrentTap) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_tap", tap)

    async def emit(self, event: str, data: dict[str, Any]) -> Any:
        """Dispatch an event; when nobody listens, answer as the kernel would without going through it.

        Asking who listens costs 0.2 microseconds, a dispatch that nobody hears fifty to two hundred and fifty.
        """
        if event == TOOL_PRE:
            _take_in_hand(data.get("tool_call_id"), data.get("tool_name"), data.get("tool_input"))
        elif event in OBSERVED_EVENTS and not _beside.get():
            tap: Tap | None = self._tap()
            if tap is not None:
                tap.on_event(event, data)
        if event != PROMPT_COMPLETE:
            return await self._dispatch(event, data)
        self.completed = True
        beside = _beside.set(True)
        try:
            return await self._dispatch(event, data)
        finally:
            _beside.reset(beside)

    async def _dispatch(self, event: str, data: dict[str, Any]) -> Any:
        # The kernel gives the events of one model call a common id when it dispatches the first of them.
        if any(self._inner.list_handlers(name).get(name) for name in CORRELATED.get(event, (event,))):
            return await self._inner.emit(event, data)
        return _CONTINUE if event in STREAM_EVENTS else HookResult(action="continue", data=data)


class CancellationProxy(Proxy):
    """The cancellation token: the call a loop registers is the call the next tool runs for."""

    def register_tool_start(self, tool_call_id: str, tool_name: str) -> None:
        """Note the call, then register it."""
        _take_in_hand(tool_call_id, tool_name, None)
        self._inner.register_tool_start(tool_call_id, tool_name)


class CoordinatorProxy(Proxy):
    """The coordinator as modules see it."""

    def __init__(self, inner: Any, tap: CurrentTap) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_tap", tap)
        object.__setattr__(self, "hooks", HooksProxy(inner.hooks, tap))
        object.__setattr__(self, "cancellation", CancellationProxy(inner.cancellation))

    async def mount(self, mount_point: str, module: Any, name: str | None = None) -> None:
        """Mount a module, wrapped where the host steps in."""
        await self._inner.mount(
            mount_point, self._wrapped(mount_point, module), name=name or getattr(module, "name", None)
        )

    def _wrapped(self, mount_point: str, module: Any) -> Any:
        if is_proxy(module):
            return module
        match mount_point:
            case "orchestrator":
                return OrchestratorProxy(module, self)
            case "context":
                return ContextProxy(module, self._tap)
            case "providers":
                return ProviderProxy(module, self._tap)
            case "tools":
                return ToolProxy(module, self._tap)
            case _:
                return module


class OrchestratorProxy(Proxy):
    """The loop. The task that runs it is noted: cancelling whoever awaits the kernel does not stop it.

    While `resuming` is set the kernel's call to run a turn goes on with the one that the history ends with.
    """

    resuming = False

    def __init__(self, inner: Any, coordinator: CoordinatorProxy) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_coordinator", coordinator)
        object.__setattr__(self, "task", None)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the loop with the proxies in place of the kernel's objects."""
        _beside.set(False)  # a turn that a hook began, of an agent say, is a turn like any other
        object.__setattr__(self, "task", asyncio.current_task())
        if "hooks" in kwargs:
            kwargs["hooks"] = self._coordinator.hooks
        if "coordinator" in kwargs:
            kwargs["coordinator"] = self._coordinator
        hooks: HooksProxy = self._coordinator.hooks
        hooks.completed = False
        run = self._inner.resume if self.resuming else self._inner.execute
        try:
            answer = await run(*args, **kwargs)
        finally:
            object.__setattr__(self, "task", None)
        if not isinstance(answer, str):
            return answer
        if self._coordinator._tap() is not None and not hooks.completed:
            # A turn of ours: modules wait for this event, and not every loop tells it.
            await hooks.emit(PROMPT_COMPLETE, {"response_preview": answer[:PREVIEW], "length": len(answer)})
        # The engine takes no halves of characters; a model may give some all the same.
        return made_storable(answer)

    @property
    def can_resume(self) -> bool:
        """Whether the loop goes on with a turn: it has a `resume` that takes what `execute` takes."""
        resume = getattr(self._inner, "resume", None)
        if not inspect.iscoroutinefunction(resume):
            return False
        taken = inspect.signature(resume).parameters
        return any(kind.kind is inspect.Parameter.VAR_KEYWORD for kind in taken.values()) or taken.keys() >= _TURN


_TURN = {"prompt", "context", "providers", "tools", "hooks"}


class ContextProxy(Proxy):
    """The recording context: a message is written before the loop can build on it."""

    def __init__(self, inner: Any, tap: CurrentTap) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_tap", tap)

    async def add_message(self, message: dict[str, Any]) -> None:
        """Record a message, then add it, or what the host puts in its place. Between turns nothing is recorded."""
        tap: Tap | None = self._tap()
        instead = await tap.message_added(json_copy(message)) if tap is not None else None
        await self._inner.add_message(message if instead is None else instead)


class ProviderProxy(Proxy):
    """A provider: calls are counted, usage is read off the answer, errors are seen as they are."""

    def __init__(self, inner: Any, tap: CurrentTap) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_tap", tap)

    async def complete(self, request: Any, **kwargs: Any) -> Any:
        """Ask the model. A provider that asks another one, as a fallback does, makes one call of it.

        What a hook asks once the answer is out, for a title say, is no call of the turn: it may end after it.
        """
        tap: Tap | None = self._tap()
        if tap is None or _asking.get() or _beside.get():
            return await self._inner.complete(request, **kwargs)
        await tap.before_model_call()
        asking = _asking.set(True)
        try:
            response = await self._inner.complete(request, **kwargs)
        except asyncio.CancelledError:
            tap.model_left()
            raise
        except Exception as error:
            tap.model_failed(error)
            raise
        finally:
            _asking.reset(asking)
        tap.model_answered(response)
        return response


class ToolProxy(Proxy):
    """A tool: its runs are told, with the id of the call they answer; a call that was made before is not made again."""

    def __init__(self, inner: Any, tap: CurrentTap) -> None:
        super().__init__(inner)
        object.__setattr__(self, "_tap", tap)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the tool, or give what it gave before."""
        tap: Tap | None = self._tap()
        if tap is None:
            return await self._inner.execute(*args, **kwargs)
        call_id = _call_id.get() or f"call_{uuid.uuid4().hex}"
        _call_id.set(None)  # what this tool runs in turn is another call
        tool = str(getattr(self._inner, "name", "tool"))
        recalled = await tap.recall(call_id, tool)
        if recalled is not None:
            return _given_again(recalled)
        arguments = args[0] if args else kwargs.get("input", kwargs)
        in_hand = current_call.set(CallInHand(call_id, tool, arguments))
        try:
            return await self._run(tap, call_id, tool, arguments, args, kwargs)
        finally:
            current_call.reset(in_hand)

    async def _run(
        self, tap: Tap, call_id: str, tool: str, arguments: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        await tap.tool_started(call_id, tool, json_copy(arguments), repeatable=_repeatable(self._inner))
        try:
            result = await self._inner.execute(*args, **kwargs)
        except asyncio.CancelledError:
            tap.tool_left(call_id, "It was given up before it had a result.")
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raised = {"raised": made_storable(str(error) or type(error).__name__)}
            await tap.tool_ended(call_id, tool, ok=False, output=said, result=raised)
            raise
        ok = bool(getattr(result, "success", True))
        await tap.tool_ended(call_id, tool, ok=ok, output=_output_of(result), result={"result": _kept(result)})
        return result


class ToolRaised(Exception):
    """What a tool raised in an earlier attempt of the turn, with its words."""


def _repeatable(tool: Any) -> str | None:
    """Why a call of the tool may be made twice, as the tool says. None: it does not say so."""
    return next((name for name in ("read_only", "idempotent") if getattr(tool, name, False) is True), None)


def _kept(result: Any) -> Any:
    """The JSON of a tool's result."""
    return json_copy(result) if isinstance(result, ToolResult) else {"success": True, "output": json_copy(result)}


def _given_again(recalled: Recalled) -> Any:
    if "raised" in recalled.result:
        raise ToolRaised(recalled.result["raised"])
    return ToolResult(**recalled.result["result"])


def is_proxy(value: object) -> bool:
    """Whether the host stands in front of `value` already."""
    return isinstance(value, Proxy)


def json_copy(value: Any) -> Any:
    """A copy of nothing but JSON that every database can hold: what is not becomes its text."""
    plain = _plain(value)
    try:
        return orjson.loads(orjson.dumps(plain, default=str, option=orjson.OPT_NON_STR_KEYS))
    except (TypeError, ValueError, RecursionError):  # half a character, a number of more than 64 bits, a deep nest
        return _repaired(plain, DEPTH)


def _repaired(value: Any, depth: int) -> Any:
    match value:
        case None | bool() | float():
            return None if isinstance(value, float) and not math.isfinite(value) else value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case str():
            return made_storable(value)
        case dict() if depth:
            return {made_storable(str(key)): _repaired(_plain(item), depth - 1) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list() | tuple() if depth:
            return [_repaired(_plain(item), depth - 1) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return made_storable(str(value))


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else value


def _output_of(result: Any) -> str:
    serialized = getattr(result, "get_serialized_output", None)
    if callable(serialized):
        try:
            text = serialized()
        except (TypeError, ValueError):  # the tool ran all the same
            return str(getattr(result, "output", result))
        error = getattr(result, "error", None)
        if not text and isinstance(error, dict):
            return str(error.get("message", ""))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return str(text)
    return str(result)
