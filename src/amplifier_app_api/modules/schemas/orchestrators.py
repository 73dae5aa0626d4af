"""The options of the loops."""

from __future__ import annotations

from amplifier_app_api.modules.schemas.fields import Options, flag, integer, text

_LOOP: Options = {
    "max_iterations": integer("Model calls a turn may make; a negative number sets no limit.", -1),
    "extended_thinking": flag("Ask the provider to think before it answers.", False),
    "reasoning_effort": text(
        "How hard the model should think; providers that know no efforts ignore it.",
        examples=["low", "medium", "high"],
    ),
}

ORCHESTRATORS: dict[str, Options] = {"loop-basic": _LOOP, "loop-streaming": _LOOP}
