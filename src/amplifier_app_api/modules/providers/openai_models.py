"""What is known about OpenAI's models: windows, limits and list prices (US dollars for a million tokens).

As read between 2026-10-04 and 2026-11-05 from the vendor's pages (developers.openai.com, pricing and models). A model
that is not here works; its cost is unknown, which is not zero.

With the models that read a million tokens, a request longer than `LONG_PROMPT` costs more as a whole. They are
given a window that ends where that begins, unless the option `enable_long_context` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from amplifier_app_api.modules.kernel import Usage
from amplifier_app_api.modules.providers.prices import Model, Rates

DEFAULT_MODEL = "gpt-6.1-sol"

LONG_PROMPT = 272_000

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONS = re.compile(r"(gpt-([5-9]|\d\d)|o\d|codex-)")
_UNKNOWN = Model(128_000, 16_384)


def _long(input_price: str, output: str, cached: str, *, writes_cost: bool = True) -> Model:
    """A window of a million; twice the input and half again the output price for a long prompt."""
    write = Decimal(input_price) * Decimal("1.25") if writes_cost else Decimal(input_price)
    rates = Rates(Decimal(input_price), Decimal(output), Decimal(cached), write)
    long = Rates(rates.input * 2, rates.output * Decimal("1.5"), rates.cache_read * 2, rates.cache_write * 2)
    return Model(1_050_000, 128_000, rates, long=long, long_above=LONG_PROMPT)


OPENAI: Mapping[str, Model] = MappingProxyType(
    {
        "gpt-6.2-astra": Model(1_050_000, 128_000),  # no published price seen
        "gpt-6.2-sol": Model(1_050_000, 128_000),
        "gpt-6.1-sol": _long("2", "10", "0.1"),
        "gpt-6.1-terra": _long("1", "5", "0.05"),
        "gpt-6-astra": _long("10", "50", "1"),
        "gpt-6-sol": _long("2", "10", "0.2"),
        "gpt-6-luna": _long("0.1", "0.5", "0.01"),
        "gpt-5.6-sol": _long("4", "20", "0.4"),
        "gpt-5.6-terra": _long("2", "12", "0.2"),
        "gpt-5.6-luna": _long("0.2", "1.2", "0.02"),
        "gpt-5.5": _long("5", "30", "0.5", writes_cost=False),
        "gpt-5.4": _long("2.5", "15", "0.25", writes_cost=False),
        "gpt-5.4-mini": Model(400_000, 128_000, Rates.of("0.75", "4.5", "0.075")),
        "gpt-5.4-nano": Model(400_000, 128_000, Rates.of("0.2", "1.25", "0.02")),
        "gpt-5.2": Model(400_000, 128_000, Rates.of("1.75", "14", "0.175")),
        "gpt-5.1": Model(400_000, 128_000, Rates.of("1.25", "10", "0.125")),
        "gpt-5": Model(400_000, 128_000, Rates.of("1.25", "10", "0.125")),
        "gpt-5-mini": Model(400_000, 128_000, Rates.of("0.25", "2", "0.025")),
        "gpt-5-nano": Model(400_000, 128_000, Rates.of("0.05", "0.4", "0.005")),
        "gpt-4.1": Model(1_047_576, 32_768, Rates.of("2", "8", "0.5")),
        "gpt-4.1-mini": Model(1_047_576, 32_768, Rates.of("0.4", "1.6", "0.1")),
        "gpt-4.1-nano": Model(1_047_576, 32_768, Rates.of("0.1", "0.4", "0.025")),
        "gpt-4o": Model(128_000, 16_384, Rates.of("2.5", "10", "1.25")),
        "gpt-4o-mini": Model(128_000, 16_384, Rates.of("0.15", "0.6", "0.075")),
        "o1": Model(200_000, 100_000, Rates.of("15", "60", "7.5")),
        "o3": Model(200_000, 100_000, Rates.of("2", "8", "0.5")),
        "o3-mini": Model(200_000, 100_000, Rates.of("1.1", "4.4", "0.55")),
        "o4-mini": Model(200_000, 100_000, Rates.of("1.1", "4.4", "0.275")),
    }
)


def facts_of(model: str) -> Model:
    """By name; a date behind it (`gpt-5.2-2025-12-11`) changes nothing."""
    found = OPENAI.get(model) or OPENAI.get(_DATED.sub("", model))
    if found is not None:
        return found
    return Model(400_000, 128_000) if reasons(model) else _UNKNOWN


def window_of(model: str, *, long_context: bool) -> int:
    """Tokens of prompt and answer; where long prompts cost more and are not wanted, up to that point."""
    facts = facts_of(model)
    if long_context or facts.context_window <= LONG_PROMPT + facts.max_output_tokens or not reasons(model):
        return facts.context_window
    return LONG_PROMPT + facts.max_output_tokens


def reasons(model: str) -> bool:
    """Whether a model thinks before it answers: such models take no temperature, and seal what they thought."""
    return _REASONS.match(model) is not None and "-chat" not in model


def cost_of(model: str, usage: Usage) -> Decimal | None:
    """The list price of one call; None where prices are not known."""
    return facts_of(model).cost(usage)
