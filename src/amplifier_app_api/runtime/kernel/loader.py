"""Where a session's modules come from.

Built-in modules are served from memory, installed ones from their entry points, and what a config names by
`source` from its folder. A folder's package is checked by the kernel's own validators once per process, not once
per session, and the table of entry points is read once. Python names modules process-wide, so one process holds
one source per module id and per package: a second one is refused, and nothing of the first is ever used in its place.
"""

import asyncio
import importlib.metadata
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from amplifier_core.validation import (
    ContextValidator,
    HookValidator,
    OrchestratorValidator,
    ProviderValidator,
    ToolValidator,
)

from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.bundles.dependencies import foundation_missing
from amplifier_app_api.bundles.module_folders import ModulePackage, find_package
from amplifier_app_api.modules import load_mount
from amplifier_app_api.runtime.kernel.libraries import LibraryConflict, library_conflict, put_on_path
from amplifier_app_api.runtime.kernel.module_sources import NameTaken, SourceFinder

logger = logging.getLogger(__name__)

Mount = Callable[..., Awaitable[Any]]


class _Validator(Protocol):
    async def validate(self, module_path: str, *, config: dict[str, Any]) -> Any: ...


_VALIDATORS: dict[str, Callable[[], _Validator]] = {
    "provider": ProviderValidator,
    "tool": ToolValidator,
    "hook": HookValidator,
    "orchestrator": OrchestratorValidator,
    "context": ContextValidator,
}
_WAY_OUT = "use the same source in every config, or give this config a server of its own"


class SourceConflict(Exception):
    """This process cannot run the module beside what it runs already; the sentence says why and what to do."""

    def __init__(self, module_id: str, why: str) -> None:
        super().__init__(f"{module_id} {why}")
        self.module_id = module_id

    @classmethod
    def other_source(cls, module_id: str) -> "SourceConflict":
        """The id is taken. Where from is not said: it may be another tenant's."""
        return cls(
            module_id,
            "is already loaded from another source, or another commit of this one, in this process; one process runs "
            f"one source per module: {_WAY_OUT}",
        )

    @classmethod
    def name_taken(cls, module_id: str, taken: NameTaken) -> "SourceConflict":
        """A Python package of the source is taken: by another source, or by something the server has."""
        return cls(
            module_id,
            f"brings the Python package {taken.name}, which is already there in this process, from another source or "
            f"installed beside the server; one process has one package of a name: {_WAY_OUT}",
        )

    @classmethod
    def library(cls, module_id: str, conflict: LibraryConflict) -> "SourceConflict":
        """What the module needs is there in another version."""
        return cls(module_id, f"cannot run in this process: {conflict}; give this config a server of its own")


class NotMounted(Exception):
    """What the kernel is told about a module that could not be mounted.

    The kernel logs the exceptions it gets, and those of modules may hold the options they were given: it gets this
    one instead, and the host tells what happened with every secret masked.
    """

    def __init__(self, module_id: str) -> None:
        super().__init__(f"{module_id} could not be mounted")


class NotAModule(Exception):
    """The code of a module is there and is not what the kernel accepts, or needs what is not there."""


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module's `mount`, and its `on_session_ready` when it has one."""

    mount: Mount
    on_session_ready: Mount | None = None
    folder: Path | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A module that could not be mounted."""

    module: str
    kind: str
    detail: str
    conflict: bool = False


class ModuleTable:
    """The modules this process has loaded. One per process, shared by every session."""

    def __init__(self) -> None:
        self._loaded: dict[str, LoadedModule] = {}
        self._lock = asyncio.Lock()
        self._finder = SourceFinder()
        self._entry_points: Mapping[str, importlib.metadata.EntryPoint] | None = None

    def installed(self) -> frozenset[str]:
        """The ids of the modules that are installed as distributions."""
        return frozenset(self._installed_table())

    def summary(self, module_id: str) -> str | None:
        """What the distribution of an installed module says of itself in a line."""
        entry = self._installed_table().get(module_id)
        told = None if entry is None or entry.dist is None else entry.dist.metadata
        return told["Summary"] if told is not None and "Summary" in told else None

    def _installed_table(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        if self._entry_points is None:
            self._entry_points = {
                entry.name: entry for entry in importlib.metadata.entry_points(group="amplifier.modules")
            }
        return self._entry_points

    def conflict(self, activation: Activation) -> SourceConflict | None:
        """Why this process cannot serve the module from there, when it cannot."""
        module = activation.module
        loaded = self._loaded.get(module)
        if activation.kind == "builtin":
            return None
        if loaded is not None:
            same = activation.is_the_same_code_as(loaded.folder, loaded.content)
            return None if same else SourceConflict.other_source(module)
        package = find_package(activation.path, module) if activation.path is not None else None
        taken = self._finder.taken(package) if package is not None else None
        if taken is not None:
            return SourceConflict.name_taken(module, taken)
        library = library_conflict(activation.libraries)
        return None if library is None else SourceConflict.library(module, library)

    def has_loaded(self, activation: Activation) -> bool:
        """Whether the module was loaded from there."""
        loaded = self._loaded.get(activation.module)
        return loaded is not None and loaded.folder == activation.path

    async def load(self, activation: Activation, kind: str, config: Mapping[str, Any]) -> LoadedModule:
        """The module, loaded now or before. `kind` is what the plan takes it for."""
        if activation.kind == "builtin":
            return LoadedModule(load_mount(activation.module))
        loaded = self._loaded.get(activation.module)
        if loaded is not None and activation.is_the_same_code_as(loaded.folder, loaded.content):
            return loaded  # without the lock: what another module does while it is loaded is none of its business
        async with self._lock:
            known = self._loaded.get(activation.module)
            # What is not loaded yet is looked for on the disk.
            conflict = self.conflict(activation) if known else await asyncio.to_thread(self.conflict, activation)
            if conflict is not None:
                raise conflict
            if known is None:
                known = await self._load_new(activation, kind, config)
                self._loaded[activation.module] = known
            return known

    async def _load_new(self, activation: Activation, kind: str, config: Mapping[str, Any]) -> LoadedModule:
        module_id = activation.module
        try:
            if activation.kind == "installed":
                mount = await asyncio.to_thread(self._installed_table()[module_id].load)
                home = sys.modules.get(getattr(mount, "__module__", ""))
                if home is not None:
                    await _validate(module_id, home, kind, config)
                return LoadedModule(mount, _ready_of(module_id, home))
            package = _package_of(activation)
            module = await asyncio.to_thread(self._import, package, activation)
        except ModuleNotFoundError as error:
            raise NotAModule(_import_failed(module_id, error)) from error
        try:
            await _validate(module_id, module, kind, config)
        except Exception:
            # So that a version that is mended can be loaded without starting the server again.
            self._finder.forget(package)
            raise
        return LoadedModule(module.mount, _ready_of(module_id, module), activation.path, activation.content)

    def _import(self, package: ModulePackage, activation: Activation) -> ModuleType:
        put_on_path(activation.libraries)
        try:
            return self._finder.load(package)
        except NameTaken as taken:
            raise SourceConflict.name_taken(activation.module, taken) from None


def _package_of(activation: Activation) -> ModulePackage:
    package = find_package(activation.path, activation.module) if activation.path is not None else None
    if package is None:
        raise NotAModule(f"the folder of {activation.module} no longer holds a module")
    return package


async def _validate(module_id: str, module: ModuleType, kind: str, config: Mapping[str, Any]) -> None:
    """The kernel's own check, which mounts the module once on a coordinator that is thrown away."""
    declared = str(getattr(module, "__amplifier_module_type__", None) or kind)
    if declared not in _VALIDATORS:
        raise NotAModule(f"{module_id} declares the type {declared!r}, which a config cannot mount")
    # Named, not by its folder: the kernel would put the folder's parent on Python's path.
    result = await _VALIDATORS[declared]().validate(module.__name__, config=dict(config))
    if not result.passed:
        problems = "; ".join(f"{check.name}: {check.message}" for check in result.errors)
        raise NotAModule(f"{module_id} is not a valid module: {problems}")


def _import_failed(module_id: str, error: ModuleNotFoundError) -> str:
    if (error.name or "").partition(".")[0] == "amplifier_foundation":
        return foundation_missing(module_id)
    return (
        f"{module_id} needs the Python package {error.name}, which is not on this server and which it does not declare"
    )


def _ready_of(module_id: str, module: ModuleType | None) -> Mount | None:
    ready = getattr(module, "on_session_ready", None)
    if ready is not None and not inspect.iscoroutinefunction(ready):
        logger.warning("on_session_ready is not async and is not called", extra={"module_id": module_id})
        return None
    return ready


@dataclass
class SessionLoader:
    """The `loader` of one kernel session: the five methods the kernel calls.

    Modules are mounted through `coordinator`, the host's proxy. What cannot be mounted is noted in `failures`,
    because the kernel tells of it only in its log.
    """

    table: ModuleTable
    activations: Mapping[str, Activation]
    kinds: Mapping[str, str]
    coordinator: Any
    failures: list[LoadFailure] = field(default_factory=list[LoadFailure])
    _ready: list[tuple[str, Mount]] = field(default_factory=list[tuple[str, Mount]])

    async def load(
        self, module_id: str, config: Mapping[str, Any] | None = None, source_hint: Any = None, coordinator: Any = None
    ) -> Mount:
        """The kernel asks for a module; it gets a function that mounts it."""
        options = dict(config or {})
        kind = self.kinds.get(module_id, "module")
        try:
            activation = self.activations.get(module_id)
            if activation is None:
                raise LookupError(f"there is no module {module_id}")
            loaded = await self.table.load(activation, kind, options)
        except Exception as error:
            self._failed(module_id, kind, error)
            raise NotMounted(module_id) from None

        async def mount(_: Any) -> Any:
            before = self._mounted(kind)
            try:
                cleanup = await loaded.mount(self.coordinator, options)
                if before is not None and self._mounted(kind) == before:
                    raise LookupError(f"{module_id} mounted nothing")
            except Exception as error:
                self._failed(module_id, kind, error)
                raise NotMounted(module_id) from None
            return cleanup if callable(cleanup) else None

        if loaded.on_session_ready is not None:
            # The kernel reads it off the function it mounts with, once the mount has held.
            setattr(mount, "__on_session_ready__", (module_id, loaded.on_session_ready))  # noqa: B010
        return mount

    def _failed(self, module_id: str, kind: str, error: Exception) -> None:
        detail = str(error) or type(error).__name__
        self.failures.append(LoadFailure(module_id, kind, detail, conflict=isinstance(error, SourceConflict)))

    def _mounted(self, kind: str) -> frozenset[int] | None:
        """The objects at the mount point of a kind; None for hooks, which leave none."""
        match kind:
            case "provider" | "tool":
                mounted: Mapping[str, Any] = self.coordinator.get(f"{kind}s") or {}
                return frozenset(map(id, mounted.values()))
            case "orchestrator" | "context":
                return frozenset({id(self.coordinator.get(kind))})
            case _:
                return None

    def cleanup(self) -> None:
        """Nothing to clean: what is loaded stays loaded for the process."""

    def enqueue_on_session_ready(self, module_id: str, ready: Mount) -> None:
        """The kernel has mounted a module that wants to be called when everything is."""
        self._ready.append((module_id, ready))

    def get_on_session_ready_queue(self) -> list[tuple[str, Mount]]:
        """What the kernel calls when everything is mounted; each gets the proxy, as `mount` did."""

        def through_proxy(module_id: str, ready: Mount) -> Mount:
            async def call(_: Any) -> Any:
                try:
                    return await ready(self.coordinator)
                except Exception:
                    raise NotMounted(module_id) from None

            return call

        return [(module_id, through_proxy(module_id, ready)) for module_id, ready in self._ready]

    def clear_on_session_ready_queue(self) -> None:
        """Part of the kernel's protocol."""
        self._ready.clear()
