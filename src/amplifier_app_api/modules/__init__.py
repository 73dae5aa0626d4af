"""The modules that ship with the server, under the ids Amplifier users know.

They speak only to the kernel: nothing here imports the rest of the server, so that each could be
handed to another Amplifier host as it is. A module is found by `load_mount` alone; its file, and the
vendor's SDK that file may import, is loaded the first time somebody asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

ModuleKind = Literal["orchestrator", "context", "provider", "tool", "hook"]
Mount = Callable[..., Awaitable[Callable[[], Any] | None]]
"""`await mount(coordinator, options)`; what it returns, if anything, closes what the module opened."""


@dataclass(frozen=True, slots=True)
class BuiltinModule:
    id: str
    kind: ModuleKind
    target: str  # the Python module that defines `mount`
    description: str
    extra: str | None = None  # the optional dependency it needs, as in `pip install amplifier-app-api[extra]`


class MissingExtra(ImportError):
    """A built-in module needs a package that is not installed; the text names the extra that brings it."""

    def __init__(self, module: BuiltinModule, package: str) -> None:
        super().__init__(
            f"Module {module.id} needs the package {package!r}: install amplifier-app-api[{module.extra}]", name=package
        )
        self.module_id = module.id
        self.extra = module.extra


def _table(*modules: BuiltinModule) -> Mapping[str, BuiltinModule]:
    return MappingProxyType({module.id: module for module in modules})


BUILTIN_MODULES: Mapping[str, BuiltinModule] = _table(
    BuiltinModule(
        "loop-basic",
        "orchestrator",
        f"{__name__}.orchestrators.basic",
        "Calls the model and its tools until the model is done; asks for each answer as a whole",
    ),
    BuiltinModule(
        "loop-streaming",
        "orchestrator",
        f"{__name__}.orchestrators.streaming",
        "Calls the model and its tools until the model is done; answers arrive token by token",
    ),
    BuiltinModule(
        "context-simple",
        "context",
        f"{__name__}.contexts.simple",
        "Keeps the conversation and fits each request into the model's window",
    ),
    BuiltinModule(
        "context-persistent",
        "context",
        f"{__name__}.contexts.persistent",
        "context-simple that also puts memory files in front of each request",
    ),
    BuiltinModule(
        "provider-scripted",
        "provider",
        f"{__name__}.providers.scripted",
        "Plays answers written in the config or the message: no key, no network",
    ),
    BuiltinModule(
        "provider-anthropic",
        "provider",
        f"{__name__}.providers.anthropic",
        "Claude models through Anthropic's SDK",
        extra="anthropic",
    ),
    BuiltinModule(
        "tool-filesystem",
        "tool",
        f"{__name__}.tools.filesystem",
        "Reads, writes, edits and lists files below the session's directory",
    ),
)


def load_mount(module_id: str) -> Mount:
    """The `mount` function of a built-in module; `KeyError` when there is no such module.

    The first call for a module imports it. With a vendor's SDK behind it that takes up to a second,
    so call this from a thread where other work must go on. Raises `MissingExtra` when the SDK is not installed.
    """
    module = BUILTIN_MODULES[module_id]
    try:
        return importlib.import_module(module.target).mount
    except ModuleNotFoundError as error:
        if module.extra is None or error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise MissingExtra(module, error.name) from error
