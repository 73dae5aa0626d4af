"""`Bundle` to the mapping the kernel reads."""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .bundle import Bundle
from .values import is_list, is_mapping

_SECTIONS = ("session", "providers", "tools", "hooks", "agents", "spawn")

_SUBSCRIBERS = ("hooks-logging", "hook-context-intelligence")
HOST_EVENTS = ("session:config", "mentions:resolved")
"""Kernel events that the host emits, which a module that subscribes by name cannot know of."""


def mount_plan(bundle: Bundle) -> dict[str, Any]:
    """The sections that hold something, copied all the way down. Nothing else of a bundle reaches the kernel."""
    plan: dict[str, Any] = {}
    for section in _SECTIONS:
        value: Any = getattr(bundle, section)
        if value:
            plan[section] = copy.deepcopy(value if is_mapping(value) else list(value))
    return plan


def kernel_plan(bundle: Bundle) -> dict[str, Any]:
    """The mount plan with an `instance_id` wherever the kernel needs one, and the host's events where they are heard.

    Bundles tell two entries of one provider apart by `id`, the kernel by `instance_id`; without it the second
    entry of a module cannot be mounted.
    """
    plan = mount_plan(bundle)
    providers: list[dict[str, Any]] = plan.get("providers", [])
    uses = Counter(entry.get("module") for entry in providers)
    for entry in providers:
        if uses[entry.get("module")] > 1 and entry.get("id") and not entry.get("instance_id"):
            entry["instance_id"] = entry["id"]
    add_events(plan, HOST_EVENTS)
    return plan


def add_events(plan: dict[str, Any], events: Iterable[str]) -> None:
    """Add names to the `additional_events` of the hooks that subscribe to the events they are told of, in place."""
    hooks: Any = plan.get("hooks")
    for entry in hooks if is_list(hooks) else ():
        if not is_mapping(entry) or entry.get("module") not in _SUBSCRIBERS:
            continue
        config: Any = entry["config"] if is_mapping(entry.get("config")) else {}
        named: Any = config.get("additional_events")
        names: list[Any] = list(named) if is_list(named) else []
        names.extend(event for event in dict.fromkeys(events) if event not in names)
        entry["config"] = {**config, "additional_events": names}
