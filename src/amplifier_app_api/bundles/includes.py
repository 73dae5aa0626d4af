"""Walking the include graph: every document once, depth first, then composed left to right.

The walk never waits for itself: a bundle that is already on the way to the one being loaded is left out with
a warning, and the walk goes on. What was loaded with such a gap is not kept for other ways to it. Everything
else that goes wrong is a problem with the chain of includes in its sentence, and the walk goes on as well, so
that one answer names all of them. Names live for one walk only.
"""

from dataclasses import dataclass
from pathlib import Path

from amplifier_app_api.errors import ErrorItem, Invalid

from .builtin import BUILTIN_BUNDLES
from .bundle import Bundle, replace_bundle
from .compose import compose
from .document import Document, InvalidYaml, parse_markdown, parse_yaml
from .folders import FileStamp, NotAllowed, marker_in, read_file, upwards
from .locating import Location, Sources, Unresolved, leaves, locate_bundle, locate_in_namespace
from .values import pointer, quoted

MAX_DOCUMENTS = 200
MAX_INCLUDES = 500
MAX_DEPTH = 32
MAX_TOTAL_BYTES = 8 << 20


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
    return walk.finished(composed)


def load_source(text: str, sources: Sources, *, folder: Path | None = None) -> Loaded:
    """The bundle a name, path or URI leads to, with everything it includes. Reads files.

    `folder` is where a relative path starts. A bundle that cannot be loaded is an empty one with problems.
    """
    walk = _Walk(sources)
    composed, _ = walk.load(text, Bundle(folder=folder), _Chain())
    return walk.finished(composed or Bundle())


@dataclass(frozen=True, slots=True)
class _Chain:
    """The way from the entry document to the one being loaded."""

    names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    pointer: str | None = None
    """The include of the entry document that everything on this way comes from."""

    def to(self, name: str) -> "_Chain":
        return _Chain((*self.names, name[:200]), self.paths, self.pointer)

    def into(self, path: Path) -> "_Chain":
        return _Chain(self.names, (*self.paths, path), self.pointer)

    def __str__(self) -> str:
        return " → ".join(self.names)


class _Walk:
    """One walk: what it has read, what it knows by name, what went wrong."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._allowed = sources.allowed()
        self._documents: dict[Path, tuple[Document, FileStamp]] = {}
        self._own: dict[Location, Bundle] = {}
        self._complete: dict[Location, Bundle] = {}
        self._known: dict[str, Location] = {}
        self._homes: dict[Path, None] = {}
        self._includes_left = MAX_INCLUDES
        self._bytes_left = MAX_TOTAL_BYTES
        self._problems: dict[ErrorItem, None] = {}
        self._warnings: dict[str, None] = {}

    def finished(self, composed: Bundle) -> Loaded:
        """The result, its `namespace:path` context resolved."""
        self._refuse_straying_context(composed)
        return Loaded(
            bundle=composed.resolve_context(),
            problems=tuple(self._problems),
            warnings=tuple(self._warnings),
            files=tuple(stamp for _, stamp in self._documents.values()),
            homes=tuple(self._homes),
        )

    def compose_with_includes(self, own: Bundle, chain: _Chain) -> tuple[Bundle, bool]:
        """The bundle on top of all its includes, in the order they are listed, and whether no circle cut any short."""
        layers: list[Bundle] = []
        whole = True
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
                self._warnings[f"The include {chain} closes a circle and was left out."] = None
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
            return locate_bundle(text, includer.folder, self._allowed)
        namespace, colon, path = text.partition(":")
        if colon:
            folder = self._folder_of(namespace, includer)
            if folder is None:
                raise Unresolved("bundle_not_found", f"no bundle with the name {quoted(namespace)} is known here.")
            return locate_in_namespace(text, folder, path, self._allowed)
        if text in self._known:
            return self._known[text]
        hint = " A relative path needs a leading ./" if "/" in text or text.endswith((".md", ".yaml", ".yml")) else ""
        raise Unresolved("bundle_not_found", f"no bundle with the name {quoted(text)} is known here.{hint}")

    def _locate_name(self, name: str) -> Location:
        registered = self._sources.names.get(name)
        return locate_bundle(registered or str(BUILTIN_BUNDLES[name]), None, self._allowed)

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
        self._know(root.name, Location(root_file, root_file.parent))
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
                return marker
        return None

    def _know(self, name: str, location: Location) -> None:
        if name:
            self._known.setdefault(name, location)

    def _bundle_of(self, path: Path) -> Bundle:
        document = self._document(path)
        return Bundle.from_data(document.data, folder=path.parent, instruction=document.instruction)

    def _document(self, path: Path) -> Document:
        if path not in self._documents:
            if len(self._documents) >= MAX_DOCUMENTS:
                raise Unresolved("document_too_complex", f"more than {MAX_DOCUMENTS} documents are included.")
            self._documents[path] = self._read(path)
        return self._documents[path][0]

    def _read(self, path: Path) -> tuple[Document, FileStamp]:
        try:
            content, stamp = read_file(path, min(self._sources.limits.max_bytes, self._bytes_left))
        except OSError as error:
            raise Unresolved("bundle_not_found", f"{path.name} cannot be read: {error.strerror or error}.") from None
        self._bytes_left -= len(content)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise InvalidYaml("it is not UTF-8") from None
        if path.suffix == ".md":
            return parse_markdown(text, self._sources.limits), stamp
        return Document(text, parse_yaml(text, self._sources.limits)), stamp

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

    def _problem(self, chain: _Chain, code: str, detail: str) -> None:
        self._problems[ErrorItem(code=code, detail=f"{chain}: {detail}", pointer=chain.pointer)] = None
