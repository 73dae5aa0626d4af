"""What each module id of a plan is on this server: built in, installed beside it, or a folder.

With a `source:` the source is used, without one the built-in module, then an installed one. One id means one
thing: a process cannot hold two modules of the same name, so two sources for one id are refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amplifier_app_api.errors import ErrorItem

from .bundle import Bundle, ModuleSpec
from .folders import AllowedFolders
from .locating import Sources, Unresolved, locate_path
from .values import pointer, quoted
from .variables import expand_source

_PACKAGE = "amplifier_module_"
_MOUNT = re.compile(r"\bmount\b")
_MAX_SCANNED = 1 << 20


@dataclass(frozen=True, slots=True)
class Activation:
    """Where the code of one module id comes from. `path` is the folder of a `source`; `origin` is for people."""

    module: str
    kind: Literal["builtin", "source", "installed"]
    path: Path | None
    origin: str


@dataclass(frozen=True, slots=True)
class ModuleProblem:
    """A module of the plan that cannot be had, and what there is to say about it."""

    module: str
    kind: str
    item: ErrorItem


def activate(bundle: Bundle, sources: Sources) -> tuple[dict[str, Activation], list[ModuleProblem]]:
    """Every module the bundle mounts by its id, and the problems of those that cannot be. Looks at folders.

    Pointers are into the mount plan. Modules of agents are the business of delegation and not looked at here.
    """
    allowed = sources.allowed()
    active: dict[str, Activation] = {}
    problems: list[ModuleProblem] = []
    for spec in _with_source_first(bundle):
        try:
            found = _activation(spec, active, sources, allowed)
        except Unresolved as problem:
            problems.append(_problem(spec, problem.code, problem.detail))
        except OSError as error:
            problems.append(_problem(spec, "module_not_found", f"The source of {spec.module}: {error.strerror}."))
        else:
            active[spec.module] = found
    return active, problems


def _problem(spec: ModuleSpec, code: str, detail: str) -> ModuleProblem:
    return ModuleProblem(spec.module, spec.kind, ErrorItem(code=code, detail=detail, pointer=pointer(*spec.path)))


def _with_source_first(bundle: Bundle) -> Iterator[ModuleSpec]:
    """The modules of a bundle, so that an entry without a source follows one of the same id that has it."""
    specs = list(bundle.modules())
    yield from (spec for spec in specs if spec.source)
    yield from (spec for spec in specs if not spec.source)


def _activation(
    spec: ModuleSpec, active: dict[str, Activation], sources: Sources, allowed: AllowedFolders
) -> Activation:
    if spec.flaw:
        raise Unresolved("invalid_document", spec.flaw)
    known = active.get(spec.module)
    if spec.source:
        folder = _source_folder(spec, spec.source, sources, allowed)
        if known is not None and known.path != folder:
            raise Unresolved("module_conflict", f"{spec.module} has two different sources; one id can have one.")
        return Activation(spec.module, "source", folder, spec.source)
    if known is not None:
        return known
    if spec.module in sources.builtin_modules:
        return Activation(spec.module, "builtin", None, "built in")
    if spec.module in sources.installed_modules:
        return Activation(spec.module, "installed", None, "installed beside the server")
    raise Unresolved(
        "module_not_found",
        f"There is no module {quoted(spec.module)} here: it is not built in, not installed, and has no source.",
    )


def _source_folder(spec: ModuleSpec, source: str, sources: Sources, allowed: AllowedFolders) -> Path:
    """The folder a source names, known to hold a module."""
    text = expand_source(source, sources.environment, lambda detail: Unresolved("missing_variable", detail))
    try:
        folder, _ = locate_path(text, None, allowed)
    except Unresolved as problem:
        # What is said about the source shows it as it was written, not what its variables hold.
        code = "module_not_found" if problem.code == "bundle_not_found" else problem.code
        detail = problem.detail.replace(quoted(text), quoted(source))
        raise Unresolved(code, f"The source of {spec.module}: {detail}") from None
    if not holds_module(folder, spec.module):
        raise Unresolved(
            "module_not_found",
            f"The source of {spec.module} holds no module: neither the folder itself nor a package "
            f"{_PACKAGE}{spec.module.replace('-', '_')} in it defines mount.",
        )
    return folder


def holds_module(folder: Path, module: str) -> bool:
    """Whether the kernel will find a package to import: the named one, a single other one, or the folder itself."""
    if (folder / f"{_PACKAGE}{module.replace('-', '_')}" / "__init__.py").is_file():
        return True
    packages = [found for found in folder.glob(f"{_PACKAGE}*/__init__.py") if found.is_file()]
    return len(packages) == 1 or _defines_mount(folder / "__init__.py")


def _defines_mount(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as source:
        return _MOUNT.search(source.read(_MAX_SCANNED)) is not None
