"""What a child session runs: the parent's mount plan with an agent's definition laid over it.

Unlike composing bundles, the overlay replaces lists, inside options too: an agent says what it has, not what it
adds. Nothing here changes its inputs; every result is the caller's own.
"""

import copy
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from .compose import identity
from .values import is_list, is_mapping, is_text

_MODULE_LISTS = ("hooks", "tools", "providers")
_CHILD_OF_CHILD = re.compile(r"[0-9a-f]{16}-([0-9a-f]{16})_")
_TRACE = re.compile(r"[0-9a-f]{32}")
_NO_SPAN = "0" * 16


def child_plan(parent: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    """The mount plan of a child: what it may inherit of the parent's, then what the agent says itself."""
    plan = _inheritable(copy.deepcopy(dict(parent)))
    overlay = copy.deepcopy({key: value for key, value in agent.items() if key != "agents"})
    merged = {
        **plan,
        **{key: _laid_over(key, plan[key], value) if key in plan else value for key, value in overlay.items()},
    }
    access = agent.get("agents")
    if access == "none":
        merged["agents"] = {}
    elif is_list(access):
        roster: dict[str, Any] = merged.get("agents") or {}
        merged["agents"] = {name: roster[name] for name in roster if name in access}
    return merged


def _inheritable(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with the tools that `spawn` lets children have."""
    spawn: Any = plan.get("spawn")
    if not is_mapping(spawn):
        return plan
    if "tools" in spawn:
        return {**plan, "tools": copy.deepcopy(spawn["tools"] or [])}
    excluded: Any = spawn.get("exclude_tools")
    return filtered(plan, "tools", exclude=excluded) if is_list(excluded) else plan


def _laid_over(key: str, parent: Any, overlay: Any) -> Any:
    if key in _MODULE_LISTS and is_list(parent) and is_list(overlay):
        return _modules_laid_over(parent, overlay)
    if is_mapping(parent) and is_mapping(overlay):
        return overlaid(parent, overlay)
    return overlay


def overlaid(parent: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else, lists too, is replaced."""
    merged = dict(parent)
    for key, value in overlay.items():
        before = merged.get(key)
        merged[key] = overlaid(before, value) if is_mapping(before) and is_mapping(value) else value
    return merged


def module_entries(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """A list of modules with each as a mapping; a bare text is an id, and what names no module is left out."""
    mappings = ({"module": entry} if is_text(entry) else entry for entry in entries)
    return [entry for entry in mappings if is_mapping(entry) and is_text(identity(entry))]


def _modules_laid_over(parent: list[Any], overlay: list[Any]) -> list[dict[str, Any]]:
    merged: dict[Any, dict[str, Any]] = {}
    for entry in (*module_entries(parent), *module_entries(overlay)):
        key = identity(entry)
        merged[key] = overlaid(merged[key], entry) if key in merged else entry
    return list(merged.values())


def inherited(
    plan: Mapping[str, Any],
    kind: Literal["tools", "hooks"],
    policy: Mapping[str, Any],
    declared: Iterable[Any] = (),
) -> dict[str, Any]:
    """The plan with only those tools or hooks that one call of an agent lets it have.

    `policy` holds `inherit_<kind>`, which counts when it is there, or `exclude_<kind>`. What the agent declares
    itself, by entries or ids, always stays.
    """
    own = frozenset(str(identity(entry)) for entry in module_entries(declared))
    only, exclude = policy.get(f"inherit_{kind}"), policy.get(f"exclude_{kind}")
    if is_list(only):
        return filtered(plan, kind, only=only, keep=own)
    return filtered(plan, kind, exclude=exclude, keep=own) if is_list(exclude) else dict(plan)


def filtered(
    plan: Mapping[str, Any],
    section: str,
    *,
    only: Sequence[Any] | None = None,
    exclude: Sequence[Any] = (),
    keep: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The plan with one list cut down by module id; without that list, the plan as it is."""
    entries: Any = plan.get(section)
    if not is_list(entries):
        return dict(plan)
    return {**plan, section: [entry for entry in entries if _stays(entry, only, exclude, keep)]}


def _stays(entry: Any, only: Sequence[Any] | None, exclude: Sequence[Any], keep: frozenset[str]) -> bool:
    module = entry.get("module") if is_mapping(entry) else entry
    if is_text(module) and module in keep:
        return True
    return module in only if only is not None else module not in exclude


def child_session_id(agent: str = "", *, parent_session_id: str = "", parent_trace_id: str = "") -> str:
    """The id that modules expect of a child session: `<16 hex of the parent>-<16 new hex>_<the agent's name>`."""
    parent = _CHILD_OF_CHILD.match(parent_session_id)
    span = _NO_SPAN
    if parent is not None:
        span = parent[1]
    elif _TRACE.fullmatch(parent_trace_id):
        span = parent_trace_id[8:24]
    name = re.sub(r"[^a-z0-9]+", "-", agent.lower()).strip("-")
    return f"{span}-{secrets.token_hex(8)}_{name or 'agent'}"


def total_cost(contributions: Iterable[Any]) -> Decimal | None:
    """The sum of what the modules of a session say they cost, in dollars; nothing when none of them knows."""
    amounts = [amount for entry in contributions if (amount := _amount(entry)) is not None]
    return sum(amounts, Decimal(0)) if amounts else None


def _amount(entry: Any) -> Decimal | None:
    value: Any = entry.get("cost_usd") if is_mapping(entry) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None
