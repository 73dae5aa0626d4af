"""What models cost and hold, as far as it is known without asking.

List prices in US dollars for a million tokens, standard tier, as read on `AS_OF` from the vendors' pages
(platform.claude.com and ai.google.dev, pricing and models). A model that is not here works; its cost is unknown,
which is not zero. Where a vendor's price depends on more than tokens, or sources disagree, it is left unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType

from amplifier_app_api.modules.kernel import Usage

AS_OF = date(2026, 11, 25)

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars for a million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal

    @classmethod
    def of(cls, input_price: str, output: str, cache_read: str, cache_write: str | None = None) -> Rates:
        """Without `cache_write` the vendor asks for nothing beyond the input price."""
        return cls(Decimal(input_price), Decimal(output), Decimal(cache_read), Decimal(cache_write or input_price))

    def cost(self, usage: Usage) -> Decimal:
        read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
        fresh = usage.input_tokens - read - written
        given = fresh * self.input + read * self.cache_read + written * self.cache_write
        return (given + usage.output_tokens * self.output) / _MILLION


@dataclass(frozen=True, slots=True)
class Model:
    """`long`: the rates of a whole request whose input is longer than `long_above` tokens."""

    context_window: int
    max_output_tokens: int
    rates: Rates | None = None
    long: Rates | None = None
    long_above: int = 0
    later: tuple[date, Rates] | None = None  # a published change: from that day on

    def cost(self, usage: Usage, *, on: date | None = None) -> Decimal | None:
        """The list price of one call; None where it is not known. Without `on`, today's."""
        rates = self.rates
        if self.later is not None and (on or datetime.now(UTC).date()) >= self.later[0]:
            rates = self.later[1]
        if self.long is not None and usage.input_tokens > self.long_above:
            rates = self.long
        return None if rates is None else rates.cost(usage)


def known(models: Mapping[str, Model], name: str) -> Model | None:
    """By name; a date behind it (`claude-sonnet-4-5-20250929`) changes nothing."""
    if name in models:
        return models[name]
    stem, _, day = name.rpartition("-")
    return models.get(stem) if len(day) == 8 and day.isdigit() else None


def _claude(window: int, output: int, input_price: str, output_price: str) -> Model:
    """Reading from the cache costs a tenth of the input price, writing to it a quarter more."""
    price = Decimal(input_price)
    rates = Rates(price, Decimal(output_price), price * Decimal("0.1"), price * Decimal("1.25"))
    return Model(window, output, rates)


ANTHROPIC: Mapping[str, Model] = MappingProxyType(
    {
        "claude-fable-5-1": _claude(1_000_000, 128_000, "10", "50"),
        "claude-fable-5": _claude(1_000_000, 128_000, "10", "50"),
        "claude-opus-5-5": _claude(1_000_000, 128_000, "4", "20"),
        "claude-opus-5": _claude(1_000_000, 128_000, "5", "25"),
        "claude-sonnet-5-5": _claude(1_000_000, 128_000, "2", "10"),
        "claude-sonnet-5": _claude(1_000_000, 128_000, "2", "10"),
        "claude-haiku-5-5": Model(1_000_000, 128_000),  # its price depends on more than tokens
        "claude-opus-4-8": _claude(1_000_000, 128_000, "5", "25"),
        "claude-opus-4-7": _claude(1_000_000, 128_000, "5", "25"),
        "claude-opus-4-6": _claude(1_000_000, 128_000, "5", "25"),
        "claude-sonnet-4-6": _claude(1_000_000, 64_000, "3", "15"),
        "claude-opus-4-5": _claude(200_000, 64_000, "5", "25"),
        "claude-sonnet-4-5": _claude(200_000, 64_000, "3", "15"),
        "claude-haiku-4-5": _claude(200_000, 64_000, "1", "5"),
        "claude-opus-4-1": _claude(200_000, 32_000, "15", "75"),
    }
)

_FLASH_2027 = (date(2027, 1, 1), Rates.of("1.5", "7.5", "0.15"))

GOOGLE: Mapping[str, Model] = MappingProxyType(
    {
        "gemini-4-neon": Model(1_000_000, 65_000),  # one source alone
        "gemini-4-hydrogen": Model(1_000_000, 65_000),
        "gemini-3.8-flash": Model(1_048_576, 65_536, Rates.of("0.75", "3.75", "0.075"), later=_FLASH_2027),
        "gemini-3.7-flash": Model(1_048_576, 65_536, Rates.of("0.75", "3.75", "0.075"), later=_FLASH_2027),
        "gemini-3.6-flash": Model(1_048_576, 65_536),  # sources disagree
        "gemini-3.5-flash": Model(1_048_576, 65_536, Rates.of("1.5", "9", "0.15")),
        "gemini-3.5-flash-lite": Model(1_048_576, 65_536, Rates.of("0.3", "2.5", "0.03")),
        "gemini-3.1-pro-preview": Model(1_048_576, 65_536),  # nobody says what its cache costs
        "gemini-3.1-flash-lite": Model(1_048_576, 65_536, Rates.of("0.25", "1.5", "0.025")),
        "gemini-3-flash-preview": Model(1_048_576, 65_536),
        "gemini-2.5-pro": Model(
            1_048_576,
            65_536,
            Rates.of("1.25", "10", "0.125"),
            long=Rates.of("2.5", "15", "0.25"),
            long_above=200_000,
        ),
        "gemini-2.5-flash": Model(1_048_576, 65_536, Rates.of("0.3", "2.5", "0.03")),
        "gemini-2.5-flash-lite": Model(1_048_576, 65_536, Rates.of("0.1", "0.4", "0.01")),
    }
)
