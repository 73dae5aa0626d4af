"""What is known of Claude models without asking: what their API lets a request say."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from amplifier_app_api.modules.kernel import Usage
from amplifier_app_api.modules.providers.prices import ANTHROPIC, Model, known

DEFAULT_MODEL = "claude-sonnet-5-5"

_UNKNOWN = Model(200_000, 64_000)  # the smallest that current models have


@dataclass(frozen=True, slots=True)
class Manners:
    """What a model's API takes; anything else is an error there."""

    adaptive: bool = True  # thinks as much as it wants; older ones must be given a budget
    budget: bool = False  # may be given one
    sampling: bool = True  # temperature, top_p
    always: bool = False  # thinks whether asked or not
    forced: bool = True  # may be told to call a tool


_BUDGETED = Manners(adaptive=False, budget=True)
_EITHER = Manners(budget=True)
_ADAPTIVE = Manners(sampling=False)
_ALWAYS = Manners(sampling=False, always=True)
_NEWEST = Manners(sampling=False, always=True, forced=False)
_MANNERS = {
    "claude-fable-5-1": _NEWEST,
    "claude-opus-5-5": _NEWEST,
    "claude-sonnet-5-5": _NEWEST,
    "claude-haiku-5-5": _NEWEST,
    "claude-fable-5": _ALWAYS,
    "claude-opus-5": _ADAPTIVE,
    "claude-sonnet-5": _ADAPTIVE,
    "claude-opus-4-8": _ADAPTIVE,
    "claude-opus-4-7": _ADAPTIVE,
    "claude-opus-4-6": _EITHER,
    "claude-sonnet-4-6": _EITHER,
    "claude-opus-4-5": _BUDGETED,
    "claude-sonnet-4-5": _BUDGETED,
    "claude-haiku-4-5": _BUDGETED,
    "claude-opus-4-1": _BUDGETED,
}
_UNKNOWN_MANNERS = _EITHER


def facts_of(model: str) -> Model:
    return known(ANTHROPIC, model) or _UNKNOWN


def manners_of(model: str) -> Manners:
    return _MANNERS.get(model) or _MANNERS.get(model.rpartition("-")[0]) or _UNKNOWN_MANNERS


def cost_of(model: str, usage: Usage) -> Decimal | None:
    return facts_of(model).cost(usage)
