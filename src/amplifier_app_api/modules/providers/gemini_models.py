"""What is known of Gemini models without asking."""

from __future__ import annotations

from decimal import Decimal

from amplifier_app_api.modules.kernel import Usage
from amplifier_app_api.modules.providers.prices import GOOGLE, Model, known

DEFAULT_MODEL = "gemini-3.8-flash"

_UNKNOWN = Model(1_048_576, 8_192)  # what all of them have had
_OLDER = ("gemini-1", "gemini-2")


def facts_of(model: str) -> Model:
    return known(GOOGLE, model) or _UNKNOWN


def cost_of(model: str, usage: Usage) -> Decimal | None:
    return facts_of(model).cost(usage)


def is_older(model: str) -> bool:
    """Before Gemini 3: thinks by budget instead of level, and answers in JSON or calls tools, not both."""
    return model.startswith(_OLDER)
