"""Meters: what is charged to whom, and what is left."""

import math
from datetime import date
from decimal import Decimal

import pytest

from amplifier_app_api.models.turn import Budget, TokenUsage
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.runtime.budget import Account, Budgets, Meter, Standing, smaller

TODAY = date(2026, 11, 24)


def used(tokens: int = 0, cost: str | None = None) -> TokenUsage:
    return TokenUsage(input_tokens=tokens, cost_usd=cost)


def test_a_budget_without_bounds_is_never_used_up() -> None:
    meter = Meter("t")
    meter.charge(used(10**12, "999999"), tool_calls=10**6, iterations=10**6)

    assert (meter.used_up(), meter.used_up(tool=True), meter.seconds) == (None, None, math.inf)


@pytest.mark.parametrize(
    ("budget", "bound"),
    [
        (Budget(tokens=100), "tokens"),
        (Budget(cost_usd=Decimal("0.3")), "cost_usd"),
        (Budget(iterations=3), "iterations"),
    ],
)
def test_what_is_reached_exactly_is_used_up(budget: Budget, bound: str) -> None:
    meter = Meter("t", budget)
    meter.charge(used(33, "0.1"), iterations=1)
    meter.charge(used(33, "0.1"), iterations=1)
    assert meter.used_up() is None

    meter.charge(used(34, "0.1"), iterations=1)

    assert meter.used_up() == f"the budget of the turn is used up ({bound})"


def test_tool_calls_that_are_used_up_leave_model_calls_and_the_other_way_round() -> None:
    calls, rounds = Meter("t", Budget(tool_calls=0)), Meter("t", Budget(iterations=1))
    rounds.charge(iterations=1)

    assert (calls.used_up(), calls.used_up(tool=True)) == (None, "the budget of the turn is used up (tool_calls)")
    assert (rounds.used_up(), rounds.used_up(tool=True)) == ("the budget of the turn is used up (iterations)", None)


def test_tokens_read_from_a_cache_do_not_count() -> None:
    meter = Meter("t", Budget(tokens=100))
    meter.charge(TokenUsage(input_tokens=1000, cache_read_tokens=950, output_tokens=49))

    assert meter.used_up() is None


def test_a_child_is_charged_to_its_parent_and_to_a_shared_account_once() -> None:
    tenant = Account("tenant", Budget(iterations=3))
    parent = Meter("p", Budget(iterations=2), [Account("session", Budget(iterations=9)), tenant])
    child = Meter("c", None, [tenant], parent)

    child.charge(used(5), iterations=1)
    parent.charge(used(7), iterations=1)

    assert tenant.total.iterations == 2
    assert (parent.usage.input_tokens, child.usage.input_tokens) == (12, 5)
    assert (parent.own.usage.input_tokens, parent.whole.iterations) == (7, 2)
    assert child.used_up() == parent.used_up() == "the budget of the turn is used up (iterations)"


def test_a_child_that_is_found_again_brings_what_it_has_used() -> None:
    tenant = Account("tenant", Budget(iterations=9))
    session = Account("session", Budget(tokens=100))
    parent, child = Meter("p", Budget(tokens=30), [session, tenant]), Meter("c", None, [tenant])
    child.charge(used(20), iterations=1)  # before the turn that waits for it was gone on with
    assert parent.used_up() is None

    child.count_for(parent)
    child.charge(used(10), iterations=1)
    parent.count_children({"c": Spent(used(30), iterations=2)})

    assert parent.whole.iterations == 2
    assert (parent.usage.input_tokens, session.total.tokens, tenant.total.iterations) == (30, 30, 2)
    assert parent.own == Spent()
    assert child.used_up() == parent.used_up() == "the budget of the turn is used up (tokens)"


def test_a_grandchild_that_is_found_before_its_parent_is_charged_to_all_above() -> None:
    top, middle, leaf = Meter("t", Budget(tokens=30)), Meter("m"), Meter("l")
    leaf.charge(used(10))
    leaf.count_for(middle)
    middle.count_for(top)

    leaf.charge(used(20))
    middle.charge(used(5))

    assert (middle.usage.input_tokens, top.usage.input_tokens) == (35, 35)
    assert leaf.used_up() == "the budget of the turn is used up (tokens)"


def test_what_was_let_go_of_is_charged_to_nobody_above_whoever_is_let_go_of_first() -> None:
    top = Meter("t")
    middle = Meter("m", parent=top)
    leaf = Meter("l", parent=middle)
    leaf.charge(used(10))
    middle.charge(used(5))
    assert top.usage.input_tokens == 15

    middle.drop()
    leaf.drop()
    leaf.charge(used(1))

    assert top.usage.input_tokens == 0


def test_children_that_ended_before_a_turn_was_gone_on_with_count_once_and_not_for_the_day() -> None:
    tenant = Account("tenant", Budget(iterations=9))
    above = Meter("a", Budget(iterations=5))
    parent = Meter("p", None, [tenant])
    ended = {"c": Spent(used(7), tool_calls=1, iterations=3), "d": Spent(used(1), iterations=2)}

    parent.count_children({"c": ended["c"]})
    parent.count_children(ended)
    parent.count_for(above)

    assert (parent.usage.input_tokens, above.usage.input_tokens, above.whole.tool_calls) == (8, 8, 1)
    assert above.used_up() == "the budget of the turn is used up (iterations)"
    assert (tenant.total, parent.own) == (Spent(), Spent())


def test_what_a_turn_used_stays_booked_when_it_has_ended() -> None:
    tenant = Account("tenant", Budget(iterations=2))
    first = Meter("1", None, [tenant])
    first.charge(iterations=1)
    first.close()
    first.settle()

    second = Meter("2", None, [tenant])
    second.charge(iterations=1)

    assert second.used_up() == "the budget of the tenant is used up (iterations)"
    assert (tenant.booked.iterations, set(tenant.running)) == (1, {"2"})


def test_seconds_are_those_that_the_turns_before_have_left() -> None:
    budgets = Budgets(Budget(seconds=30), Budget(seconds=100))
    standing = Standing(Budget(seconds=100), Spent(seconds=90))

    assert budgets.meter("t", "default", standing, None).seconds == 10


def test_a_day_begins_with_nothing_used() -> None:
    budgets = Budgets(tenant=Budget(iterations=1))
    today = Standing(day=TODAY, tenant_spent=Spent(iterations=1))
    tomorrow = Standing(day=date(2026, 11, 25))

    assert budgets.meter("1", "default", today, None).used_up() is not None
    assert budgets.meter("2", "default", tomorrow, None).used_up() is None


def test_of_two_budgets_every_bound_is_the_smaller_one() -> None:
    assert smaller(None, None) is None
    assert smaller(Budget(tokens=5), None) == Budget(tokens=5)
    assert smaller(Budget(tokens=5, seconds=9), Budget(tokens=7, tool_calls=0)) == Budget(
        tokens=5, seconds=9, tool_calls=0
    )
