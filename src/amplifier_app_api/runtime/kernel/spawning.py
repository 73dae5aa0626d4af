"""Child sessions, as the bundle library has them: the parent's bundle composed with a child's, or the child alone.

A child is a kernel session of its own with the parent's id and the parent's approval and display. It runs one task
and is closed. What an override of the orchestrator says is put where the kernel reads it, into the options of
`session.orchestrator`.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from amplifier_core import AmplifierSession, HookResult

from amplifier_app_api.bundles import Bundle, NotRunnable, PreparedBundle, Sources, VariableScope, expand
from amplifier_app_api.bundles.activation import Activation, activate
from amplifier_app_api.bundles.compose import compose, deep_merge
from amplifier_app_api.bundles.delegation import child_session_id
from amplifier_app_api.bundles.dependencies import Installer
from amplifier_app_api.bundles.mentions import expand_mentions
from amplifier_app_api.bundles.mount_plan import kernel_plan
from amplifier_app_api.bundles.preferences import Preference, mounted_names, prefer_existing
from amplifier_app_api.bundles.prompt import SystemPrompt
from amplifier_app_api.runtime.kernel.dispose import dispose
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.session import CLEANUP_LIMIT_SECONDS, KernelSession, Opening

_COMPLETE = "orchestrator:complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a child needs of the process it runs in: where modules come from, and what variables stand for."""

    table: ModuleTable
    sources: Sources
    scope: VariableScope
    file_limits: Mapping[str, Sequence[str]]
    installer: Installer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """A task for a child session.

    With a `session_id` of its own a child is one that was there before, so it is given no `messages` of its parent.
    `depth` counts how often a session has delegated to itself. Without a `working_dir` the parent's is used.
    """

    child: Bundle
    instruction: str
    is_composed: bool = True
    session_id: str | None = None
    messages: Sequence[dict[str, Any]] = ()
    orchestrator_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    preferences: Sequence[Preference] = ()
    depth: int = 0
    working_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """What became of the task. `status`, `turn_count` and `metadata` are what the child's loop said at its end."""

    output: str
    session_id: str
    status: str = "success"
    turn_count: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def spawn(request: SpawnRequest, prepared: PreparedBundle, parent: KernelSession | None, host: Host) -> Spawned:
    """Run a task in a child of `parent`, or of nobody, from the parent's bundle.

    `NotRunnable` when the child's bundle cannot run, `MountFailed` when a module cannot be mounted, `RuntimeError`
    when the turn fails. The child is closed in any case.
    """
    bundle = compose(prepared.bundle, request.child) if request.is_composed else request.child
    active, problems = await asyncio.to_thread(activate, bundle, host.sources, host.installer)
    if problems:
        raise NotRunnable(tuple(problem.item for problem in problems))
    working_dir = request.working_dir or _working_dir(parent, prepared.bundle)
    prompt = SystemPrompt.of(bundle, prepared.prompt.scope.folders, prepared.prompt.scope.max_file_bytes)
    task = await asyncio.to_thread(expand_mentions, request.instruction, prompt.scope_in(Path(working_dir)))
    plan = await _child_plan(bundle, request, parent)
    opening = _opening(request, expand(plan, host.scope), active, prompt, working_dir, parent, host)
    child = await ChildSession.open_child(opening, host.table, parent, depth=request.depth)
    try:
        ending = _listen_for_the_end(child)
        output = await child.execute(task.text)
    finally:
        await child.close()
    return Spawned(output=output, session_id=opening.session_id, **ending)


class ChildSession(KernelSession):
    """A session that shares its parent's approval and display, and knows how deep a delegation it is."""

    @classmethod
    async def open_child(
        cls, opening: Opening, table: ModuleTable, parent: KernelSession | None, *, depth: int
    ) -> KernelSession:
        """Mount everything of the child's plan; `MountFailed` as for any session."""
        above = parent.session.coordinator if parent is not None else None
        session: Any = AmplifierSession(
            opening.plan,
            session_id=opening.session_id,
            parent_id=opening.parent_id,
            approval_system=above.approval_system if above is not None else None,
            display_system=above.display_system if above is not None else None,
        )
        if depth > 0:
            session.coordinator.register_capability("self_delegation_depth", depth)
        try:
            return await cls._mounted(session, opening, table)
        except BaseException:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLEANUP_LIMIT_SECONDS):
                    await session.cleanup()
            dispose(session)
            raise


def _opening(
    request: SpawnRequest,
    plan: dict[str, Any],
    active: Mapping[str, Activation],
    prompt: SystemPrompt,
    working_dir: str,
    parent: KernelSession | None,
    host: Host,
) -> Opening:
    parent_id: str | None = parent.session.session_id if parent is not None else None
    return Opening(
        session_id=request.session_id or child_session_id(request.child.name, parent_session_id=parent_id or ""),
        parent_id=parent_id,
        plan=plan,
        activations=active,
        working_dir=working_dir,
        prompt=partial(prompt.build, Path(working_dir)),
        file_limits=host.file_limits,
        messages=() if request.session_id else request.messages,
    )


def _working_dir(parent: KernelSession | None, bundle: Bundle) -> str:
    inherited: str | None = None
    if parent is not None:
        inherited = parent.session.coordinator.get_capability("session.working_dir")
    return inherited or str(bundle.folder or Path.cwd())


async def _child_plan(bundle: Bundle, request: SpawnRequest, parent: KernelSession | None) -> dict[str, Any]:
    plan = kernel_plan(bundle)
    if request.orchestrator_options:
        plan = with_orchestrator_options(plan, request.orchestrator_options)
    if not request.preferences:
        return plan

    async def models(entry: Mapping[str, Any]) -> list[str]:
        return await models_of(parent, entry) if parent is not None else []

    return await prefer_existing(plan, request.preferences, models)


def with_orchestrator_options(plan: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with options for its orchestrator, whichever way the orchestrator is written."""
    session: Mapping[str, Any] = plan.get("session") or {}
    written: Any = session.get("orchestrator")
    entry: dict[str, Any] = (
        dict(written)  # pyright: ignore[reportUnknownArgumentType] - a plan is untyped data
        if isinstance(written, Mapping)
        else {"module": written, "source": session.get("orchestrator_source")}
    )
    entry["config"] = deep_merge(entry.get("config") or {}, options)
    return {**plan, "session": {**session, "orchestrator": entry}}


async def models_of(parent: KernelSession, entry: Mapping[str, Any]) -> list[str]:
    """The ids of the models that the parent's provider of this entry has."""
    mounted: Mapping[str, Any] = parent.session.coordinator.get("providers") or {}
    provider = next((mounted[name] for name in mounted_names(entry) if name in mounted), None)
    listed: Sequence[Any] = await provider.list_models() if provider is not None else ()
    return [model if isinstance(model, str) else str(model.id) for model in listed]


def _listen_for_the_end(child: KernelSession) -> dict[str, Any]:
    """What the child's loop says when it is done, filled in while it runs."""
    ending: dict[str, Any] = {}

    async def on_complete(event: str, data: Mapping[str, Any]) -> HookResult:
        ending.update({key: data[key] for key in ("status", "turn_count", "metadata") if key in data})
        return HookResult(action="continue")

    child.session.coordinator.hooks.register(_COMPLETE, on_complete, name="host:child-complete")
    return ending
