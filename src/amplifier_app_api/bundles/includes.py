"""Walking the include graph: every document once, depth first, then composed left to right.

The walk never waits for itself: a bundle that is already on the way to the one being loaded is left out with
a warning, and the walk goes on. What was loaded with such a gap is not kept for other ways to it. Everything
else that goes wrong is a problem with the chain of includes in its sentence, and the walk goes on as well, so
that one answer names all of them. Names live for one walk only.
"""

from dataclasses import dataclass
from pathlib import Path

from amplifier_app_api.errors import ErrorItem, Invalid
from amplifier_app_api.observability.redaction import without_user_info

from .agents import with_agent_files
from .builtin import BUILTIN_BUNDLES
from .bundle import Bundle, replace_bundle
from .compose import compose
from .document import Document
from .fetched import FetchOnce, Unresolved
from .folders import AllowedFolders, FileStamp, NotAllowed, marker_in, upwards
from .locating import Location, Sources, leaves, locate_bundle, locate_in_namespace, locate_remote
from .reading import Reader
from .uris import SourceUri
from .values import pointer, quoted

MAX_INCLUDES = 500
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A composed bundle and what was met on the way to it.

    `files` are the documents read, in order. `homes` are the folders of the bundles they hold, the only
    ones below which their context files may lie.
    """

    bundle: Bundle
    problems: tuple[ErrorItem, ...]
    warnings: tuple[str, ...]
    files: tuple[FileStamp, ...]
    homes: tuple[Path, ...]


def load_document(document: Document, sources: Sources) -> Loaded:
    """The bundle of a stored document, which has no folder, with everything it includes. Reads files."""
    walk = _Walk(sources)
    own = Bundle.from_data(document.data, instruction=document.instruction)
    composed, _ = walk.compose_with_includes(own, _Chain((own.name or "the document",)))
    return walk.finished(composed, agents=True)


def load_source(text: str, sources: Sources, *, folder: Path | None = None, agents: bool = True) -> Loaded:
    """The bundle a name, path or URI leads to, with everything it includes. Reads files.

    `folder` is where a relative path starts. A bundle that cannot be loaded is an empty one with problems.
    Without `agents` the files of the agents are left alone.
    """
    return load_from(Bundle(folder=folder), text, sources, agents=agents)


def load_from(includer: Bundle, text: str, sources: Sources, *, agents: bool = True) -> Loaded:
    """`load_source` as a bundle that includes `text` sees it: with its folder and its namespaces."""
    walk = _Walk(sources)
    composed, _ = walk.load(text, includer, _Chain())
    return walk.finished(composed or Bundle(), agents=agents)


@dataclass(frozen=True, slots=True)
class _Chain:
    """The way from the entry document to the one being loaded."""

    names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    pointer: str | None = None
    """The include of the entry document that everything on this way comes from."""

    def to(self, name: str) -> "_Chain":
        return _Chain((*self.names, without_user_info(name)[:200]), self.paths, self.pointer)

    def into(self, path: Path) -> "_Chain":
        return _Chain(self.names, (*self.paths, path), self.pointer)

    def __str__(self) -> str:
        return " → ".join(self.names)


class _Walk:
    """One walk: what it has read, what it knows by name, what went wrong."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._allowed = sources.allowed()
        self._fetched_roots: set[Path] = set()
        self._reader = Reader(sources.limits)
        self._own: dict[Location, Bundle] = {}
        self._complete: dict[Location, Bundle] = {}
        self._known: dict[str, Location] = {}
        self._homes: dict[Path, None] = {}
        self._includes_left = MAX_INCLUDES
        self._problems: dict[ErrorItem, None] = {}
        self._warnings: dict[str, None] = {}

    def finished(self, composed: Bundle, *, agents: bool) -> Loaded:
        """The result, its `namespace:path` context resolved and, if wanted, its agents read."""
        self._refuse_straying_context(composed)
        bundle = composed.resolve_context()
        if agents and bundle.agents:
            bundle, warnings = with_agent_files(bundle, self._reader, self._allowed)
            self._warnings |= dict.fromkeys(warnings)
        return Loaded(
            bundle=bundle,
            problems=tuple(self._problems),
            warnings=tuple(self._warnings),
            files=self._reader.stamps,
            homes=tuple(self._homes),
        )

    def compose_with_includes(self, own: Bundle, chain: _Chain) -> tuple[Bundle, bool]:
        """The bundle on top of all its includes, in the order they are listed, and whether no circle cut any short."""
        layers: list[Bundle] = []
        whole = True
        self._fetch_ahead(own)
        for index, text in enumerate(own.includes):
            step = chain if chain.pointer else _Chain(chain.names, chain.paths, pointer("includes", index))
            included, included_whole = self.load(text, own, step)
            whole = whole and included_whole
            if included is None:
                continue
            layers.append(included)
            if not included.name:
                self._problem(step.to(text), "invalid_document", "an included bundle must have a bundle.name.")
        return compose(*layers, own), whole

    def load(self, text: str, includer: Bundle, chain: _Chain) -> tuple[Bundle | None, bool]:
        """What one include leads to, nothing when it is a circle or a problem, and whether no circle cut it short."""
        chain = chain.to(text)
        try:
            self._spend_include(chain)
            location = self._locate(text, includer)
            if location.path in chain.paths:
                self._circle(chain)
                return None, False
            return self._load_at(location, chain)
        except Unresolved as problem:
            self._problem(chain, problem.code, problem.detail)
        except OSError as error:
            self._problem(chain, "bundle_not_found", f"it cannot be read: {error.strerror}.")
        except Invalid as refusal:
            for item in refusal.items:
                line = f" (line {item.line} of the included document)" if item.line else ""
                self._problem(chain, item.code, f"{item.detail}{line}")
        return None, True

    def _load_at(self, location: Location, chain: _Chain) -> tuple[Bundle, bool]:
        if location in self._complete:
            return self._complete[location], True
        own = self._own_bundle(location)
        composed, whole = self.compose_with_includes(own, chain.into(location.path))
        if whole:
            self._complete[location] = composed
        return composed, whole

    def _locate(self, text: str, includer: Bundle) -> Location:
        """The file an include means: a name, a URI or path, or `namespace:path`."""
        if text in self._sources.names or text in BUILTIN_BUNDLES:
            return self._locate_name(text)
        if "://" in text or text.startswith(("git+", "zip+", "/", "./", "../")):
            return self._locate_uri(text, includer.folder)
        namespace, colon, path = text.partition(":")
        if colon:
            folder = self._folder_of(namespace, includer)
            if folder is None:
                raise Unresolved("bundle_not_found", f"no bundle with the name {quoted(namespace)} is known here.")
            return self._whole(locate_in_namespace(text, folder, path, self._allowed))
        if text in self._known:
            return self._known[text]
        hint = " A relative path needs a leading ./" if "/" in text or text.endswith((".md", ".yaml", ".yml")) else ""
        raise Unresolved("bundle_not_found", f"no bundle with the name {quoted(text)} is known here.{hint}")

    def _locate_name(self, name: str) -> Location:
        registered = self._sources.names.get(name)
        return self._locate_uri(registered or str(BUILTIN_BUNDLES[name]), None)

    def _locate_uri(self, text: str, base: Path | None) -> Location:
        if not SourceUri.parse(text).is_remote:
            return self._whole(locate_bundle(text, base, self._allowed))
        location = locate_remote(text, self._sources)
        if location.source_root not in self._fetched_roots:
            self._fetched_roots.add(location.source_root)
            self._allowed = AllowedFolders((*self._allowed.folders, location.source_root))
        return location

    def _whole(self, location: Location) -> Location:
        """The same place; what lies in a fetched source counts as part of all of it."""
        around = self._allowed.holding(location.path)
        return Location(location.path, around) if around in self._fetched_roots else location

    def _fetch_ahead(self, own: Bundle) -> None:
        """Fetch what a document includes side by side, since each may take seconds."""
        if isinstance(self._sources.fetch, FetchOnce):
            texts = (self._sources.names.get(text, text) for text in own.includes[: max(0, self._includes_left)])
            remote = (text for text in texts if SourceUri.parse(text).is_remote)
            self._sources.fetch.ahead((text, self._sources.pins.get(text)) for text in remote)

    def _folder_of(self, namespace: str, includer: Bundle) -> Path | None:
        """The folder of a namespace: the including bundle's own view first, then names, then what was loaded."""
        if namespace in includer.namespaces:
            return includer.namespaces[namespace]
        if namespace == includer.name and includer.folder:
            return includer.folder
        if namespace in self._sources.names or namespace in BUILTIN_BUNDLES:
            return self._locate_name(namespace).path.parent
        known = self._known.get(namespace)
        return known.path.parent if known else None

    def _own_bundle(self, location: Location) -> Bundle:
        """A file's own bundle with the namespaces it can see, kept for the rest of the walk."""
        if location not in self._own:
            bundle = self._bundle_of(location.path)
            self._refuse_straying_files(bundle, location)
            self._know(bundle.name, location)
            self._homes[location.source_root] = None
            self._own[location] = replace_bundle(bundle, namespaces=self._namespaces(bundle, location))
        return self._own[location]

    def _namespaces(self, bundle: Bundle, location: Location) -> dict[str, Path]:
        """The namespaces of a file below the root of a larger bundle: the root's, and its own."""
        folder = location.path.parent
        root_file = self._root_file(location)
        if root_file is None:
            return dict(bundle.namespaces)
        root = self._bundle_of(root_file)
        self._know(root.name, self._whole(Location(root_file, root_file.parent)))
        namespaces = {root.name: root_file.parent} if root.name else {}
        if bundle.name and bundle.name != root.name:
            namespaces[bundle.name] = bundle.namespaces.get(bundle.name, folder)
        return namespaces

    def _root_file(self, location: Location) -> Path | None:
        """The bundle file of the nearest folder around a file, up to the root of its source, that is another one."""
        for folder in upwards(location.path.parent, location.source_root):
            marker = marker_in(folder)
            if marker is None:
                continue
            try:
                found = self._allowed.resolve(marker)
            except NotAllowed:
                raise Unresolved("source_not_allowed", "its root bundle leads out of AMPLIFIER_SOURCE_ROOTS.") from None
            if found != location.path:
                return found
        return None

    def _know(self, name: str, location: Location) -> None:
        if name:
            self._known.setdefault(name, location)

    def _bundle_of(self, path: Path) -> Bundle:
        document = self._reader.document(path)
        return Bundle.from_data(document.data, folder=path.parent, instruction=document.instruction)

    def _spend_include(self, chain: _Chain) -> None:
        self._includes_left -= 1
        if self._includes_left < 0:
            raise Unresolved("document_too_complex", f"more than {MAX_INCLUDES} includes have to be followed.")
        if len(chain.names) > MAX_DEPTH:
            raise Unresolved("document_too_complex", f"includes nest deeper than {MAX_DEPTH} levels.")

    def _refuse_straying_files(self, bundle: Bundle, location: Location) -> None:
        """A bundle's context files lie below its own source, wherever links lead."""
        for key, path in bundle.context.items():
            if leaves(location.source_root, path):
                raise Unresolved(
                    "source_not_allowed", f"its context {quoted(key)} leads out of the folder of the bundle."
                )

    def _refuse_straying_context(self, composed: Bundle) -> None:
        """A `namespace:path` lies below the folder of its namespace."""
        for reference in composed.pending_context.values():
            namespace, _, path = reference.partition(":")
            folder = composed.namespaces.get(namespace)
            if folder is not None and leaves(folder, folder / path.lstrip("/")):
                detail = f"the context {quoted(reference)} leads out of the folder of its namespace."
                self._problem(_Chain(("context",)), "source_not_allowed", detail)

    def _circle(self, chain: _Chain) -> None:
        if self._sources.strict_cycles:
            self._problem(chain, "include_cycle", "it closes a circle of includes.")
        else:
            self._warnings[f"The include {chain} closes a circle and was left out."] = None

    def _problem(self, chain: _Chain, code: str, detail: str) -> None:
        told = f"{chain}: {without_user_info(detail)}"
        self._problems[ErrorItem(code=code, detail=told, pointer=chain.pointer)] = None
