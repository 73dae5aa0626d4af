"""`tool-task`: gives a task to an agent of the bundle, which works on it in a session of its own.

The agent sees nothing of this conversation but its instruction. Unless options say otherwise it has all tools of its
parent but this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from amplifier_app_api.modules.kernel import ToolResult
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.agents import (
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
    session_of,
    span,
    succeeded,
)
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-task"

SPAWNED = "task:agent_spawned"
RESUMED = "task:agent_resumed"
COMPLETED = "task:agent_completed"

_ABOUT = (
    "Give a task to an agent. It works on its own, in a session of its own, and answers once. It knows nothing of this "
    "conversation: put everything it needs into the instruction, and say what it shall report. Independent tasks can "
    "be given to several agents at once. To go on with an agent, give the session_id of its answer."
)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """`timeout` is in seconds; None for no limit of this tool's own."""

    tools: dict[str, list[str]]
    hooks: dict[str, list[str]]
    timeout: float | None

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> TaskOptions:
        options = Options(MODULE_ID, values)
        return cls(
            tools=inheritance(options, "tools", [MODULE_ID]),
            hooks=inheritance(options, "hooks"),
            timeout=options.number("timeout", 0, minimum=0.1) if options.has("timeout") else None,
        )


class Task(Tool):
    name = "task"
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "agent": {"type": "string", "description": "Which agent; needed for a new task"},
            "instruction": {"type": "string", "description": "What to do, with everything the agent has to know"},
            "session_id": {"type": "string", "description": "From an earlier answer: go on with that agent"},
        },
        "required": ["instruction"],
    }
    read_only = False
    idempotent = False

    def __init__(self, coordinator: Any, options: TaskOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._roster = Roster(coordinator)
        self.description = f"{_ABOUT}\n\nAgents:\n{self._roster.told() or '(this session has none)'}"

    async def _run(self, given: Arguments) -> ToolResult:
        instruction = instruction_of(given)
        session_id = session_of(given)
        if session_id is not None:
            return await self._resume(session_id, instruction)
        named = name_of(given)
        agent = self._roster.find(named)
        if agent is None:
            raise Refused(f"There is no agent {named!r}. Agents: {self._roster.names()}")
        return await self._spawn(agent, instruction)

    async def _spawn(self, agent: str, instruction: str) -> ToolResult:
        spawn = capability(self._coordinator, SPAWN_CAPABILITY)
        child = f"{self._coordinator.session_id}-{span()}_{in_ids(agent)}"
        facts = {"agent": agent, "sub_session_id": child, "parent_session_id": self._coordinator.session_id}
        await self._coordinator.hooks.emit(SPAWNED, facts)
        ask = partial(
            spawn,
            agent_name=agent,
            instruction=instruction,
            parent_session=self._coordinator.session,
            agent_configs=self._roster.configs,
            sub_session_id=child,
            tool_inheritance=self._options.tools,
            hook_inheritance=self._options.hooks,
            orchestrator_config=loop_options(self._coordinator),
            provider_preferences=None,
        )
        return await self._completed(ask, facts, f"The agent {agent!r}")

    async def _resume(self, session_id: str, instruction: str) -> ToolResult:
        resume = capability(self._coordinator, RESUME_CAPABILITY)
        facts = {"sub_session_id": session_id, "parent_session_id": self._coordinator.session_id}
        await self._coordinator.hooks.emit(RESUMED, facts)
        ask = partial(resume, sub_session_id=session_id, instruction=instruction)
        return await self._completed(ask, facts, f"The agent of {session_id!r}")

    async def _completed(self, ask: Callable[[], Awaitable[Outcome]], facts: dict[str, Any], who: str) -> ToolResult:
        try:
            outcome = await asked(ask, seconds=self._options.timeout, who=who)
        except (Refused, asyncio.CancelledError):
            await self._coordinator.hooks.emit(COMPLETED, {**facts, "success": False})
            raise
        success = succeeded(outcome)
        await self._coordinator.hooks.emit(COMPLETED, {**facts, "success": success})
        session_id = outcome.get("session_id") or facts["sub_session_id"]
        output = {"response": outcome.get("output") or "", "session_id": session_id}
        if success:
            return ToolResult(output=output)
        told = f"{who} ended with status {outcome['status']!r}"
        return ToolResult(success=False, output={**output, "status": outcome["status"]}, error={"message": told})


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    offer_events(coordinator, MODULE_ID, SPAWNED, RESUMED, COMPLETED)
    tool = Task(coordinator, TaskOptions.read(config))
    await coordinator.mount("tools", tool, name=tool.name)
