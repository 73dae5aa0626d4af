"""What modules from a source need beside themselves, and what of it is not here.

Needs are read from a module's `pyproject.toml`, or its `requirements.txt` where that names none. What the server
itself has in the right version counts; so do `amplifier-core` in any version and what can be imported without being
a distribution. What was installed for modules does not count: another set of modules must not depend on it.
"""

import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from .folders import read_file
from .toml import toml_of
from .values import is_list, is_mapping, is_text, quoted

FOUNDATION = "amplifier-foundation"
LIBRARIES_MARK = ".amplifier-libraries"
"""A file of this name in a folder says that what is beside it was installed for modules."""

_KERNEL = "amplifier-core"
_FOUNDATION_IMPORT = re.compile(r"^(?:from|import)\s+amplifier_foundation\b", re.MULTILINE)
_MAX_BYTES = 1 << 18
_MAX_REQUIREMENTS = 200
_LONGEST_REQUIREMENT = 2000
_MAX_FILES_SCANNED = 200


class Installer(Protocol):
    """Puts dependencies where modules find them."""

    def install(self, origins: Sequence[str], requirements: Sequence[str]) -> Path:
        """The folder that holds the requirements of the modules of these origins. Blocks; raises `InstallFailed`."""
        ...


class InstallFailed(Exception):
    """The dependencies could not be installed; the sentence says why and what to do."""


class WouldInstall(Exception):
    """Nothing was installed; an opening would do it."""


class Announcer:
    """An `Installer` for plans: it installs nothing, so that asking changes nothing."""

    def install(self, origins: Sequence[str], requirements: Sequence[str]) -> Path:
        """Says so."""
        raise WouldInstall


@dataclass(frozen=True, slots=True)
class Unmet:
    """What a module needs and the server does not have.

    `missing` could be installed. `obstacles` are sentences about what no installation here can help with, with the
    code of the problem each of them is.
    """

    missing: tuple[str, ...] = ()
    obstacles: tuple[tuple[str, str], ...] = ()


def unmet_needs(module: str, folder: Path, package: Path) -> Unmet:
    """What the module in `folder` needs and is not here.

    Reads files; `OSError` or `ValueError` when one cannot be.
    """
    missing: list[str] = []
    obstacles: list[tuple[str, str]] = []
    needs_foundation = False
    for text in _declared(folder):
        try:
            requirement = _requirement(text)
        except ValueError:
            detail = f"{module} declares a dependency that cannot be read: {quoted(text)}."
            obstacles.append(("missing_dependency", detail))
            continue
        if requirement is None:
            continue
        if canonicalize_name(requirement.name) == FOUNDATION:
            needs_foundation = True
            continue
        for unmet in _unmet(requirement):
            obstacle = _obstacle(module, unmet)
            if obstacle is None:
                missing.append(str(unmet))
            else:
                obstacles.append(obstacle)
    if (needs_foundation or _imports_foundation(package)) and not _is_importable("amplifier_foundation"):
        obstacles.insert(0, ("missing_dependency", foundation_missing(module)))
    return Unmet(tuple(dict.fromkeys(missing)), tuple(obstacles))


def foundation_missing(module: str) -> str:
    """Why a module that needs `amplifier_foundation` cannot run here."""
    return (
        f"{module} needs the Python package amplifier_foundation, which is not available on this server: it exists "
        "only as a git repository, not on a package index, so it is never installed for a module. Use a module that "
        "does without it, or install amplifier_foundation beside the server."
    )


def server_versions() -> Mapping[str, str]:
    """The distributions the server itself has, by canonical name."""
    return _versions(tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _versions(path: tuple[str, ...]) -> Mapping[str, str]:
    own = [folder for folder in path if not Path(folder, LIBRARIES_MARK).exists()]
    versions: dict[str, str] = {}
    for found in importlib.metadata.distributions(path=own):
        for name in found.metadata.get_all("Name") or ():  # a folder that was half removed has none
            versions.setdefault(canonicalize_name(name), found.version)
    return versions


def _declared(folder: Path) -> list[str]:
    """The dependencies a module's folder declares, as texts."""
    project = folder / "pyproject.toml"
    if project.is_file():
        data = toml_of(read_file(project, _MAX_BYTES)[0])
        section = data.get("project")
        listed = section.get("dependencies") if is_mapping(section) else None
        if is_list(listed):
            return [text for text in listed if is_text(text)][:_MAX_REQUIREMENTS]
    plain = folder / "requirements.txt"
    if not plain.is_file():
        return []
    lines = (line.partition(" #")[0].strip() for line in read_file(plain, _MAX_BYTES)[0].decode().splitlines())
    return [line for line in lines if line and not line.startswith("#")][:_MAX_REQUIREMENTS]


def _requirement(text: str) -> Requirement | None:
    """A dependency, or nothing when it is one of other machines; `ValueError` when it cannot be read."""
    if len(text) > _LONGEST_REQUIREMENT:
        raise ValueError("it is too long")
    try:
        requirement = Requirement(text)
        return requirement if requirement.marker is None or requirement.marker.evaluate() else None
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _unmet(requirement: Requirement) -> Iterator[Requirement]:
    """The requirement itself when it is not met, or what one of its extras needs and is not."""
    version = server_versions().get(canonicalize_name(requirement.name))
    if version is None:
        importable = not requirement.specifier and not requirement.url and _is_importable(requirement.name)
        if not importable:
            yield requirement
        return
    if canonicalize_name(requirement.name) != _KERNEL and not _fits(requirement, version):
        yield requirement
        return
    if requirement.extras:
        for text in importlib.metadata.requires(requirement.name) or ():
            inner = Requirement(text)
            if inner.marker and any(inner.marker.evaluate({"extra": extra}) for extra in requirement.extras):
                inner.marker = None
                yield from _unmet(inner)


def _obstacle(module: str, requirement: Requirement) -> tuple[str, str] | None:
    """Why installing does not help: the server runs another version, or only an address says where it is."""
    version = server_versions().get(canonicalize_name(requirement.name))
    if version is not None:
        return "module_conflict", (
            f"{module} needs {requirement} and this server itself runs {requirement.name} {version}; one process has "
            "one version of a package: use a version of the module that fits, or a server of its own."
        )
    if requirement.url:
        return "missing_dependency", (
            f"{module} needs {requirement.name} from an address of its own; only what a package index has is "
            f"installed for modules. Install {requirement.name} beside the server."
        )
    return None


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _is_importable(name: str) -> bool:
    package = name.replace("-", "_")
    try:
        return package.isidentifier() and importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imports_foundation(package: Path) -> bool:
    """Whether a file of the package imports it in its first column: not where the import may fail."""
    for file in islice(package.rglob("*.py"), _MAX_FILES_SCANNED):
        try:
            text = read_file(file, _MAX_BYTES)[0].decode(errors="replace")
        except OSError:
            continue  # not a file that anybody could import
        if _FOUNDATION_IMPORT.search(text):
            return True
    return False
