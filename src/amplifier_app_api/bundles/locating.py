"""From the text of an include or a source to a place on disk that may be read."""

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amplifier_app_api.observability.redaction import without_user_info

from .builtin import BUILTIN_FOLDER
from .document import DEFAULT_LIMITS, DocumentLimits
from .fetched import Fetch, Fetched, FetchOnce, Unresolved
from .folders import AllowedFolders, NotAllowed, first_with_marker, marker_in, upwards
from .uris import SourceUri
from .values import quoted

__all__ = [
    "SUFFIXES",
    "Fetched",
    "Location",
    "Sources",
    "Unresolved",
    "fetch",
    "leaves",
    "locate_bundle",
    "locate_in_namespace",
    "locate_path",
    "locate_remote",
    "source_root",
]

SUFFIXES = (".yaml", ".yml", ".md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a document's references may lead.

    `names` maps further bundle names to a URI or a path. `roots` are the folders below which files may be
    read. `environment` holds only what may appear in a `source:`. Without a `fetch` every remote source is
    refused; `pins` maps the text of one to the `resolved` it had when this was prepared before. `overrides` maps
    module ids to sources that are used where a document gives the module one. With `strict_cycles` a circle of
    includes is a problem instead of a warning.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    roots: tuple[Path, ...] = ()
    builtin_modules: frozenset[str] = frozenset()
    installed_modules: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: DocumentLimits = DEFAULT_LIMITS
    fetch: Fetch | None = None
    pins: Mapping[str, str] = field(default_factory=dict[str, str])
    overrides: Mapping[str, str] = field(default_factory=dict[str, str])
    strict_cycles: bool = False

    def allowed(self) -> AllowedFolders:
        """The folders files may be read from; the built-in bundles are always among them."""
        return AllowedFolders.of(*self.roots, BUILTIN_FOLDER)


@dataclass(frozen=True, slots=True)
class Location:
    """A bundle file, and the outermost folder that counts as the same source as it."""

    path: Path
    source_root: Path


def fetch(text: str, sources: Sources, *, written: str | None = None) -> Fetched:
    """A remote source, on disk. Blocks; `Unresolved` where it may not be had or cannot.

    `written` is the text before its variables were filled in, which is what pins and plans know it by.
    """
    if sources.fetch is None:
        raise _not_local(text)
    shown = written or text
    found = sources.fetch(text, sources.pins.get(shown))
    if shown != text and isinstance(sources.fetch, FetchOnce):
        sources.fetch.show_as(text, shown)
    return found


def _not_local(text: str) -> Unresolved:
    shown = quoted(without_user_info(text))
    return Unresolved(
        "source_not_allowed",
        f"{shown} is not local; this server reads sources only from folders below AMPLIFIER_SOURCE_ROOTS.",
    )


def locate_path(text: str, base: Path | None, allowed: AllowedFolders) -> tuple[Path, Path | None]:
    """The existing file or folder a local URI names, links followed, and what stood before its subdirectory.

    `base` is the folder relative paths start from.
    """
    uri = SourceUri.parse(text)
    if uri.is_remote:
        raise _not_local(text)
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
    return Location(path, source_root(path, outer, allowed))


def source_root(found: Path, outer: Path | None, allowed: AllowedFolders) -> Path:
    """The folder of one source around what `locate_path` found: its outer part, else the nearest bundle's folder."""
    if outer is not None:
        return outer if outer.is_dir() else outer.parent
    folder = found if found.is_dir() else found.parent
    marker = first_with_marker(upwards(folder, allowed.holding(found) or folder))
    return marker.parent if marker else folder


def locate_remote(text: str, sources: Sources) -> Location:
    """The bundle file a remote URI names. All of the source it came with counts as one. Blocks."""
    found = fetch(text, sources)
    root = Path(os.path.realpath(found.source_root))
    path = _bundle_file(text, Path(os.path.realpath(found.path)), AllowedFolders((root,)))
    if not path.is_relative_to(root):
        raise Unresolved("source_not_allowed", f"{quoted(text)} leads out of its source.")
    return Location(path, root)


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
            raise Unresolved("source_not_allowed", f"{quoted(text)} leads out of where it may be read.") from None
    if found.suffix not in SUFFIXES:
        raise Unresolved("invalid_document", f"{quoted(text)} is no bundle: its name must end in .md, .yaml or .yml.")
    return found


def leaves(folder: Path, path: Path) -> bool:
    """Whether a path leads out of a folder once links and `..` are followed."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
