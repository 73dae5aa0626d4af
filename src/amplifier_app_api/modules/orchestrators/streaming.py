"""`loop-streaming`: answers arrive token by token, as the provider makes them; and a session may have a goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.orchestrators.goals import GoalOptions
from amplifier_app_api.modules.orchestrators.loop import Loop, LoopOptions

__amplifier_module_type__ = "orchestrator"

MODULE_ID = "loop-streaming"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    goals = GoalOptions.read(MODULE_ID, config)
    loop = Loop(MODULE_ID, LoopOptions.read(MODULE_ID, config), streaming=True, goals=goals)
    await loop.mount(coordinator)
