"""What each module id of a plan is on this server: built in, installed beside it, or from a source.

With a `source:` the source is used, without one the built-in module, then an installed one. One id means one thing:
a process cannot hold two modules of the same name, so two sources for one id are refused, and so are two sources
whose Python packages have the same name.

The seam for worker processes: `activate` decides, from files alone, everything a process that runs the modules has
to know (`Activation`: which code, at which commit, with which folders of libraries), and imports nothing. Only
`ModuleTable` in `runtime/kernel/loader.py` imports, and it refuses what its process cannot hold beside what it has.
A process per set of modules would hold one table and be given the activations; nothing here would change.
"""

import os.path
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from amplifier_app_api.errors import ErrorItem
from amplifier_app_api.observability.redaction import without_user_info

from .bundle import Bundle, ModuleSpec
from .dependencies import Installer, InstallFailed, Unmet, WouldInstall, unmet_needs
from .fetched import FetchOnce
from .folders import AllowedFolders
from .locating import Sources, Unresolved, fetch, leaves, locate_path
from .module_contents import content_of
from .module_folders import PREFIX, ModulePackage, find_package, transport_of
from .uris import SourceUri
from .values import pointer, quoted
from .variables import expand_source


@dataclass(frozen=True, slots=True)
class Activation:
    """Where the code of one module id comes from. `origin` is for people: the source as it was written.

    `path` is the folder of a source. Of a remote one, `resolved` is the source pinned to what it was; `commit` is that
    of the git repository the folder came with, `content` tells the code of a fetched module whatever commit it came
    with. `libraries` are folders with what was installed for it, `awaits` is what an opening would install.
    """

    module: str
    kind: Literal["builtin", "source", "installed"]
    path: Path | None
    origin: str
    resolved: str | None = None
    commit: str | None = None
    content: str | None = None
    libraries: tuple[Path, ...] = ()
    awaits: tuple[str, ...] = ()

    def is_the_same_code_as(self, path: Path | None, content: str | None) -> bool:
        """Whether a module that was loaded from there, with that content, is this one."""
        return self.path == path or (content is not None and self.content == content)


@dataclass(frozen=True, slots=True)
class ModuleProblem:
    """A module of the plan that cannot be had, and what there is to say about it."""

    module: str
    kind: str
    item: ErrorItem


def activate(
    bundle: Bundle, sources: Sources, installer: Installer | None = None
) -> tuple[dict[str, Activation], list[ModuleProblem]]:
    """Every module of the bundle and its agents by its id, and the problems of those that cannot be. Blocks.

    Looks at folders, fetches remote sources, and installs dependencies where there is an `installer`; without one
    what is missing is a problem. Pointers are into the mount plan.
    """
    allowed = sources.allowed()
    active: dict[str, Activation] = {}
    specs: dict[str, ModuleSpec] = {}
    packages: dict[str, Path] = {}
    problems: list[ModuleProblem] = []
    for spec in _with_source_first(bundle):
        try:
            found = _activation(spec, active, packages, sources, allowed)
        except Unresolved as problem:
            problems.append(_problem(spec, problem.code, problem.detail))
        except OSError as error:
            problems.append(_problem(spec, "module_not_found", f"The source of {spec.module}: {error.strerror}."))
        else:
            active[spec.module] = found
            specs.setdefault(spec.module, spec)
    problems += _with_libraries(active, specs, installer)
    return active, problems


def _problem(spec: ModuleSpec, code: str, detail: str) -> ModuleProblem:
    item = ErrorItem(code=code, detail=without_user_info(detail), pointer=pointer(*spec.path))
    return ModuleProblem(spec.module, spec.kind, item)


def _with_source_first(bundle: Bundle) -> Iterator[ModuleSpec]:
    """The modules of a bundle, so that an entry without a source follows one of the same id that has it."""
    specs = list(bundle.modules())
    yield from (spec for spec in specs if spec.source)
    yield from (spec for spec in specs if not spec.source)


def _activation(
    spec: ModuleSpec,
    active: Mapping[str, Activation],
    packages: dict[str, Path],
    sources: Sources,
    allowed: AllowedFolders,
) -> Activation:
    if spec.flaw:
        raise Unresolved("invalid_document", spec.flaw)
    known = active.get(spec.module)
    if spec.source:
        found, package = _from_source(spec.module, spec.source, sources, allowed)
        if known is not None and known.path != found.path:
            raise Unresolved("module_conflict", f"{spec.module} has two different sources; one id can have one.")
        if packages.setdefault(package.name, package.folder) != package.folder:
            raise Unresolved(
                "module_conflict",
                f"The package {package.name} of {spec.module} is that of another module of this config from another "
                "source; one process has one package of a name: leave one of them out, or rename its package.",
            )
        return known or found
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


def _from_source(
    module: str, source: str, sources: Sources, allowed: AllowedFolders
) -> tuple[Activation, ModulePackage]:
    """The module a source holds: one that Python runs, and nothing of it from outside the source."""
    found, root = _located(module, source, sources, allowed)
    folder = found.path or root
    try:
        transport = transport_of(folder)
    except ValueError:
        raise Unresolved("invalid_document", f"The amplifier.toml of {module} cannot be read.") from None
    if transport != "python":
        raise Unresolved(
            "unsupported_transport",
            f"{module} is a module of the transport {quoted(transport)}; this server runs modules written in Python.",
        )
    package = find_package(folder, module)
    if package is None:
        raise Unresolved(
            "module_not_found",
            f"The source of {module} holds no module: neither the folder itself nor a package "
            f"{PREFIX}{module.replace('-', '_')} in it defines mount.",
        )
    if leaves(root, package.folder / "__init__.py"):
        raise Unresolved("source_not_allowed", f"The package of {module} leads out of its source.")
    content = content_of(package) if _is_fetched(folder, sources) else None
    return replace(found, content=content), package


def _is_fetched(folder: Path, sources: Sources) -> bool:
    met = sources.fetch.met if isinstance(sources.fetch, FetchOnce) else ()
    return any(folder.is_relative_to(os.path.realpath(found.source_root)) for found in met)


def _located(module: str, source: str, sources: Sources, allowed: AllowedFolders) -> tuple[Activation, Path]:
    """Where a source is on this machine, and the folder its files may not lead out of."""
    text = expand_source(source, sources.environment, lambda detail: Unresolved("missing_variable", detail))
    try:
        if SourceUri.parse(text).is_remote:
            got = fetch(text, sources, written=source)
            path, root = Path(os.path.realpath(got.path)), Path(os.path.realpath(got.source_root))
            if not path.is_relative_to(root):
                raise Unresolved("source_not_allowed", f"{quoted(text)} leads out of its source.")
            # What was pinned would show the values of variables; a source without any is its own text.
            resolved = got.resolved if text == source else None
            return Activation(module, "source", path, source, resolved, got.commit), root
        folder, _ = locate_path(text, None, allowed)
    except Unresolved as problem:
        code = "module_not_found" if problem.code == "bundle_not_found" else problem.code
        detail = problem.detail if text == source else f"{quoted(source)} {_filled_in(problem)}"
        raise Unresolved(code, f"The source of {module}: {detail}") from None
    return Activation(module, "source", folder, source, commit=_commit_of(folder, sources)), (
        allowed.holding(folder) or folder
    )


def _filled_in(problem: Unresolved) -> str:
    """What is wrong with a source that has variables. The problem itself may show their values, in any spelling."""
    return {
        "source_not_allowed": "is covered neither by AMPLIFIER_SOURCE_ALLOW nor by AMPLIFIER_SOURCE_ROOTS "
        "with its variables filled in.",
        "bundle_not_found": "does not exist with its variables filled in.",
    }.get(problem.code, "cannot be fetched with its variables filled in.")


def _commit_of(folder: Path, sources: Sources) -> str | None:
    """The commit of the fetched source that a local folder lies in: a bundle's own modules come with it."""
    met = sources.fetch.met if isinstance(sources.fetch, FetchOnce) else ()
    around = (found for found in met if folder.is_relative_to(os.path.realpath(found.source_root)))
    return next((found.commit for found in around), None)


def _with_libraries(
    active: dict[str, Activation], specs: Mapping[str, ModuleSpec], installer: Installer | None
) -> list[ModuleProblem]:
    """Give the modules from sources the folder with what they need; those that lack something leave `active`."""
    problems: list[ModuleProblem] = []
    lacking: dict[str, tuple[str, ...]] = {}
    for found in list(active.values()):
        obstacles, missing = _needs(found)
        if missing and installer is None:
            obstacles = (*obstacles, ("missing_dependency", _not_installed(found.module, missing)))
        if obstacles:
            problems += (_problem(specs[found.module], code, detail) for code, detail in obstacles)
            del active[found.module]
        elif missing:
            lacking[found.module] = missing
    if not lacking or installer is None:
        return problems
    origins = [f"{name} {active[name].resolved or active[name].path}" for name in lacking]
    try:
        libraries = installer.install(origins, _all_of(lacking.values()))
    except WouldInstall:
        active.update({name: replace(active[name], awaits=missing) for name, missing in lacking.items()})
    except InstallFailed as failed:
        for name, missing in lacking.items():
            detail = f"{name} needs {_listed(missing)}, which could not be installed. {failed}"
            problems.append(_problem(specs[name], "missing_dependency", detail))
            del active[name]
    else:
        active.update({name: replace(active[name], libraries=(libraries,)) for name in lacking})
    return problems


def _needs(found: Activation) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Obstacles, as codes with sentences, and the requirements that are missing."""
    package = find_package(found.path, found.module) if found.path is not None else None
    if found.path is None or package is None:
        return (), ()
    try:
        unmet = unmet_needs(found.module, found.path, package.folder)
    except (OSError, ValueError):
        detail = f"What {found.module} depends on cannot be read: its pyproject.toml or requirements.txt is broken."
        unmet = Unmet(obstacles=(("invalid_document", detail),))
    return unmet.obstacles, unmet.missing


def _not_installed(module: str, missing: tuple[str, ...]) -> str:
    return (
        f"{module} needs {_listed(missing)}, which this server does not have: install it beside the server, or let "
        "the server install what modules need with AMPLIFIER_INSTALL_DEPENDENCIES=on."
    )


def _listed(requirements: tuple[str, ...]) -> str:
    return ", ".join(requirements)


def _all_of(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return sorted({requirement for group in groups for requirement in group})
