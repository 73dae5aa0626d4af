"""A walk over the includes of a document that remembers the way to each of them, and where each value was written."""

import os.path
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amplifier_app_api.errors import ErrorItem
from amplifier_app_api.models.plan import Origin, PlannedInclude
from amplifier_app_api.observability.redaction import without_user_info

from .agents import agent_path
from .bundle import Bundle, replace_bundle
from .document import Document, split_front_matter
from .fetched import Fetched, FetchOnce
from .includes import (
    Loaded,
    _Chain,  # pyright: ignore[reportPrivateUsage] - the one walk, watched
    _Walk,  # pyright: ignore[reportPrivateUsage]
)
from .limits import line_of_offset
from .locating import Location, Sources
from .mount_plan import kernel_plan
from .provenance import Layer, Written, wrapped, written
from .reading import Reader
from .values import is_mapping, same


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a second walk found. `plan` is the mount plan with every value in a `Written`."""

    plan: dict[str, Any]
    includes: list[PlannedInclude]
    problems: tuple[ErrorItem, ...]
    ways: dict[str, tuple[str, ...]]
    """By the sentence of a problem, the way of includes it was met on."""

    def origin_of(self, problem: ErrorItem) -> Origin | None:
        """The document a problem of the includes was met in."""
        way = self.ways.get(problem.detail)
        return Origin(document=way[-1], includes=list(way)) if way else None


def trace(document: Document, sources: Sources, met: Iterable[Fetched] = ()) -> Trace:
    """Walk again, over the remote sources that were `met`; only others are fetched. Reads files; blocks."""
    known = {found.uri: found for found in met}
    fetch = sources.fetch
    once = FetchOnce(lambda uri, pin: known.get(uri) or fetch(uri, pin)) if fetch else None
    walk = _TracedWalk(replace(sources, fetch=once))
    loaded = walk.over(document)
    return Trace(
        plan=kernel_plan(_with_agents(loaded.bundle, walk.agent_files)),
        includes=_tree(walk.steps),
        problems=loaded.problems,
        ways=walk.ways,
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """An include that was followed."""

    way: tuple[str, ...]
    name: str
    repeated: bool


class _AgentReader(Reader):
    """Keeps the files of agents."""

    def __init__(self, sources: Sources) -> None:
        super().__init__(sources.limits)
        self.agents: dict[Path, Document] = {}

    def agent(self, path: Path) -> Document:
        self.agents[path] = document = super().agent(path)
        return document


class _TracedWalk(_Walk):
    def __init__(self, sources: Sources) -> None:
        super().__init__(sources)
        self._reader = reader = _AgentReader(sources)
        self.agent_files = reader.agents
        self.steps: list[_Step] = []
        self.ways: dict[str, tuple[str, ...]] = {}
        self._layers: dict[Path, Layer] = {}
        self._first_ways: dict[Path, tuple[str, ...]] = {}

    def over(self, document: Document) -> Loaded:
        own = Bundle.from_data(document.data, instruction=document.instruction)
        chain = _Chain((own.name or "the document",))
        composed, _ = self.compose_with_includes(written(own, Layer(document)), chain)
        return self.finished(composed, agents=True)

    def _load_at(self, location: Location, chain: _Chain) -> tuple[Bundle, bool]:
        way = tuple(map(without_user_info, chain.names[1:]))
        repeated = location.path in self._first_ways
        self._first_ways.setdefault(location.path, way)
        at = len(self.steps)
        loaded = super()._load_at(location, chain)
        self.steps.insert(at, _Step(way, self._own_bundle(location).name, repeated))
        return loaded

    def _bundle_of(self, path: Path) -> Bundle:
        bundle = super()._bundle_of(path)
        if path not in self._layers:
            way = self._first_ways.get(path, ())
            self._layers[path] = Layer(self._reader.document(path), bundle.name or path.name, way)
        return written(bundle, self._layers[path])

    def _problem(self, chain: _Chain, code: str, detail: str) -> None:
        super()._problem(chain, code, detail)
        self.ways[f"{chain}: {without_user_info(detail)}"] = tuple(map(without_user_info, chain.names[1:]))


def _tree(steps: Iterable[_Step]) -> list[PlannedInclude]:
    """The steps of a walk, which are in the order of the documents, as the tree that they are."""
    top = PlannedInclude(include="", name="")
    path = [top]
    for step in steps:
        node = PlannedInclude(include=step.way[-1], name=step.name, repeated=step.repeated)
        del path[len(step.way) :]
        path[-1].includes.append(node)
        path.append(node)
    return top.includes


def _with_agents(bundle: Bundle, files: dict[Path, Document]) -> Bundle:
    """The bundle with what its agents have from their files wrapped as well."""
    agents = {name: _agent(bundle, name, entry, files) for name, entry in bundle.agents.items()}
    return replace_bundle(bundle, agents=agents)


def _agent(bundle: Bundle, name: str, entry: Any, files: dict[Path, Document]) -> Any:
    namespace, colon, rest = name.partition(":")
    folder = bundle.folder_of(namespace) if colon else bundle.folder
    path = agent_path(folder, rest if colon else name) if folder else None
    document = files.get(Path(os.path.realpath(path))) if path else None
    if document is None or path is None:
        return entry
    layer = Layer(document, f"agents/{path.name}", (*filter(None, [namespace if colon else bundle.name]),))
    return {key: _from_file(key, value, layer) for key, value in entry.items()}


def _from_file(key: str, value: Any, layer: Layer) -> Any:
    if _is_written(value):
        return value
    if key == "instruction":
        return Written(value, layer, "", line=_line_of_body(layer.document))
    data = layer.document.data
    meta = data.get("meta")
    for holder, at in ((meta, ("meta", key)), (data, (key,))):
        if is_mapping(holder) and key in holder and same(holder[key], value):
            return wrapped(value, layer, *at)
    return wrapped(value, layer, key)


def _is_written(value: Any) -> bool:
    """Whether a value was there before the file of its agent was read: a file fills in whole entries."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Written):
            return True
        pending.extend(item.values() if is_mapping(item) else item if isinstance(item, list) else ())  # pyright: ignore[reportUnknownArgumentType]
    return False


def _line_of_body(document: Document) -> int:
    parts = split_front_matter(document.text)
    body = parts.body if parts else document.text
    return line_of_offset(document.text, len(document.text) - len(body))
