"""`Bundle`: one document, or several composed, as the sections mean it.

A bundle is immutable. Composing gives a new one, and nothing a caller gets out of one may be changed in
place: bundles are shared by every session that was prepared from them.
"""

import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .document import InvalidDocument
from .shapes import MODULE_LISTS, include_text, problems_of_shape
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a document says.

    `context` maps keys to files, in order; `pending_context` holds the references `namespace:path` that are
    resolved once everything is composed. `namespaces` maps bundle names to folders. `folder` is where
    relative paths start; a stored document has none.
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
        return cls(
            name=name,
            version=head.get("version", "1.0.0"),
            description=head.get("description", ""),
            includes=_includes_of(data.get("includes") or []),
            session=_session_of(data.get("session") or {}, folder),
            providers=_entries_of(data, "providers", folder),
            tools=_entries_of(data, "tools", folder),
            hooks=_entries_of(data, "hooks", folder),
            agents=_agents_of(data.get("agents"), folder),
            spawn=data.get("spawn") or {},
            context=context,
            pending_context=pending,
            instruction=instruction,
            namespaces=own,
            folder=folder,
        )

    def modules(self) -> Iterator[ModuleSpec]:
        """Every module the bundle itself mounts: orchestrator, context, then the lists in order."""
        for role in ("orchestrator", "context"):
            value: Any = self.session.get(role)
            if is_mapping(value):
                yield _spec(value, role, ("session", role))
            elif is_text(value):
                source = self.session.get(f"{role}_source")
                yield ModuleSpec(module=value, kind=role, source=source, path=("session", role))
        for section, kind in _KIND_OF_LIST.items():
            entries: tuple[Entry, ...] = getattr(self, section)
            for index, entry in enumerate(entries):
                yield _spec(entry, kind, (section, index))

    def resolve_context(self) -> "Bundle":
        """The same bundle with every `namespace:path` whose namespace is known turned into a file.

        Resolved files come after the direct ones. What is unknown stays pending.
        """
        files = dict(self.context)
        pending: dict[str, str] = {}
        for key, reference in self.pending_context.items():
            namespace, _, path = reference.partition(":")
            folder = self.namespaces.get(namespace) or (self.folder if namespace == self.name else None)
            if folder is None:
                pending[key] = reference
            else:
                files[key] = context_path(folder, path)
        return replace_bundle(self, context=files, pending_context=pending)


def replace_bundle(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with some fields changed."""
    return Bundle(**{name: getattr(bundle, name) for name in bundle.__slots__} | changes)


def context_path(folder: Path, name: str) -> Path:
    """The file a context entry names below a folder; leading slashes do not leave it."""
    return folder / name.lstrip("/")


def absolute_source(source: Any, folder: Path | None) -> Any:
    """A source that begins with `./` or `../`, made absolute; everything else stays as written."""
    if folder is None or not isinstance(source, str) or not source.startswith(("./", "../")):
        return source
    return os.path.normpath(folder / source)


def _spec(entry: Entry, kind: ModuleKind, path: tuple[str | int, ...]) -> ModuleSpec:
    module, source, config = entry.get("module"), entry.get("source"), entry.get("config")
    flaw = None
    if not is_text(module):
        flaw = f"An entry for a module of kind {kind} names no module."
    elif source is not None and not is_text(source):
        flaw = f"The source of {module} must be a text."
    elif config is not None and not is_mapping(config):
        flaw = f"The config of {module} must be a mapping."
    return ModuleSpec(
        module=str(module or ""), kind=kind, source=source if is_text(source) else None, flaw=flaw, path=path
    )


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


def _agents_of(section: Any, folder: Path | None) -> dict[str, Entry]:
    """The roster: names from `include`, then the definitions written in place, which replace them."""
    if not is_mapping(section):
        return {}
    roster: dict[str, Entry] = {name: {"name": name} for name in section.get("include", [])}
    for name, definition in section.items():
        if name != "include" and is_mapping(definition):
            roster[name] = _agent_of(definition, folder)
    return roster


def _agent_of(definition: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    result = dict(definition)
    if is_mapping(result.get("session")):
        result["session"] = _session_of(result["session"], folder)
    for section in MODULE_LISTS:
        if is_list(result.get(section)):
            result[section] = [_with_absolute_source(entry, folder) for entry in result[section]]
    return result


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
