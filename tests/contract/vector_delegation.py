"""The operations of the vectors on what a child session gets."""

import asyncio
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.delegation import child_plan, child_session_id, inherited, total_cost
from amplifier_app_api.bundles.mount_plan import add_events
from amplifier_app_api.bundles.preferences import mounted_names, prefer, prefer_existing


def merged(item: dict[str, Any], root: Path) -> Any:
    return child_plan(item["parent"], item["agent"])


def aliased(item: dict[str, Any], root: Path) -> Any:
    """Which sections of the child's plan are the parent's own objects."""
    parent = item["parent"]
    child = child_plan(parent, item["agent"])
    return {section: child.get(section) is parent[section] for section in parent}


def with_inheritance(item: dict[str, Any], root: Path) -> Any:
    plan = item["config"]
    if "tool_inheritance" in item:
        plan = inherited(plan, "tools", item["tool_inheritance"], item.get("explicit", ()))
    if "hook_inheritance" in item:
        plan = inherited(plan, "hooks", item["hook_inheritance"])
    return plan


def with_preferences(item: dict[str, Any], root: Path) -> Any:
    plan, preferences = item["mount_plan"], item["preferences"]
    if "coordinator" not in item:
        return prefer(plan, preferences)
    mounted: dict[str, list[str] | None] = item["coordinator"]["providers"]

    async def models(entry: Mapping[str, Any]) -> Sequence[str]:
        return next((mounted[name] or [] for name in mounted_names(entry) if name in mounted), [])

    return asyncio.run(prefer_existing(plan, preferences, models))


def session_id(item: dict[str, Any], root: Path) -> Any:
    child = child_session_id(
        item.get("agent_name", ""),
        parent_session_id=item.get("parent_session_id", ""),
        parent_trace_id=item.get("parent_trace_id", ""),
    )
    parts = re.fullmatch(r"([0-9a-f]{16})-([0-9a-f]+)_(.*)", child)
    assert parts is not None, child
    return {"parent_span": parts[1], "child_span_length": len(parts[2]), "suffix": parts[3]}


def cost(item: dict[str, Any], root: Path) -> Any:
    total = total_cost(item["contributions"])
    return None if total is None else str(total)


def with_events(item: dict[str, Any], root: Path) -> Any:
    plan = copy.deepcopy(item["mount_plan"])
    add_events(plan, item["events"])
    return plan
