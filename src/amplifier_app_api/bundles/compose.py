"""Composing bundles: later wins, and what wins how is the business of each field.

Nothing is ever removed by composing. Mappings merge, lists grow, modules meet by their identity.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .bundle import Bundle, Entry
from .values import fingerprint_of, is_list, is_mapping


def compose(first: Bundle, *others: Bundle) -> Bundle:
    """The bundles folded left to right. A bundle on its own is returned as it is."""
    result = first
    for other in others:
        result = _fold(result, other)
    return result


def _fold(earlier: Bundle, later: Bundle) -> Bundle:
    return Bundle(
        name=later.name or earlier.name,
        version=later.version or earlier.version,
        description=later.description or earlier.description,
        includes=later.includes,
        session=deep_merge(earlier.session, later.session),
        providers=tuple(merge_modules(earlier.providers, later.providers)),
        tools=tuple(merge_modules(earlier.tools, later.tools)),
        hooks=tuple(merge_modules(earlier.hooks, later.hooks)),
        agents={**earlier.agents, **later.agents},
        agent_folders=_agent_folders(earlier, later),
        spawn=deep_merge(earlier.spawn, later.spawn),
        context={**_prefixed(earlier), **_prefixed(later)},
        pending_context={**earlier.pending_context, **later.pending_context},
        instruction=later.instruction or earlier.instruction,
        namespaces=_namespaces(earlier, later),
        folder=later.folder or earlier.folder,
    )


def deep_merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, two lists become one without repeats, anything else is replaced.

    A null replaces too. Both inputs stay as they are.
    """
    merged = dict(earlier)
    for key, value in later.items():
        merged[key] = _merged(merged[key], value) if key in merged else value
    return merged


def _merged(earlier: Any, later: Any) -> Any:
    if is_mapping(earlier) and is_mapping(later):
        return deep_merge(earlier, later)
    if is_list(earlier) and is_list(later):
        return _without_repeats([*earlier, *later])
    return later


def _without_repeats(values: list[Any]) -> list[Any]:
    unique: dict[object, Any] = {}
    for value in values:
        unique.setdefault(fingerprint_of(value), value)
    return list(unique.values())


def identity(entry: Mapping[str, Any]) -> Any:
    """What makes two entries the same module: the `id`, else the module; nothing when there is neither."""
    return entry.get("id") or entry.get("module") or None


def merge_modules(earlier: Sequence[Entry], later: Sequence[Entry]) -> list[Entry]:
    """Two module lists as one: the same identity merges in the earlier place, new ones are appended.

    Entries without an identity vanish. A repeat inside the earlier list replaces, inside the later it merges.
    """
    merged: dict[Any, Entry] = {}
    for entry in earlier:
        if (key := identity(entry)) is not None:
            merged[key] = entry
    for entry in later:
        if (key := identity(entry)) is not None:
            merged[key] = deep_merge(merged[key], entry) if key in merged else entry
    return list(merged.values())


def _prefixed(bundle: Bundle) -> dict[str, Path]:
    """The context files under keys that stay unique beside another bundle's."""
    if not bundle.name:
        return dict(bundle.context)
    return {key if ":" in key else f"{bundle.name}:{key}": path for key, path in bundle.context.items()}


def _agent_folders(earlier: Bundle, later: Bundle) -> dict[str, Path]:
    """Where the sources of each agent start: in the document its definition came from."""
    kept = {name: folder for name, folder in earlier.agent_folders.items() if name not in later.agents}
    return {**kept, **later.agent_folders}


def _namespaces(earlier: Bundle, later: Bundle) -> dict[str, Path]:
    """Names to folders; the first bundle that claims a name keeps it."""
    return _claimed(later) | _claimed(earlier)


def _claimed(bundle: Bundle) -> dict[str, Path]:
    own = {bundle.name: bundle.folder} if bundle.name and bundle.folder else {}
    return own | dict(bundle.namespaces)
