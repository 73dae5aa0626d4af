"""`loop-basic`: each answer as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.orchestrators.loop import Loop, LoopOptions

__amplifier_module_type__ = "orchestrator"

MODULE_ID = "loop-basic"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    loop = Loop(MODULE_ID, LoopOptions.read(MODULE_ID, config), streaming=False)
    await loop.mount(coordinator)
