"""`tool-delegate`: gives a task to an agent, with as much of this conversation as it needs.

Besides the agents of the bundle it takes `self`, a child like this session, and `namespace:path`, a bundle that the
host resolves. A child that is like its parent may delegate to itself again, so that way has a limit of its own; a
child does not inherit this tool unless its own definition names it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from amplifier_app_api.modules.kernel import ToolResult
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.agents import (
    DEPTH_CAPABILITY,
    RESUME_CAPABILITY,
    SPAWN_CAPABILITY,
    Outcome,
    Roster,
    asked,
    capability,
    in_ids,
    inheritance,
    instruction_of,
    loop_options,
    name_of,
    offer_events,
    preferences_of,
    session_of,
    span,
    succeeded,
)
from amplifier_app_api.modules.tools.delegate_context import DEPTHS, SCOPES, Depth, Scope, inherited, with_context
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-delegate"

SPAWNED = "delegate:agent_spawned"
RESUMED = "delegate:agent_resumed"
COMPLETED = "delegate:agent_completed"
CANCELLED = "delegate:agent_cancelled"
ERROR = "delegate:error"

SELF = "self"
DEFAULT_TURNS = 5
_CHILD = re.compile(r"[0-9a-f]{16}-([0-9a-f]{16})_")
_NO_SPAN = "0" * 16

_ABOUT = (
    "Delegate a task to an agent, which works on it in a session of its own and answers once. What it reads and tries "
    "does not fill this conversation; only its answer does. Say in the instruction what is to be done and what to "
    "report. Independent tasks can be delegated at once."
)
_SELF = 'agent "self" is a copy of you, for work that needs no specialist.'
_BUNDLES = 'agent "namespace:path" is any bundle, by its reference.'
_CONTEXT = (
    "context_depth says how much of this conversation the agent is told (none, recent, all), context_scope of what "
    "(conversation, agents: also answers of agents, full: also answers of tools)."
)
_RESUME = "session_id, from an earlier answer, goes on with that agent."
_MODELS = "provider_preferences names models to use, the best first; a model may be a pattern such as name-*."


@dataclass(frozen=True, slots=True)
class DelegateOptions:
    """`timeout` is in seconds; None for no limit of this tool's own."""

    self_delegation: bool
    max_depth: int
    resume: bool
    context: bool
    max_turns: int
    models: bool
    tools: dict[str, list[str]]
    hooks: dict[str, list[str]]
    timeout: float | None

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> DelegateOptions:
        itself = _section(values, "features", "self_delegation")
        context = _section(values, "features", "context_inheritance")
        settings = _section(values, "settings")
        return cls(
            self_delegation=itself.flag("enabled", True),
            max_depth=itself.integer("max_depth", 3, minimum=0),
            resume=_section(values, "features", "session_resume").flag("enabled", True),
            context=context.flag("enabled", True),
            max_turns=context.integer("max_turns", 10, minimum=1),
            models=_section(values, "features", "provider_selection").flag("enabled", True),
            tools=inheritance(settings, "tools", [MODULE_ID]),
            hooks=inheritance(settings, "hooks"),
            timeout=settings.number("timeout", 0, minimum=0.1) if settings.has("timeout") else None,
        )


def _section(values: Mapping[str, Any] | None, *names: str) -> Options:
    """The options below `names`; none when nothing is there."""
    found: Any = values or {}
    for depth, name in enumerate(names, 1):
        found = cast("Mapping[str, Any]", found).get(name) or {}
        if not isinstance(found, Mapping):
            raise Options(MODULE_ID, None).problem(".".join(names[:depth]), "must be a mapping")
    return Options(MODULE_ID, cast("Mapping[str, Any]", found))


class Delegate(Tool):
    name = "delegate"
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "agent": {"type": "string", "description": "Which agent; needed for a new task"},
            "instruction": {"type": "string", "description": "What to do and what to report"},
            "session_id": {"type": "string", "description": "From an earlier answer: go on with that agent"},
            "context_depth": {"type": "string", "enum": list(DEPTHS), "description": "recent when left out"},
            "context_turns": {"type": "integer", "description": f"How many turns are recent; {DEFAULT_TURNS}"},
            "context_scope": {"type": "string", "enum": list(SCOPES), "description": "conversation when left out"},
            "provider_preferences": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"provider": {"type": "string"}, "model": {"type": "string"}},
                    "required": ["provider", "model"],
                },
            },
        },
        "required": ["instruction"],
    }
    read_only = False
    idempotent = False

    def __init__(self, coordinator: Any, options: DelegateOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._roster = Roster(coordinator)
        parts = (
            (_ABOUT, True),
            (_SELF, options.self_delegation),
            (_BUNDLES, True),
            (_CONTEXT, options.context),
            (_RESUME, options.resume),
            (_MODELS, options.models),
        )
        about = "\n".join(sentence for sentence, told in parts if told)
        self.description = f"{about}\n\nAgents:\n{self._roster.told() or '(this session has none of its own)'}"

    async def _run(self, given: Arguments) -> ToolResult:
        instruction = instruction_of(given)
        session_id = session_of(given)
        if session_id is not None:
            return await self._resume(session_id, instruction)
        agent = self._checked(name_of(given))
        depth = cast("Depth", given.choice("context_depth", DEPTHS, "recent"))
        scope = cast("Scope", given.choice("context_scope", SCOPES, "conversation"))
        turns = min(given.count("context_turns") or DEFAULT_TURNS, self._options.max_turns)
        preferences = preferences_of(given) if self._options.models else None
        spawn = capability(self._coordinator, SPAWN_CAPABILITY)
        dispatch = self._dispatch()
        child = self._child_id(agent)
        facts = {
            "agent": agent,
            "sub_session_id": child,
            "parent_session_id": self._coordinator.session_id,
            **dispatch,
        }
        await self._coordinator.hooks.emit(
            SPAWNED,
            {**facts, "context_depth": depth, "context_scope": scope, "provider_preferences": preferences},
        )
        context = await self._context(depth, turns, scope)
        ask = partial(
            spawn,
            agent_name=agent,
            instruction=with_context(instruction, context),
            parent_session=self._coordinator.session,
            agent_configs=self._roster.configs,
            sub_session_id=child,
            tool_inheritance=self._options.tools,
            hook_inheritance=self._options.hooks,
            orchestrator_config=loop_options(self._coordinator),
            provider_preferences=preferences,
            self_delegation_depth=self._depth() + 1 if agent == SELF else 0,
            session_metadata={"agent_name": agent, **dispatch},
        )
        return await self._completed(ask, facts, f"The agent {agent!r}")

    def _checked(self, agent: str | None) -> str:
        if agent == SELF:
            if not self._options.self_delegation:
                raise Refused("Delegating to self is switched off here")
            if self._depth() >= self._options.max_depth:
                raise Refused(
                    f"Delegated to self {self._depth()} times already, and no further: do the task, or name an agent"
                )
            return agent
        if agent is not None and ":" in agent:
            return agent
        found = self._roster.find(agent)
        if found is None:
            others = " or self" if self._options.self_delegation else ""
            raise Refused(f"There is no agent {agent!r}. Agents: {self._roster.names()}{others}")
        return found

    def _depth(self) -> int:
        return int(self._coordinator.get_capability(DEPTH_CAPABILITY) or 0)

    def _child_id(self, agent: str) -> str:
        parent = _CHILD.match(str(self._coordinator.session_id))
        return f"{parent[1] if parent else _NO_SPAN}-{span()}_{in_ids(agent)}"

    def _dispatch(self) -> dict[str, Any]:
        """Which call this is, as loops tell that do: by the task that runs the tool."""
        running: Mapping[Any, Any] = getattr(self._coordinator, "_tool_dispatch_contexts", None) or {}
        told: Mapping[str, Any] = running.get(asyncio.current_task()) or {}
        return {key: told.get(key) for key in ("tool_call_id", "parallel_group_id")}

    async def _context(self, depth: Depth, turns: int, scope: Scope) -> str:
        context = self._coordinator.get("context")
        if depth == "none" or context is None or not self._options.context:
            return ""
        return inherited(await context.get_messages(), depth=depth, turns=turns, scope=scope)

    async def _resume(self, session_id: str, instruction: str) -> ToolResult:
        if not self._options.resume:
            raise Refused("Going on with an agent is switched off here: start a new one by naming it")
        resume = capability(self._coordinator, RESUME_CAPABILITY)
        facts = {
            "sub_session_id": session_id,
            "parent_session_id": self._coordinator.session_id,
            **self._dispatch(),
        }
        await self._coordinator.hooks.emit(RESUMED, facts)
        ask = partial(resume, sub_session_id=session_id, instruction=instruction)
        return await self._completed(ask, facts, f"The agent of {session_id!r}")

    async def _completed(self, ask: Callable[[], Awaitable[Outcome]], facts: dict[str, Any], who: str) -> ToolResult:
        hooks = self._coordinator.hooks
        try:
            outcome = await asked(ask, seconds=self._options.timeout, who=who)
        except Refused as refusal:
            await hooks.emit(ERROR, {**facts, "error": str(refusal)})
            raise
        except asyncio.CancelledError:
            await hooks.emit(CANCELLED, facts)
            raise
        success = succeeded(outcome)
        await hooks.emit(COMPLETED, {**facts, "success": success})
        output: dict[str, Any] = {
            "response": outcome.get("output") or "",
            "session_id": outcome.get("session_id") or facts["sub_session_id"],
            "status": outcome.get("status") or "success",
            "turn_count": outcome.get("turn_count") or 1,
            "metadata": outcome.get("metadata") or {},
        }
        if "agent" in facts:
            output["agent"] = facts["agent"]
        if success:
            return ToolResult(output=output)
        return ToolResult(
            success=False, output=output, error={"message": f"{who} ended with status {output['status']!r}"}
        )


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    offer_events(coordinator, MODULE_ID, SPAWNED, RESUMED, COMPLETED, CANCELLED, ERROR)
    tool = Delegate(coordinator, DelegateOptions.read(config))
    await coordinator.mount("tools", tool, name=tool.name)
