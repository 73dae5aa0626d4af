"""From a stored session to one on the kernel: the same path for creating, resuming, sending and streaming."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles import (
    NotRunnable,
    PreparedBundle,
    Sources,
    Unresolved,
    VariableScope,
    expand,
)
from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.bundles.installer import UvInstaller
from amplifier_app_api.bundles.prepare import activate_further
from amplifier_app_api.bundles.sources import FetchLimits, Hold, SourceFetcher, SourcePolicy
from amplifier_app_api.bundles.values import is_mapping
from amplifier_app_api.bundles.variables import missing_variables
from amplifier_app_api.errors import BadGateway, ErrorItem
from amplifier_app_api.models.session import DegradedModule
from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.observability.redaction import hiding
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.session import KernelSession, MountFailed, Opening
from amplifier_app_api.runtime.kernel.spawning import with_orchestrator_options
from amplifier_app_api.runtime.kernel.tap import NoticeSink
from amplifier_app_api.runtime.lineage import Lineage
from amplifier_app_api.runtime.masking import Redactor, SecretMask, secret_variables, secrets_in
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.prepared_cache import PreparedBundleCache
from amplifier_app_api.runtime.workspace import log_folder

NamesOf = Callable[[str], Awaitable[Mapping[str, str]]]
"""From a tenant to the bundle names it registered, with the URIs they stand for."""

_MISSABLE = {"tools": "tool", "hooks": "hook"}
_ROOT = Lineage()


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
    pins: Mapping[str, str] = field(default_factory=dict[str, str])
    """What each remote source was when the session began: it is opened from the same."""
    lineage: Lineage = _ROOT
    """The delegations that lead to the session."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What modules may ask the session's coordinator for, besides what every session has."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session on the kernel, what it does without, and the mask for what it tells.

    `prepared` and `lineage` are what it was opened from: while it is kept, so are the fetched sources. `pins` is what
    the remote ones were.
    """

    kernel: KernelSession
    mask: SecretMask
    degraded: tuple[DegradedModule, ...]
    prepared: PreparedBundle
    lineage: Lineage
    pins: Mapping[str, str]


async def no_names(tenant: str) -> Mapping[str, str]:
    """Where nobody registers names there are only those of built-in bundles."""
    return {}


class SessionOpener:
    """Prepares bundles and mounts them. `names_of` tells which names the documents of a tenant may include."""

    def __init__(self, options: RuntimeOptions, *, names_of: NamesOf = no_names) -> None:
        self._options = options
        self.names_of = names_of
        self.modules = ModuleTable()
        self.installer = (
            UvInstaller(options.data_dir, environment=options.environment) if options.install_dependencies else None
        )
        policy = SourcePolicy.of(
            options.source_allow, roots=options.source_roots, private_addresses=options.private_addresses
        )
        self._fetcher = SourceFetcher(
            options.data_dir / "sources", policy, FetchLimits(cache_bytes=options.source_cache_bytes)
        )
        self._loaded_from: dict[Path, PreparedBundle] = {}
        self._cache = PreparedBundleCache(
            self.sources,
            size=options.prepared_cache,
            limit=options.prepare_timeout,
            refresh=options.source_refresh,
            installer=self.installer,
        )

    def sources(self, names: Mapping[str, str], hold: Hold | None = None) -> Sources:
        """Where a document's references may lead on this server, for a tenant with these names.

        What is fetched by them stays until `hold` is closed, without one until the opener is. All of it together may
        take as long as one preparation from now.
        """
        deadline = time.monotonic() + self._options.prepare_timeout.total_seconds()
        return Sources(
            names=names,
            roots=self._options.source_roots,
            builtin_modules=frozenset(BUILTIN_MODULES),
            installed_modules=self.modules.installed(),
            environment=self._options.source_environment(),
            limits=self._options.limits,
            fetch=partial(self._fetcher.fetch, deadline=deadline, hold=hold),
        )

    async def sources_of(self, tenant: str, pins: Mapping[str, str]) -> Sources:
        """`sources` for what a session asks for while it runs: with the tenant's names, and what it is pinned to."""
        return replace(self.sources(await self.names_of(tenant)), pins=pins)

    async def prepared(
        self, text: str, *, tenant: str, pins: Mapping[str, str] | None = None, installs: bool = True
    ) -> PreparedBundle:
        """The prepared bundle of a text, shared by everyone who asks for it with the same `pins`.

        Without `installs` asking changes nothing: what modules depend on is not installed.
        """
        names = await self.names_of(tenant)
        return await self._cache.get(text, tenant=tenant, names=names, pins=pins, installs=installs)

    def forget(self, tenant: str) -> None:
        """Prepare the bundles of a tenant anew when they are next asked for."""
        self._cache.forget(tenant)

    async def open(self, request: OpenRequest, notices: NoticeSink) -> OpenedSession:
        """Open a session.

        What can be known before mounting is one `NotRunnable` (or `MissingVariables`) with every problem; a module
        that raises or mounts nothing is `ModuleFailed`.
        """
        prepared = await self.prepared(request.text, tenant=request.tenant_id, pins=request.pins)
        scope = self.scope(request.variables)
        plan, activations, further = await self._plan_of(prepared, request)
        plan, absent = await asyncio.to_thread(
            self._runnable_plan, prepared, plan, activations, scope, allow_missing=request.allow_missing
        )
        mask = SecretMask(
            {*secret_variables(request.variables), *self._options.source_environment().values(), *secrets_in(plan)}
        )
        prompt = request.lineage.prompt(prepared.prompt)
        working_dir = Path(request.working_dir)
        opening = Opening(
            session_id=request.session_id,
            plan=plan,
            activations=activations,
            working_dir=request.working_dir,
            prompt=partial(prompt.build, working_dir),
            mentions=prompt.scope_in(working_dir) if prompt.instruction or prompt.context else None,
            file_limits=self._file_limits(request.tenant_id),
            messages=request.messages,
            parent_id=request.parent_id,
            allow_missing=request.allow_missing,
            capabilities={**self._host_capabilities(request.tenant_id), **request.capabilities},
        )
        hidden = hiding.set(mask.text)
        try:
            async with asyncio.timeout(self._options.prepare_timeout.total_seconds()):
                kernel = await KernelSession.open(opening, self.modules, notices)
        except TimeoutError:
            raise ModuleFailed("a module did not mount in time") from None
        except MountFailed as failed:
            raise refusal_of(failed, mask) from None
        finally:
            hiding.reset(hidden)
            self.keep_loaded_sources(prepared)
        mask = mask.with_redactor(await _redactor_of(kernel))
        missed = (DegradedModule(module=f.module, kind=f.kind, detail=mask.text(f.detail)) for f in kernel.missing)
        pins = {**prepared.pins(), **further}
        return OpenedSession(kernel, mask, (*absent, *missed), prepared, request.lineage, pins)

    def scope(self, variables: Mapping[str, str]) -> VariableScope:
        """Where the variables of a session get their values from; `variables` are those given with it."""
        return VariableScope(variables, self._options.environment, self._options.env_allow)

    async def _plan_of(
        self, prepared: PreparedBundle, request: OpenRequest
    ) -> tuple[dict[str, Any], Mapping[str, Activation], dict[str, str]]:
        """The plan of a session with the modules it names, and what the remote ones are that its root does not have."""
        plan = with_orchestrator_options(prepared.plan(), {})  # modules that delegate read it as a mapping
        if not request.lineage.layers:
            return plan, prepared.activations, {}
        plan = request.lineage.plan(plan)
        activations = dict(prepared.activations)
        pins: dict[str, str] = {}
        problems: list[ErrorItem] = []
        sources = await self.sources_of(request.tenant_id, request.pins)
        for section, _, module, source in _entries(plan):
            if module in activations:
                continue
            try:
                found = await activate_further(prepared, module, source, sources)
            except Unresolved as problem:
                problems.append(ErrorItem(code=problem.code, detail=problem.detail, pointer=f"/{section}"))
                continue
            activations[module] = found
            if source is not None and found.resolved is not None:
                pins[source] = found.resolved
        if problems:
            raise NotRunnable(tuple(problems))
        return plan, activations, pins

    def keep_loaded_sources(self, prepared: PreparedBundle) -> None:
        """Python may import more of a module at any time: what was loaded stays on disk as long as the process."""
        if not prepared.sources:
            return
        for activation in prepared.activations.values():
            if activation.path is not None and self.modules.has_loaded(activation):
                self._loaded_from.setdefault(activation.path, prepared)

    def _file_limits(self, tenant: str) -> dict[str, list[str]]:
        workspaces = str(self._options.data_dir / "workspaces" / tenant)
        return {"writable": [workspaces], "readable": [workspaces, *map(str, self._options.source_roots)]}

    def _host_capabilities(self, tenant: str) -> dict[str, Any]:
        options = self._options
        return {
            "host.command_limits": {
                "unsandboxed": options.commands_unsandboxed,
                "network": options.commands_network,
                "mcp_programs": options.mcp_programs,
            },
            "host.private_addresses": options.private_addresses,
            "host.log_dir": str(log_folder(options.data_dir, tenant)),
        }

    def _runnable_plan(
        self,
        prepared: PreparedBundle,
        plan: dict[str, Any],
        activations: Mapping[str, Activation],
        scope: VariableScope,
        *,
        allow_missing: bool,
    ) -> tuple[dict[str, Any], list[DegradedModule]]:
        """The plan with its variables filled in, and what is left out of it; or a refusal with every problem."""
        missed: list[DegradedModule] = []
        problems = list(prepared.problems)
        for problem in prepared.module_problems:
            if allow_missing and problem.kind in _MISSABLE.values():
                problems.remove(problem.item)
                missed.append(DegradedModule(module=problem.module, kind=problem.kind, detail=problem.item.detail))
        for section, kind, module, _ in _entries(plan):
            conflict = self._conflict(activations.get(module))
            if conflict is None:
                continue
            if allow_missing and kind in _MISSABLE.values():
                missed.append(DegradedModule(module=module, kind=kind, detail=conflict))
            else:
                problems.append(ErrorItem(code="module_conflict", detail=conflict, pointer=f"/{section}"))
        gone = {module.module for module in missed}
        for section in _MISSABLE:
            if section in plan:
                plan[section] = [entry for entry in plan[section] if entry.get("module") not in gone]
        if problems:
            raise NotRunnable((*problems, *missing_variables(plan, scope)))
        return expand(plan, scope), missed

    def _conflict(self, activation: Activation | None) -> str | None:
        found = None if activation is None else self.modules.conflict(activation)
        return None if found is None else str(found)

    async def close(self) -> None:
        """End what is being fetched and installed, and wait for what is being prepared."""
        if self.installer is not None:
            self.installer.close()
        await asyncio.to_thread(self._fetcher.close)
        await self._cache.close()


async def _redactor_of(kernel: KernelSession) -> Redactor | None:
    redactor = kernel.redactor
    if redactor is None or isinstance(redactor, Redactor):
        return redactor
    await kernel.close()
    raise ModuleFailed("what a module offers as session.redactor cannot redact")


def _entries(plan: Mapping[str, Any]) -> list[tuple[str, str, str, str | None]]:
    """Section, kind, module id and source of everything a plan mounts."""
    found: list[tuple[str, str, str, str | None]] = []
    session: Mapping[str, Any] = plan.get("session") or {}
    for kind in ("orchestrator", "context"):
        written: Any = session.get(kind)
        by_name = {"module": written, "source": session.get(f"{kind}_source")}
        spec: Mapping[str, Any] = written if is_mapping(written) else by_name
        module, source = spec.get("module"), spec.get("source")
        if isinstance(module, str):
            found.append((f"session/{kind}", kind, module, source if isinstance(source, str) else None))
    for section, kind in (("providers", "provider"), ("tools", "tool"), ("hooks", "hook")):
        entries = (entry for entry in plan.get(section) or () if "module" in entry)
        found.extend((section, kind, entry["module"], entry.get("source")) for entry in entries)
    return found


def refusal_of(failed: MountFailed, mask: SecretMask) -> NotRunnable | ModuleFailed:
    """What is told of modules that could not be mounted."""
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
