"""`Bundle`: one document, or several composed, as the sections mean it.

A bundle is immutable. Composing gives a new one, and nothing a caller gets out of one may be changed in
place: bundles are shared by every session that was prepared from them.
"""

import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .document import InvalidDocument
from .shapes import include_text, problems_of_shape
from .values import is_list, is_mapping, is_text

Entry = Mapping[str, Any]
ModuleKind = Literal["orchestrator", "context", "provider", "tool", "hook"]

_KIND_OF_LIST: dict[str, ModuleKind] = {"providers": "provider", "tools": "tool", "hooks": "hook"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSpec:
    """One module a bundle asks for, whichever way it was written; `flaw` says why it cannot be had at all."""

    module: str
    kind: ModuleKind
    source: str | None = None
    flaw: str | None = None
    path: tuple[str | int, ...] = ()
    """Where it stands in the mount plan."""

    @property
    def agent(self) -> str | None:
        """The agent that asks for it; nothing when the bundle itself does."""
        return str(self.path[1]) if self.path[:1] == ("agents",) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a document says.

    `context` maps keys to files, in order; `pending_context` holds the references `namespace:path` that are
    resolved once everything is composed. `namespaces` maps bundle names to folders. `folder` is where
    relative paths start; a stored document has none. `agents` are as written; relative sources of those
    defined in place start from their `agent_folders`, of all others from `folder`.
    """

    name: str = ""
    version: Any = "1.0.0"
    description: str | None = ""
    includes: tuple[str, ...] = ()
    session: Mapping[str, Any] = field(default_factory=dict[str, Any])
    providers: tuple[Entry, ...] = ()
    tools: tuple[Entry, ...] = ()
    hooks: tuple[Entry, ...] = ()
    agents: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    agent_folders: Mapping[str, Path] = field(default_factory=dict[str, Path])
    spawn: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: Mapping[str, Path] = field(default_factory=dict[str, Path])
    pending_context: Mapping[str, str] = field(default_factory=dict[str, str])
    instruction: str | None = None
    namespaces: Mapping[str, Path] = field(default_factory=dict[str, Path])
    folder: Path | None = None

    @classmethod
    def from_data(cls, data: dict[str, Any], *, folder: Path | None = None, instruction: str | None = None) -> "Bundle":
        """The bundle a mapping describes. Unknown sections mean nothing; a wrong shape is `InvalidDocument`."""
        problems = problems_of_shape(data)
        if problems:
            raise InvalidDocument(problems[0].detail, items=problems)
        head: dict[str, Any] = data.get("bundle") or {}
        name: str = head.get("name", "")
        context, pending = _context_of(data.get("context") or {}, folder)
        own = _own_namespace(name, head.get("namespace_root"), folder)
        agents = _agents_of(data.get("agents"))
        return cls(
            name=name,
            version=head.get("version", "1.0.0"),
            description=head.get("description", ""),
            includes=_includes_of(data.get("includes") or []),
            session=_session_of(data.get("session") or {}, folder),
            providers=_entries_of(data, "providers", folder),
            tools=_entries_of(data, "tools", folder),
            hooks=_entries_of(data, "hooks", folder),
            agents=agents,
            agent_folders={name: folder for name in agents if folder and name in data["agents"]},
            spawn=data.get("spawn") or {},
            context=context,
            pending_context=pending,
            instruction=instruction,
            namespaces=own,
            folder=folder,
        )

    def modules(self) -> Iterator[ModuleSpec]:
        """Every module the bundle needs: what it mounts itself, then what its agents add.

        An entry of an agent that names no module changes one of its parent's and needs nothing.
        """
        lists = {section: list(getattr(self, section)) for section in _KIND_OF_LIST}
        yield from _modules({"session": self.session, **lists}, self.folder)
        for name, agent in self.agents.items():
            for spec in _modules(agent, self.agent_folders.get(name, self.folder)):
                if spec.module:
                    yield replace(spec, path=("agents", name, *spec.path))

    def folder_of(self, namespace: str) -> Path | None:
        """The folder a namespace stands for. As long as nothing was composed, the bundle's own name means its folder.

        Afterwards a document that has no folder would have that of something it includes.
        """
        own = {self.name: self.folder} if not self.namespaces else {}
        return self.namespaces.get(namespace) or own.get(namespace)

    def resolve_context(self) -> "Bundle":
        """The same bundle with every `namespace:path` whose namespace is known turned into a file.

        Resolved files come after the direct ones. What is unknown stays pending.
        """
        files = dict(self.context)
        pending: dict[str, str] = {}
        for key, reference in self.pending_context.items():
            namespace, _, path = reference.partition(":")
            folder = self.folder_of(namespace)
            if folder is None:
                pending[key] = reference
            else:
                files[key] = context_path(folder, path)
        return replace_bundle(self, context=files, pending_context=pending)


def replace_bundle(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with some fields changed."""
    return Bundle(**{name: getattr(bundle, name) for name in bundle.__slots__} | changes)


def with_sources(bundle: Bundle, overrides: Mapping[str, str]) -> Bundle:
    """The bundle with other sources for some modules; a module without a source keeps none."""
    if not overrides:
        return bundle
    sections: dict[str, Any] = {name: list(getattr(bundle, name)) for name in _KIND_OF_LIST}
    changed = _overridden({"session": bundle.session, **sections}, overrides)
    agents = {name: _overridden(agent, overrides) for name, agent in bundle.agents.items()}
    lists = {name: tuple(changed[name]) for name in sections}
    return replace_bundle(bundle, session=changed["session"], agents=agents, **lists)


def _overridden(value: Any, overrides: Mapping[str, str]) -> Any:
    if is_list(value):
        return [_overridden(item, overrides) for item in value]
    if not is_mapping(value):
        return value
    changed = {key: value[key] if key == "config" else _overridden(value[key], overrides) for key in value}
    for module, source in (
        ("module", "source"),
        ("orchestrator", "orchestrator_source"),
        ("context", "context_source"),
    ):
        if is_text(value.get(module)) and value.get(source):
            changed[source] = overrides.get(value[module], value[source])
    return changed


def context_path(folder: Path, name: str) -> Path:
    """The file a context entry names below a folder; leading slashes do not leave it."""
    return folder / name.lstrip("/")


def absolute_source(source: Any, folder: Path | None) -> Any:
    """A source that begins with `./` or `../`, made absolute; everything else stays as written."""
    if folder is None or not isinstance(source, str) or not source.startswith(("./", "../")):
        return source
    return os.path.normpath(folder / source)


def _modules(sections: Mapping[str, Any], folder: Path | None) -> Iterator[ModuleSpec]:
    """The modules the sections of a bundle or an agent name: orchestrator, context, then the lists in order."""
    session: Any = sections.get("session")
    for role in ("orchestrator", "context") if is_mapping(session) else ():
        value: Any = session.get(role)
        if is_mapping(value):
            yield _spec(value, role, folder, ("session", role))
        elif is_text(value):
            entry = {"module": value, "source": session.get(f"{role}_source")}
            yield _spec(entry, role, folder, ("session", role))
    for section, kind in _KIND_OF_LIST.items():
        entries: Any = sections.get(section)
        for index, entry in enumerate(entries if is_list(entries) else ()):
            if is_mapping(entry):
                yield _spec(entry, kind, folder, (section, index))
            elif is_text(entry):
                yield ModuleSpec(module=entry, kind=kind, path=(section, index))


def _spec(entry: Entry, kind: ModuleKind, folder: Path | None, path: tuple[str | int, ...]) -> ModuleSpec:
    module, source, config = entry.get("module"), entry.get("source"), entry.get("config")
    flaw = None
    if not is_text(module):
        flaw = f"An entry for a module of kind {kind} names no module."
    elif source is not None and not is_text(source):
        flaw = f"The source of {module} must be a text."
    elif config is not None and not is_mapping(config):
        flaw = f"The config of {module} must be a mapping."
    text = absolute_source(source, folder) if is_text(source) else None
    return ModuleSpec(module=str(module or ""), kind=kind, source=text, flaw=flaw, path=path)


def _includes_of(entries: list[Any]) -> tuple[str, ...]:
    return tuple(text for entry in entries if (text := include_text(entry)))


def _entries_of(data: dict[str, Any], section: str, folder: Path | None) -> tuple[Entry, ...]:
    entries: list[Any] = data.get(section) or []
    return tuple(_with_absolute_source(entry, folder) for entry in entries)


def _with_absolute_source(entry: Any, folder: Path | None) -> Any:
    if not is_mapping(entry) or "source" not in entry:
        return entry
    return {**entry, "source": absolute_source(entry["source"], folder)}


def _session_of(session: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    result = dict(session)
    for role in ("orchestrator", "context"):
        if role in result:
            result[role] = _with_absolute_source(result[role], folder)
        if f"{role}_source" in result:
            result[f"{role}_source"] = absolute_source(result[f"{role}_source"], folder)
    return result


def _agents_of(section: Any) -> dict[str, Entry]:
    """The roster: names from `include`, then the definitions written in place, which replace them."""
    if not is_mapping(section):
        return {}
    roster: dict[str, Entry] = {name: {"name": name} for name in section.get("include", [])}
    definitions = ((name, value) for name, value in section.items() if name != "include")
    return roster | {name: value for name, value in definitions if is_mapping(value)}


def _context_of(section: dict[str, Any], folder: Path | None) -> tuple[dict[str, Path], dict[str, str]]:
    files: dict[str, Path] = {}
    pending: dict[str, str] = {}
    for name in section.get("include", []):
        if ":" in name:
            pending[name] = name
        elif folder is not None:
            files[name] = context_path(folder, name)
    for key, path in section.items():
        if key != "include" and isinstance(path, str):
            files[key] = folder / path if folder else Path(path)
    return files, pending


def _own_namespace(name: str, namespace_root: str | None, folder: Path | None) -> dict[str, Path]:
    if not name or not namespace_root or folder is None:
        return {}
    return {name: Path(os.path.normpath(folder / namespace_root))}
