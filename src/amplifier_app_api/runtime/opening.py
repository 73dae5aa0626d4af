"""From a stored session to one on the kernel: the same path for creating, resuming, sending and streaming."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.bundles import MissingVariables, NotRunnable, PreparedBundle, Sources, VariableScope, expand
from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.bundles.variables import missing_variables
from amplifier_app_api.errors import BadGateway, ErrorItem
from amplifier_app_api.models.session import DegradedModule
from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.session import KernelSession, MountFailed, Opening
from amplifier_app_api.runtime.kernel.tap import NoticeSink
from amplifier_app_api.runtime.masking import SecretMask, secrets_in
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.prepared_cache import PreparedBundleCache

_MISSABLE = {"tools": "tool", "hooks": "hook"}


class ModuleFailed(BadGateway):
    """A module raised while it was mounted, or mounted nothing. `module` names it."""

    code = "module_failed"
    title = "A module could not be mounted"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """Everything that opening a session depends on. `variables` are those given with the session."""

    tenant_id: str
    session_id: str
    text: str
    working_dir: str
    variables: Mapping[str, str]
    messages: Sequence[dict[str, Any]] = ()
    parent_id: str | None = None
    allow_missing: bool = False


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session on the kernel, what it does without, and the mask for what it tells."""

    kernel: KernelSession
    mask: SecretMask
    degraded: tuple[DegradedModule, ...]


class SessionOpener:
    """Prepares bundles and mounts them."""

    def __init__(self, options: RuntimeOptions) -> None:
        self._options = options
        self._modules = ModuleTable()
        self._cache = PreparedBundleCache(self.sources, size=options.prepared_cache, limit=options.prepare_timeout)

    def sources(self) -> Sources:
        """Where a document's references may lead on this server."""
        return Sources(
            roots=self._options.source_roots,
            builtin_modules=frozenset(BUILTIN_MODULES),
            installed_modules=self._modules.installed(),
            environment=self._options.source_environment(),
            limits=self._options.limits,
        )

    async def prepared(self, text: str, *, tenant: str) -> PreparedBundle:
        """The prepared bundle of a text, shared by everyone who asks."""
        return await self._cache.get(text, tenant=tenant)

    async def open(self, request: OpenRequest, notices: NoticeSink) -> OpenedSession:
        """Open a session.

        What can be known before mounting is one `NotRunnable` (or `MissingVariables`) with every problem; a module
        that raises or mounts nothing is `ModuleFailed`.
        """
        prepared = await self.prepared(request.text, tenant=request.tenant_id)
        scope = VariableScope(request.variables, self._options.environment, self._options.env_allow)
        plan, absent = self._runnable_plan(prepared, scope, allow_missing=request.allow_missing)
        plan = expand(plan, scope)
        mask = SecretMask(
            {*request.variables.values(), *self._options.source_environment().values(), *secrets_in(plan)}
        )
        opening = Opening(
            session_id=request.session_id,
            plan=plan,
            activations=prepared.activations,
            working_dir=request.working_dir,
            system_prompt=prepared.system_prompt,
            file_limits=self._file_limits(request.tenant_id),
            messages=request.messages,
            parent_id=request.parent_id,
            allow_missing=request.allow_missing,
        )
        try:
            async with asyncio.timeout(self._options.prepare_timeout.total_seconds()):
                kernel = await KernelSession.open(opening, self._modules, notices)
        except TimeoutError:
            raise ModuleFailed("a module did not mount in time") from None
        except MountFailed as failed:
            raise _refusal(failed, mask) from None
        missed = (DegradedModule(module=f.module, kind=f.kind, detail=mask.text(f.detail)) for f in kernel.missing)
        return OpenedSession(kernel, mask, (*absent, *missed))

    def _file_limits(self, tenant: str) -> dict[str, list[str]]:
        workspaces = str(self._options.data_dir / "workspaces" / tenant)
        return {"writable": [workspaces], "readable": [workspaces, *map(str, self._options.source_roots)]}

    def _runnable_plan(
        self, prepared: PreparedBundle, scope: VariableScope, *, allow_missing: bool
    ) -> tuple[dict[str, Any], list[DegradedModule]]:
        plan = prepared.plan()
        missed: list[DegradedModule] = []
        problems = list(prepared.problems)
        for problem in prepared.module_problems:
            if allow_missing and problem.kind in _MISSABLE.values():
                problems.remove(problem.item)
                missed.append(DegradedModule(module=problem.module, kind=problem.kind, detail=problem.item.detail))
        for section, kind, entry in _entries(plan):
            conflict = self._conflict(prepared.activations.get(entry))
            if conflict is None:
                continue
            if allow_missing and kind in _MISSABLE.values():
                missed.append(DegradedModule(module=entry, kind=kind, detail=conflict))
            else:
                problems.append(ErrorItem(code="module_conflict", detail=conflict, pointer=f"/{section}"))
        gone = {module.module for module in missed}
        for section in _MISSABLE:
            if section in plan:
                plan[section] = [entry for entry in plan[section] if entry.get("module") not in gone]
        lacking = missing_variables(plan, scope)
        if problems:
            raise NotRunnable((*problems, *lacking))
        if lacking:
            raise MissingVariables(lacking)
        return plan, missed

    def _conflict(self, activation: Activation | None) -> str | None:
        found = None if activation is None else self._modules.conflict(activation)
        return None if found is None else str(found)

    async def close(self) -> None:
        """Wait for what is being prepared."""
        await self._cache.close()


def _entries(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Section, kind and module id of everything a plan mounts."""
    found: list[tuple[str, str, str]] = []
    session: Mapping[str, Any] = plan.get("session") or {}
    for kind in ("orchestrator", "context"):
        spec: Any = session.get(kind)
        module: Any = spec.get("module") if isinstance(spec, dict) else spec  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(module, str):
            found.append((f"session/{kind}", kind, module))
    for section, kind in (("providers", "provider"), ("tools", "tool"), ("hooks", "hook")):
        found.extend((section, kind, entry["module"]) for entry in plan.get(section) or () if "module" in entry)
    return found


def _refusal(failed: MountFailed, mask: SecretMask) -> NotRunnable | ModuleFailed:
    items = [
        ErrorItem(
            code="module_conflict" if failure.conflict else "module_failed",
            detail=f"{failure.module}: {mask.text(failure.detail)}",
        )
        for failure in failed.failures
    ]
    if any(failure.conflict for failure in failed.failures):
        return NotRunnable(tuple(items))
    first = failed.failures[0]
    return ModuleFailed(
        f"the module {first.module} could not be mounted: {mask.text(first.detail)}",
        items=items,
        facts={"module": first.module},
    )
