"""The agents of a bundle: a roster of names and definitions, completed from the files they have.

The agent `ns:scout` has the file `agents/scout.md` below the folder of the bundle `ns`, a plain name one below
the folder of the composed bundle. What a file says fills only what the roster leaves empty. A file that cannot
be read is a warning: the agent stays as the roster has it.
"""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amplifier_app_api.errors import Invalid

from .bundle import Bundle, replace_bundle
from .document import Document, InvalidDocument
from .fetched import Unresolved
from .folders import AllowedFolders, NotAllowed
from .locating import leaves
from .reading import Reader
from .values import is_list, is_mapping, quoted

_OF_THE_HEADER = ("tools", "providers", "hooks", "session", "provider_preferences", "model_role")
_IGNORED = ("context", "spawn", "includes")
_MAX_NAME = 512


def agent_path(folder: Path, name: str) -> Path:
    """The file an agent of this name has below the folder of its bundle."""
    return folder / "agents" / (name if name.endswith(".md") else f"{name}.md")


def agent_of(document: Document, name: str) -> dict[str, Any]:
    """The definition an agent's file holds; `name` is the one it has when the file gives none.

    Its descriptive keys stand below `meta`, or at the top when there is a name or a description. The body is
    the instruction.
    """
    header = document.data
    meta: Any = header.get("meta")
    if not meta:
        meta = header if "name" in header or "description" in header else {}
    if not is_mapping(meta):
        raise InvalidDocument.at("meta must be a mapping.", pointer="/meta")
    agent: dict[str, Any] = {"name": name, "description": "", **meta}
    agent |= {key: header[key] for key in _OF_THE_HEADER if key in header}
    if "agents" in header:
        agent |= _access(header["agents"])
    for key in _IGNORED:
        agent.pop(key, None)
    if is_mapping(agent.get("agents")):
        del agent["agents"]
    if document.instruction:
        agent["instruction"] = document.instruction
    return _plain(agent)


def _access(declared: object) -> dict[str, Any]:
    """Which agents an agent may use itself."""
    if declared in ("all", "none") or is_list(declared):
        return {"agents": declared}
    if is_mapping(declared):
        return {}
    raise InvalidDocument.at(
        "agents, in the file of an agent, must be all, none or a list of names.", pointer="/agents"
    )


def _plain(value: Any) -> Any:
    """A value as JSON can carry it: a date is what one writes in a header, and no reason to lose the agent."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if is_mapping(value):
        return {str(key): _plain(item) for key, item in value.items()}
    if is_list(value):
        return [_plain(item) for item in value]
    return value


def with_agent_files(bundle: Bundle, reader: Reader, allowed: AllowedFolders) -> tuple[Bundle, tuple[str, ...]]:
    """The bundle with its agents completed, and warnings. Reads files, only below the folders of its bundles."""
    agents: dict[str, Any] = {}
    warnings: list[str] = []
    for name, entry in bundle.agents.items():
        try:
            found = _from_file(bundle, name, reader, allowed)
        except (Unresolved, Invalid) as refusal:
            agents[name] = entry
            warnings.append(f"The file of the agent {quoted(name)} cannot be used: {refusal.detail}")
            continue
        if found is None and set(entry) == {"name"}:
            warnings.append(f"The agent {quoted(name)} is only a name: it has no file and no definition.")
        agents[name] = dict(_completed(entry, found or {}))
    return replace_bundle(bundle, agents=agents), tuple(warnings)


def _completed(entry: Any, from_file: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from entry.items()
    yield from ((key, value) for key, value in from_file.items() if not entry.get(key))


def _from_file(bundle: Bundle, name: str, reader: Reader, allowed: AllowedFolders) -> dict[str, Any] | None:
    namespace, colon, rest = name.partition(":")
    folder = bundle.folder_of(namespace) if colon else bundle.folder
    if folder is None or not name or len(name) > _MAX_NAME or "\x00" in name:
        return None
    path = agent_path(folder, rest if colon else name)
    if leaves(folder, path):
        raise Unresolved("source_not_allowed", "it leads out of the folder of its bundle.")
    try:
        file = allowed.resolve(path)
    except NotAllowed:
        raise Unresolved("source_not_allowed", "it may not be read.") from None
    return agent_of(reader.agent(file), name) if file.is_file() else None
