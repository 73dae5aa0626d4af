"""What calls cost, by the table that names its date."""

from datetime import date
from decimal import Decimal

import pytest
from amplifier_core.message_models import Usage

from amplifier_app_api.modules.providers.prices import ANTHROPIC, GOOGLE, Model, Rates, known

BEFORE, AFTER = date(2026, 12, 31), date(2027, 1, 1)


def usage(given: int, made: int, read: int = 0, written: int = 0) -> Usage:
    return Usage(
        input_tokens=given,
        output_tokens=made,
        total_tokens=given + made,
        cache_read_tokens=read or None,
        cache_write_tokens=written or None,
    )


MODEL = Model(1_000, 100, Rates.of("2", "10", "0.2", "2.5"), long=Rates.of("4", "20", "0.4"), long_above=1_000_000)


@pytest.mark.parametrize(
    ("spent", "cost"),
    [
        (usage(1_000_000, 0), "2"),
        (usage(0, 1_000_000), "10"),
        (usage(1_000_000, 0, read=1_000_000), "0.2"),
        (usage(1_000_000, 0, written=1_000_000), "2.5"),
        (usage(400_000, 100_000, read=200_000, written=100_000), "1.49"),
        (usage(2_000_000, 0), "8"),  # all of it at the rates of long requests
    ],
)
def test_fresh_cached_and_written_tokens_have_their_own_price(spent: Usage, cost: str) -> None:
    assert MODEL.cost(spent) == Decimal(cost)


def test_a_change_that_was_published_counts_from_its_day_on() -> None:
    flash = GOOGLE["gemini-3.8-flash"]

    assert flash.cost(usage(1_000_000, 0), on=BEFORE) == Decimal("0.75")
    assert flash.cost(usage(1_000_000, 0), on=AFTER) == Decimal("1.5")


def test_a_price_that_is_not_known_is_no_price() -> None:
    assert ANTHROPIC["claude-haiku-5-5"].cost(usage(1, 1)) is None


def test_a_date_behind_the_name_changes_nothing() -> None:
    assert known(ANTHROPIC, "claude-sonnet-4-5-20250929") is ANTHROPIC["claude-sonnet-4-5"]
    assert known(ANTHROPIC, "claude-sonnet-4-5-preview") is None
    assert known(ANTHROPIC, "claude-of-tomorrow") is None


@pytest.mark.parametrize("model", [*ANTHROPIC.values(), *GOOGLE.values()], ids=[*ANTHROPIC, *GOOGLE])
def test_reading_from_a_cache_is_cheaper_than_reading_anew(model: Model) -> None:
    for rates in (model.rates, model.long):
        if rates is not None:
            assert 0 < rates.cache_read < rates.input <= rates.cache_write <= rates.output
    assert model.max_output_tokens < model.context_window
