"""What is known of Claude models without asking: windows, thinking, list prices.

Prices in US dollars per million tokens, as Anthropic published them in November 2026. A model that is not here
works; its window is taken for the smallest that current models have, and its cost is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from amplifier_app_api.modules.kernel import Usage

DEFAULT_MODEL = "claude-sonnet-5-5"

_MILLION = Decimal(1_000_000)
_CACHE_READ = Decimal("0.1")  # of the input price
_CACHE_WRITE = Decimal("1.25")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    context_window: int = 200_000
    max_output_tokens: int = 64_000
    adaptive_thinking: bool = True  # thinks as much as it wants; older ones must be given a budget
    input_price: Decimal | None = None
    output_price: Decimal | None = None


def _model(window: int, output: int, adaptive: bool, input_price: str, output_price: str) -> ModelFacts:
    return ModelFacts(window, output, adaptive, Decimal(input_price), Decimal(output_price))


_UNKNOWN = ModelFacts()
_KNOWN = {
    "claude-fable-5-1": _model(1_000_000, 128_000, True, "10", "50"),
    "claude-fable-5": _model(1_000_000, 128_000, True, "10", "50"),
    "claude-opus-5-5": _model(1_000_000, 128_000, True, "4", "20"),
    "claude-opus-5": _model(1_000_000, 128_000, True, "5", "25"),
    "claude-sonnet-5-5": _model(1_000_000, 128_000, True, "2", "10"),
    "claude-sonnet-5": _model(1_000_000, 128_000, True, "2", "10"),
    "claude-haiku-5-5": ModelFacts(1_000_000, 128_000),  # its price depends on more than tokens
    "claude-opus-4-8": _model(1_000_000, 128_000, True, "5", "25"),
    "claude-opus-4-7": _model(1_000_000, 128_000, True, "5", "25"),
    "claude-opus-4-6": _model(1_000_000, 128_000, True, "5", "25"),
    "claude-sonnet-4-6": _model(1_000_000, 64_000, True, "3", "15"),
    "claude-opus-4-5": _model(200_000, 64_000, False, "5", "25"),
    "claude-sonnet-4-5": _model(200_000, 64_000, False, "3", "15"),
    "claude-haiku-4-5": _model(200_000, 64_000, False, "1", "5"),
    "claude-opus-4-1": _model(200_000, 32_000, False, "15", "75"),
}


def facts_of(model: str) -> ModelFacts:
    """By name; a date behind the name (`claude-sonnet-4-5-20250929`) changes nothing."""
    known = _KNOWN.get(model)
    if known is not None:
        return known
    name, _, date = model.rpartition("-")
    return _KNOWN.get(name, _UNKNOWN) if len(date) == 8 and date.isdigit() else _UNKNOWN


def cost_of(model: str, usage: Usage) -> Decimal | None:
    """The list price of one call; None where prices are not known."""
    facts = facts_of(model)
    if facts.input_price is None or facts.output_price is None:
        return None
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    fresh = usage.input_tokens - read - written
    weighed = fresh + read * _CACHE_READ + written * _CACHE_WRITE
    return (weighed * facts.input_price + usage.output_tokens * facts.output_price) / _MILLION
