"""From the text of an include or a source to a place on disk that may be read."""

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .builtin import BUILTIN_FOLDER
from .document import DEFAULT_LIMITS, DocumentLimits
from .folders import AllowedFolders, NotAllowed, first_with_marker, marker_in, upwards
from .uris import SourceUri
from .values import quoted

SUFFIXES = (".yaml", ".yml", ".md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a document's references may lead.

    `names` maps further bundle names to a URI or a path. `roots` are the folders below which files may be
    read. `environment` holds only what may appear in a `source:`.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    roots: tuple[Path, ...] = ()
    builtin_modules: frozenset[str] = frozenset()
    installed_modules: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: DocumentLimits = DEFAULT_LIMITS

    def allowed(self) -> AllowedFolders:
        """The folders files may be read from; the built-in bundles are always among them."""
        return AllowedFolders.of(*self.roots, BUILTIN_FOLDER)


class Unresolved(Exception):
    """A reference that leads nowhere it may; `code` is that of the problem it becomes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Location:
    """A bundle file, and the outermost folder that counts as the same source as it."""

    path: Path
    source_root: Path


def locate_path(text: str, base: Path | None, allowed: AllowedFolders) -> tuple[Path, Path | None]:
    """The existing file or folder a local URI names, links followed, and what stood before its subdirectory.

    `base` is the folder relative paths start from.
    """
    uri = SourceUri.parse(text)
    if uri.is_remote:
        raise Unresolved(
            "source_not_allowed",
            f"{quoted(text)} is not local; this server reads sources only from folders below AMPLIFIER_SOURCE_ROOTS.",
        )
    if not uri.is_file or uri.is_windows_path:
        raise Unresolved("bundle_not_found", f"{quoted(text)} names nothing this server knows.")
    path = Path(uri.path)
    if not path.is_absolute():
        if base is None:
            raise Unresolved("relative_reference", f"{quoted(text)} is relative to a folder and the document has none.")
        path = base / path
    try:
        outer = allowed.resolve(path)
        inner = allowed.resolve(outer / uri.subpath) if uri.subpath else outer
    except (NotAllowed, ValueError):
        raise Unresolved("source_not_allowed", f"{quoted(text)} is not below one of AMPLIFIER_SOURCE_ROOTS.") from None
    if not inner.exists():
        raise Unresolved("bundle_not_found", f"{quoted(text)} does not exist.")
    return inner, outer if uri.subpath else None


def locate_bundle(text: str, base: Path | None, allowed: AllowedFolders) -> Location:
    """The bundle file a local URI names: a file, or the `bundle.md` or `bundle.yaml` of a folder."""
    found, outer = locate_path(text, base, allowed)
    path = _bundle_file(text, found, allowed)
    if outer is not None:
        return Location(path, outer if outer.is_dir() else outer.parent)
    stop = allowed.holding(path) or path.parent
    marker = first_with_marker(upwards(path.parent, stop))
    return Location(path, marker.parent if marker else path.parent)


def locate_in_namespace(text: str, folder: Path, path: str, allowed: AllowedFolders) -> Location:
    """The bundle file `path` names below the folder of its namespace; an extension may be left out."""
    inside = AllowedFolders.of(folder)
    target = folder / path.lstrip("/")
    candidates = (target, *(target.with_name(target.name + suffix) for suffix in SUFFIXES if target.name))
    for candidate in candidates:
        try:
            real = inside.resolve(candidate)
        except (NotAllowed, ValueError):
            raise Unresolved(
                "source_not_allowed", f"{quoted(text)} leads out of the folder of its namespace."
            ) from None
        if real.is_file() or (real.is_dir() and marker_in(real)):
            return locate_bundle(str(real), None, allowed)
    raise Unresolved(
        "bundle_not_found", f"{quoted(text)} does not exist: the namespace is known and holds no such bundle."
    )


def _bundle_file(text: str, found: Path, allowed: AllowedFolders) -> Path:
    if found.is_dir():
        marker = marker_in(found)
        if marker is None:
            raise Unresolved("bundle_not_found", f"{quoted(text)} is a folder without a bundle.md or bundle.yaml.")
        try:
            found = allowed.resolve(marker)
        except NotAllowed:
            raise Unresolved("source_not_allowed", f"{quoted(text)} leads out of AMPLIFIER_SOURCE_ROOTS.") from None
    if found.suffix not in SUFFIXES:
        raise Unresolved("invalid_document", f"{quoted(text)} is no bundle: its name must end in .md, .yaml or .yml.")
    return found


def leaves(folder: Path, path: Path) -> bool:
    """Whether a path leads out of a folder once links and `..` are followed."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
