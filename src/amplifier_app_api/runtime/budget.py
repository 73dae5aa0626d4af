"""What a turn may use, and what it has used.

Three budgets bound a turn: its own, its session's and its tenant's for the day; of each the smaller of what the
request and what the server says. What a turn uses is charged to all of them, and to those of the turn that it is a
child of. A budget that is used up ends the turn at its next step: no model is asked again and no tool is started.
So a turn may go over by as much as one answer of a model.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from sqlalchemy import Connection

from amplifier_app_api.errors import TooMany
from amplifier_app_api.models.turn import Budget, TokenUsage
from amplifier_app_api.models.usage import NOTHING_SPENT, NOTHING_USED, Spent
from amplifier_app_api.runtime.stopwatch import Stopwatch
from amplifier_app_api.storage.usage import session_spent, usage_of_days

TENANT = "tenant"
"""Whose account the turns of every node are booked to as they end."""


class QuotaExceeded(TooMany):
    """The budget of the session, or of the tenant for this day, is used up; `budget` says whose, `bound` which."""

    code = "quota_exceeded"
    title = "A budget is used up"


@dataclass(slots=True, eq=False)
class Account:
    """One budget: what was used of it by turns that have ended, and by those that run now."""

    whose: str
    budget: Budget
    booked: Spent = field(default_factory=Spent)
    running: dict[str, Spent] = field(default_factory=dict[str, Spent])
    settled: int = 0

    @property
    def total(self) -> Spent:
        """Everything used so far."""
        total = self.booked
        for spent in self.running.values():
            total = total.plus(spent)
        return total

    def charge(self, turn_id: str, spent: Spent) -> None:
        """A running turn has used more."""
        self.running[turn_id] = self.running.get(turn_id, NOTHING_SPENT).plus(spent)

    def settle(self, turn_id: str) -> None:
        """A turn has ended: what it used is booked."""
        spent = self.running.pop(turn_id, None)
        if spent is not None:
            self.booked = self.booked.plus(spent)
            self.settled += 1

    def used_up(self, *, tool: bool = False) -> str | None:
        """Which bound leaves nothing for another model call, or for another tool call. None: there is room."""
        budget = self.budget
        if not budget.model_fields_set:
            return None
        total = self.total
        bounds = {
            "tokens": budget.tokens is not None and total.tokens >= budget.tokens,
            "cost_usd": budget.cost_usd is not None and total.cost_usd >= budget.cost_usd,
            "seconds": budget.seconds is not None and total.seconds >= budget.seconds,
            "tool_calls": tool and budget.tool_calls is not None and total.tool_calls >= budget.tool_calls,
            "iterations": not tool and budget.iterations is not None and total.iterations >= budget.iterations,
        }
        return next((bound for bound, reached in bounds.items() if reached), None)

    def drop(self, turn_id: str) -> None:
        """A turn goes on elsewhere, or later: what it has used is counted there again."""
        self.running.pop(turn_id, None)

    def refuse_when_used_up(self) -> None:
        """Raise when there is nothing left for another turn."""
        bound = self.used_up()
        if bound is not None:
            raise QuotaExceeded(
                f"the budget of the {self.whose} is used up: {bound}",
                facts={"budget": self.whose, "bound": bound},
            )


class Meter:
    """What one turn has used, charged to every account that it counts against."""

    def __init__(
        self,
        turn_id: str,
        budget: Budget | None = None,
        accounts: Iterable[Account] = (),
        parent: "Meter | None" = None,
    ) -> None:
        self.own = Spent()
        self.clock = Stopwatch()
        self.known_children: set[str] = set()
        self._turn_id = turn_id
        self._account = Account("turn", budget or Budget())
        self._mine = (self._account, *accounts)
        self._above = parent
        self._dropped = False

    @property
    def accounts(self) -> tuple[Account, ...]:
        """What the turn is charged to: its own accounts, and those of the turns that it works for."""
        return (self._account,) if self._dropped else self._chain()

    def _chain(self) -> tuple[Account, ...]:
        # Asked for anew each time: whom the turn above works for may become known later.
        above = () if self._above is None else self._above._chain()
        return (*self._mine, *(one for one in above if one not in self._mine))

    def count_for(self, parent: "Meter") -> None:
        """Charge the accounts of another turn, too: what was used so far, and what is from now on."""
        before, self._above = self._chain(), parent
        so_far = self._account.total
        for account in self._chain():
            if account not in before and account.whose != TENANT:  # the day has it already, wherever it was used
                account.charge(self._turn_id, so_far)
        parent.known_children.add(self._turn_id)

    def count_children(self, spent: Mapping[str, Spent]) -> None:
        """Charge what turns of children have used that ran for this one before, or elsewhere; each counts once."""
        for turn_id in spent.keys() - self.known_children:
            self.known_children.add(turn_id)
            for account in self.accounts:
                if account.whose != TENANT:
                    account.charge(self._turn_id, spent[turn_id])

    @property
    def usage(self) -> TokenUsage:
        """The tokens of the turn, its children's included."""
        return self._account.total.usage

    @property
    def whole(self) -> Spent:
        """What the turn used, its children included; their time is part of its own."""
        total = self._account.total
        return Spent(total.usage, total.tool_calls, total.iterations, self.clock.elapsed)

    def charge(self, usage: TokenUsage | None = None, *, tool_calls: int = 0, iterations: int = 0) -> None:
        """The turn has used more."""
        spent = Spent(usage or NOTHING_USED, tool_calls, iterations)
        self.own = self.own.plus(spent)
        for account in self.accounts:
            account.charge(self._turn_id, spent)

    def used_up(self, *, tool: bool = False) -> str | None:
        """Why nothing more may begin: whose budget is used up, and which bound of it."""
        for account in self.accounts:
            bound = account.used_up(tool=tool)
            if bound is not None:
                return f"the budget of the {account.whose} is used up ({bound})"
        return None

    @property
    def seconds(self) -> float:
        """How many seconds the turn may take by its own budgets; infinity without a bound."""
        bounds = [
            account.budget.seconds - account.booked.seconds
            for account in self._mine
            if account.budget.seconds is not None
        ]
        return max(0.0, min(bounds, default=math.inf))

    def drop(self) -> None:
        """The turn was let go of: whoever goes on with it charges what it has used so far."""
        for account in self._chain():
            if account is not self._account:
                account.drop(self._turn_id)
        self._dropped = True

    def close(self) -> Spent:
        """The turn has ended; what it used itself. It counts as running until that is booked, see `settle`."""
        self.own = Spent(self.own.usage, self.own.tool_calls, self.own.iterations, self.clock.elapsed)
        return self.own

    def settle(self) -> None:
        """What the turn used is in the rows: before, whoever reads them would count it in neither place."""
        for account in self.accounts:
            account.settle(self._turn_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the budgets that a new turn counts against are used, as its rows say."""

    session: Budget | None = None
    session_spent: Spent = field(default_factory=Spent)
    day: date | None = None
    tenant_spent: Spent = field(default_factory=Spent)
    settled: int = 0
    """How many turns of the tenant had been settled here when the rows were read."""


class Budgets:
    """The budgets of a server: those of its settings, and one account for each tenant of today."""

    def __init__(self, turn: Budget | None = None, session: Budget | None = None, tenant: Budget | None = None) -> None:
        self._turn = turn
        self._session = session
        self._tenant = tenant
        self._tenants: dict[str, tuple[date, Account]] = {}

    def admit(self, conn: Connection, own: Budget | None, spent: Spent, *, now: datetime, within: str) -> Standing:
        """How far the budgets of a session and its tenant are used: `own` is the session's, `spent` what it has used.

        `QuotaExceeded` when one leaves nothing for another turn.
        """
        standing = self._standing(conn, own, spent, now=now, within=within)
        if standing.session is not None:
            Account("session", standing.session, standing.session_spent).refuse_when_used_up()
        if self._tenant is not None and standing.day is not None:
            running = self._running(within, standing.day)
            Account(TENANT, self._tenant, standing.tenant_spent, running).refuse_when_used_up()
        return standing

    def standing(self, conn: Connection, session_id: str, *, now: datetime, within: str) -> Standing:
        """Read how far the budgets of a session and its tenant are used."""
        own, spent = session_spent(conn, session_id)
        return self._standing(conn, own, spent, now=now, within=within)

    def _standing(self, conn: Connection, own: Budget | None, spent: Spent, *, now: datetime, within: str) -> Standing:
        budget = smaller(own, self._session)
        if self._tenant is None:
            return Standing(budget, spent)
        day = now.date()
        known = self._tenants.get(within)
        settled = known[1].settled if known is not None and known[0] == day else 0
        booked = next((one.spent for one in usage_of_days(conn, day, day, within=within)), Spent())
        return Standing(budget, spent, day, booked, settled)

    def _running(self, tenant_id: str, day: date) -> dict[str, Spent]:
        known = self._tenants.get(tenant_id)
        return dict(known[1].running) if known is not None and known[0] == day else {}

    def meter(
        self, turn_id: str, tenant_id: str, standing: Standing, budget: Budget | None, parent: Meter | None = None
    ) -> Meter:
        """The meter of a turn that begins. `budget` is what its request says."""
        accounts: list[Account] = []
        if standing.session is not None:
            accounts.append(Account("session", standing.session, standing.session_spent))
        if self._tenant is not None and standing.day is not None:
            accounts.append(self._account_of(tenant_id, standing.day, standing, self._tenant))
        return Meter(turn_id, smaller(budget, self._turn), accounts, parent)

    def _account_of(self, tenant_id: str, day: date, standing: Standing, budget: Budget) -> Account:
        known = self._tenants.get(tenant_id)
        if known is None or known[0] != day:
            known = self._tenants[tenant_id] = (day, Account(TENANT, budget))
        account = known[1]
        # The row knows what ended on other nodes, too; but not of a turn that ended here since it was read.
        if account.settled == standing.settled:
            account.booked = standing.tenant_spent
        return account


def smaller(one: Budget | None, other: Budget | None) -> Budget | None:
    """Of every bound the smaller one."""
    if one is None or other is None:
        return one or other
    bounds = {
        name: min(found)
        for name in Budget.model_fields
        if (found := [value for value in (getattr(one, name), getattr(other, name)) if value is not None])
    }
    return Budget(**bounds)
