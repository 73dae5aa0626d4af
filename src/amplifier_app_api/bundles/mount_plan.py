"""`Bundle` to the mapping the kernel reads."""

import copy
from collections import Counter
from typing import Any

from .bundle import Bundle
from .values import is_mapping

_SECTIONS = ("session", "providers", "tools", "hooks", "agents", "spawn")


def mount_plan(bundle: Bundle) -> dict[str, Any]:
    """The sections that hold something, copied all the way down. Nothing else of a bundle reaches the kernel."""
    plan: dict[str, Any] = {}
    for section in _SECTIONS:
        value: Any = getattr(bundle, section)
        if value:
            plan[section] = copy.deepcopy(value if is_mapping(value) else list(value))
    return plan


def kernel_plan(bundle: Bundle) -> dict[str, Any]:
    """The mount plan with an `instance_id` wherever the kernel needs one.

    Bundles tell two entries of one provider apart by `id`, the kernel by `instance_id`; without it the second
    entry of a module cannot be mounted.
    """
    plan = mount_plan(bundle)
    providers: list[dict[str, Any]] = plan.get("providers", [])
    uses = Counter(entry.get("module") for entry in providers)
    for entry in providers:
        if uses[entry.get("module")] > 1 and entry.get("id") and not entry.get("instance_id"):
            entry["instance_id"] = entry["id"]
    return plan
