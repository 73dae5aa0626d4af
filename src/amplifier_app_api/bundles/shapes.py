"""What the sections of a bundle must look like.

Two readers ask. Loading an included file asks only for shapes that cannot be read otherwise, because other
people's bundles are not ours to correct. Storing a document asks for more: what would be dropped without a
word is refused while its writer is still there to hear it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from amplifier_app_api.errors import ErrorItem

from .values import is_list, is_mapping, is_text, pointer

MODULE_LISTS = ("providers", "tools", "hooks")
Problems = Iterator[ErrorItem]


def _problem(detail: str, *at: str | int) -> ErrorItem:
    return ErrorItem(code="invalid_document", detail=detail, pointer=pointer(*at))


def problems_of_shape(data: dict[str, Any], *, to_store: bool = False) -> list[ErrorItem]:
    """Every section that has the wrong shape, in the order of the format; `to_store` is the stricter reading."""
    sections: tuple[Callable[[dict[str, Any], bool], Problems], ...] = (
        _bundle,
        _includes,
        _session,
        _module_lists,
        _agents,
        _context,
        _spawn,
    )
    return [problem for section in sections for problem in section(data, to_store)]


def _bundle(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("bundle")
    if not is_mapping(section):
        if to_store or "bundle" in data:
            yield _problem("bundle must be a mapping with at least a name.", "bundle")
        return
    name = section.get("name")
    if to_store and not (is_text(name) and name.strip()):
        yield _problem("bundle.name must be a text that is not empty.", "bundle", "name")
    elif "name" in section and not isinstance(name, str):
        yield _problem("bundle.name must be a text.", "bundle", "name")
    if not isinstance(section.get("description") or "", str):
        yield _problem("bundle.description must be a text.", "bundle", "description")
    if is_mapping(section.get("version")) or is_list(section.get("version")):
        yield _problem("bundle.version must be a text or a number.", "bundle", "version")
    if not isinstance(section.get("namespace_root") or "", str):
        yield _problem("bundle.namespace_root must be a path.", "bundle", "namespace_root")


def _includes(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("includes")
    if section is None:
        return
    if not is_list(section):
        yield _problem("includes must be a list.", "includes")
        return
    for index, entry in enumerate(section):
        if include_text(entry) is None:
            yield _problem(
                "An include must be a text, or a mapping whose bundle is one (includes: [{bundle: foundation}]).",
                "includes",
                index,
            )


def include_text(entry: object) -> str | None:
    """What an entry of `includes` names, or nothing when it has neither of the two known shapes."""
    named = entry.get("bundle") if is_mapping(entry) else entry
    return named if is_text(named) and named.strip() else None


def _session(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("session")
    if section is None:
        return
    if not is_mapping(section):
        yield _problem("session must be a mapping.", "session")
        return
    for role in ("orchestrator", "context"):
        value = section.get(role)
        if is_mapping(value):
            yield from _module(value, to_store, "session", role)
        elif value is not None and not is_text(value):
            yield _problem(f"session.{role} must be a module id or a mapping with module.", "session", role)
        source = section.get(f"{role}_source")
        if source is not None and not is_text(source):
            yield _problem(f"session.{role}_source must be a text.", "session", f"{role}_source")


def _module_lists(data: dict[str, Any], to_store: bool) -> Problems:
    for section in MODULE_LISTS:
        yield from _module_list(data, section, to_store)


def _module_list(data: dict[str, Any], section: str, to_store: bool, *prefix: str) -> Problems:
    entries = data.get(section)
    if not entries and not (to_store and entries is not None and not is_list(entries)):
        return
    if not is_list(entries):
        yield _problem(f"{section} must be a list of mappings.", *prefix, section)
        return
    for index, entry in enumerate(entries):
        if not is_mapping(entry):
            yield _problem(f"Each entry of {section} must be a mapping with module.", *prefix, section, index)
        elif not to_store:
            # An identity must be one: entries are found by it when bundles are composed.
            for key in ("module", "id"):
                if is_mapping(entry.get(key)) or is_list(entry.get(key)):
                    yield _problem(f"{key} must be a text.", *prefix, section, index, key)
        else:
            if not is_text(entry.get("module")):
                yield _problem("module must be the id of a module.", *prefix, section, index, "module")
            yield from _module(entry, to_store, *prefix, section, index)


def _module(entry: dict[str, Any], to_store: bool, *at: str | int) -> Problems:
    """The optional keys of a mapping that names a module."""
    if not to_store:
        return
    if not isinstance(entry.get("module", ""), str):
        yield _problem("module must be the id of a module.", *at, "module")
    if entry.get("config") is not None and not is_mapping(entry["config"]):
        yield _problem("config must be a mapping.", *at, "config")
    for key in ("source", "id", "instance_id"):
        if entry.get(key) is not None and not is_text(entry[key]):
            yield _problem(f"{key} must be a text.", *at, key)


def _agents(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("agents")
    if section is None or isinstance(section, str):
        return
    if not is_mapping(section):
        if not is_list(section):
            yield _problem("agents must be a mapping, a list of names, all or none.", "agents")
        elif to_store and not all(is_text(name) for name in section):
            yield _problem("agents, as a list, must hold names.", "agents")
        return
    yield from _keys(section, "agents")
    yield from _texts(section, "agents")
    for name, definition in section.items():
        if name == "include" or not is_mapping(definition):
            continue
        for kind in MODULE_LISTS:
            if definition.get(kind) is not None and not is_list(definition[kind]):
                yield _problem(f"{kind} of an agent must be a list.", "agents", str(name), kind)


def _context(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("context")
    if section is None:
        return
    if not is_mapping(section):
        yield _problem("context must be a mapping: include: [files], or a name for each file.", "context")
        return
    yield from _keys(section, "context")
    yield from _texts(section, "context")
    for key, value in section.items():
        if to_store and key != "include" and not is_text(value):
            yield _problem("A named context file must be a text, the path of the file.", "context", str(key))


def _keys(section: dict[Any, Any], name: str) -> Problems:
    """The names a section gives, which bundles are composed by."""
    for key in section:
        if not isinstance(key, str):
            yield _problem(f"The names in {name} must be texts.", name)


def _texts(section: dict[str, Any], name: str) -> Problems:
    """The `include` list of a section."""
    if "include" not in section:
        return
    entries = section["include"]
    if not is_list(entries):
        yield _problem(f"{name}.include must be a list of texts.", name, "include")
        return
    for index, entry in enumerate(entries):
        if not is_text(entry):
            yield _problem(f"Each entry of {name}.include must be a text.", name, "include", index)


def _spawn(data: dict[str, Any], to_store: bool) -> Problems:
    section = data.get("spawn")
    if section is not None and not is_mapping(section):
        yield _problem("spawn must be a mapping.", "spawn")
