"""What turns use: in the units of a budget, and as a tenant's days."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from amplifier_app_api.models.turn import TokenUsage

NANO = 1_000_000_000
"""Costs are kept in billionths of a dollar, so that sums are exact."""


NOTHING_USED = TokenUsage()
"""No tokens. Adding it costs nothing: it is known by identity."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used. `seconds` is the time a turn took, without the time it waited for people."""

    usage: TokenUsage = NOTHING_USED
    tool_calls: int = 0
    iterations: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens as a budget counts them: input and output, without what was read from a cache."""
        return max(0, self.usage.input_tokens - self.usage.cache_read_tokens) + self.usage.output_tokens

    @property
    def cost_usd(self) -> Decimal:
        """What it cost, as far as that is known."""
        return Decimal(self.usage.cost_usd or 0)

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(
            _both(self.usage, other.usage),
            self.tool_calls + other.tool_calls,
            self.iterations + other.iterations,
            self.seconds + other.seconds,
        )


NOTHING_SPENT = Spent()


def _both(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    if other is NOTHING_USED:
        return one
    return other if one is NOTHING_USED else one.plus(other)


class DayOfUsage(BaseModel):
    """What the turns that ended on one day, in UTC, have used. `input_tokens` includes cache reads."""

    day: date
    turns: int
    tool_calls: int
    iterations: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Annotated[str | None, Field(description="null while no cost is known")] = None

    @property
    def spent(self) -> Spent:
        """The day in the units of a budget."""
        usage = TokenUsage.model_validate(self.model_dump(include=set(TokenUsage.model_fields)))
        return Spent(usage, self.tool_calls, self.iterations, self.seconds)


class TotalUsage(BaseModel):
    """Several days together."""

    turns: int
    tool_calls: int
    iterations: int
    seconds: float
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: str | None = None


class UsageResponse(BaseModel):
    """The days of a span on which a turn ended, oldest first, and their sum."""

    days: list[DayOfUsage]
    total: TotalUsage

    @classmethod
    def of(cls, days: Sequence[DayOfUsage]) -> "UsageResponse":
        """The answer that shows these days."""
        spent = Spent()
        for day in days:
            spent = spent.plus(day.spent)
        total = TotalUsage(
            turns=sum(day.turns for day in days),
            tool_calls=spent.tool_calls,
            iterations=spent.iterations,
            seconds=spent.seconds,
            **spent.usage.model_dump(),
        )
        return cls(days=list(days), total=total)
