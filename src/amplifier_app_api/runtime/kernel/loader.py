"""Where a session's modules come from.

Built-in modules are served from memory, installed ones from their entry points, and what a config names by
`source` from its folder. A folder's package is checked by the kernel's own validators once per process, not once
per session, and the table of entry points is read once. Python names modules process-wide, so one process holds
one source per module id: a second one is refused, and nothing of the first is ever used in its place.
"""

import asyncio
import importlib
import importlib.metadata
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from amplifier_core import ModuleLoader
from amplifier_core.validation.base import import_module_from_path

from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.modules import load_mount

logger = logging.getLogger(__name__)

Mount = Callable[..., Awaitable[Any]]


class SourceConflict(Exception):
    """This process already runs the module from somewhere else."""

    def __init__(self, module_id: str, wanted: Path, loaded: Path) -> None:
        super().__init__(
            f"{module_id} is already loaded from another source in this process; one process runs one source per "
            f"module: use the same source in every config, or give this config a server of its own"
        )
        self.module_id = module_id
        self.wanted = wanted
        self.loaded = loaded


class NotMounted(Exception):
    """What the kernel is told about a module that could not be mounted.

    The kernel logs the exceptions it gets, and those of modules may hold the options they were given: it gets this
    one instead, and the host tells what happened with every secret masked.
    """

    def __init__(self, module_id: str) -> None:
        super().__init__(f"{module_id} could not be mounted")


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module's `mount`, and its `on_session_ready` when it has one."""

    mount: Mount
    on_session_ready: Mount | None = None
    folder: Path | None = None


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
        self._entry_points: Mapping[str, importlib.metadata.EntryPoint] | None = None

    def installed(self) -> frozenset[str]:
        """The ids of the modules that are installed as distributions."""
        return frozenset(self._installed_table())

    def _installed_table(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        if self._entry_points is None:
            self._entry_points = {
                entry.name: entry for entry in importlib.metadata.entry_points(group="amplifier.modules")
            }
        return self._entry_points

    def conflict(self, activation: Activation) -> SourceConflict | None:
        """Why this process cannot serve the module from there, when it cannot."""
        loaded = self._loaded.get(activation.module)
        if loaded is None or activation.kind == "builtin" or loaded.folder == activation.path:
            return None
        return SourceConflict(activation.module, activation.path or Path(), loaded.folder or Path())

    async def load(self, activation: Activation, config: Mapping[str, Any]) -> LoadedModule:
        """The module, loaded now or before."""
        if activation.kind == "builtin":
            return LoadedModule(load_mount(activation.module))
        async with self._lock:
            conflict = self.conflict(activation)
            if conflict is not None:
                raise conflict
            known = self._loaded.get(activation.module)
            if known is None:
                known = await self._load_new(activation, config)
                self._loaded[activation.module] = known
            return known

    async def _load_new(self, activation: Activation, config: Mapping[str, Any]) -> LoadedModule:
        if activation.kind == "installed":
            mount = self._installed_table()[activation.module].load()
            return LoadedModule(mount, _ready_of(sys.modules.get(getattr(mount, "__module__", ""))))
        folder = activation.path
        if folder is None:
            raise LookupError(f"{activation.module} has no folder")
        kernel = ModuleLoader()
        package = kernel._find_package_dir(activation.module, folder)  # pyright: ignore[reportPrivateUsage]
        if package is None:
            raise LookupError(f"{activation.module} has no package in its folder")
        # Imported first, and from there or not at all: the kernel's check looks a type marker up by name only.
        importlib.invalidate_caches()
        module = import_module_from_path(package)
        # The check mounts it once on a coordinator of its own.
        await kernel._validate_module(activation.module, folder, config=dict(config))  # pyright: ignore[reportPrivateUsage]
        _put_on_path(package.parent)
        return LoadedModule(module.mount, _ready_of(module), folder)


def _ready_of(module: ModuleType | None) -> Mount | None:
    ready = getattr(module, "on_session_ready", None)
    return ready if inspect.iscoroutinefunction(ready) else None


def _put_on_path(folder: Path) -> None:
    """For what a module imports later. Last, so that nothing in its folder stands in for a package of the server."""
    text = str(folder)
    if text not in sys.path:
        sys.path.append(text)


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
            loaded = await self.table.load(activation, options)
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
            if loaded.on_session_ready is not None:
                self._ready.append((module_id, loaded.on_session_ready))
            return cleanup if callable(cleanup) else None

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
        """Part of the kernel's protocol."""
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
