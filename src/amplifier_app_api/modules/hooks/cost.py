"""`hooks-cost`: budgets in dollars and tokens, for each turn and for the whole session.

What model calls used is read from `llm:response`, which providers tell, and from `provider:response` where a provider
tells nothing. Before each call the budgets are looked at: from the share `warn_at` of one on people are told once,
and a call for which nothing is left is denied. A call is made when something is left, so the last one may go beyond.

The events `budget:warning` and `budget:exceeded` say `{"budget", "limit", "spent"}`, where `budget` is the name of the
option. What the earlier turns of a session used is asked of the host's capability `host.session_usage` in each turn, a
function without arguments that gives `{"input_tokens", "output_tokens", "cost_usd"}` or, as an awaitable, the same.
So what agents used in earlier turns counts where the host counts it. What agents use in the running turn does not
count yet; each has the same budgets for itself, as far as it inherits this hook. Without the capability only what is
used here from now on counts. Tokens read from a cache count towards the cost, not towards tokens.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from amplifier_app_api.modules.hooks.registrations import CONTINUE, Registrations, mapping, show
from amplifier_app_api.modules.kernel import (
    LLM_RESPONSE,
    PROMPT_SUBMIT,
    PROVIDER_REQUEST,
    PROVIDER_RESPONSE,
    HookResult,
)
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-cost"
USAGE_CAPABILITY = "host.session_usage"
BUDGET_WARNING = "budget:warning"
BUDGET_EXCEEDED = "budget:exceeded"

logger = logging.getLogger(__name__)


@dataclass
class Spent:
    """Dollars, as far as they are known, and tokens."""

    cost: Decimal = Decimal(0)
    tokens: int = 0
    unknown_calls: int = 0

    def add(self, usage: Mapping[str, Any]) -> None:
        cost = _dollars(usage.get("cost_usd"))
        self.cost += cost or 0
        self.unknown_calls += cost is None
        given = _count(usage.get("input_tokens")) - _count(usage.get("cache_read_tokens"))
        self.tokens += max(0, given) + _count(usage.get("output_tokens"))


@dataclass(frozen=True, slots=True)
class Budget:
    name: str
    limit: Decimal
    whole_session: bool
    in_dollars: bool

    def spent(self, turn: Spent, session: Spent) -> Decimal:
        spent = session if self.whole_session else turn
        return spent.cost if self.in_dollars else Decimal(spent.tokens)

    def told(self, amount: Decimal) -> str:
        return f"${amount:,.4f}".rstrip("0").rstrip(".") if self.in_dollars else f"{amount:,.0f} tokens"


@dataclass
class Accounts:
    """What one session may use and has used."""

    coordinator: Any
    budgets: tuple[Budget, ...]
    warn_at: Decimal
    deny_unknown: bool
    turn: Spent = field(default_factory=Spent)
    session: Spent = field(default_factory=Spent)
    _told: set[str] = field(default_factory=set[str])
    _counted: bool = False
    _asked_host: bool = False

    async def on_prompt(self, event: str, data: dict[str, Any]) -> HookResult:
        self.turn = Spent()
        self._asked_host = False
        self._told -= {budget.name for budget in self.budgets if not budget.whole_session}
        return CONTINUE

    async def on_llm_response(self, event: str, data: dict[str, Any]) -> HookResult:
        if data.get("usage"):
            self._counted = True
            self._add(data)
        return CONTINUE

    async def on_provider_response(self, event: str, data: dict[str, Any]) -> HookResult:
        if not self._counted and data.get("usage"):
            self._add(data)
        self._counted = False
        return CONTINUE

    def _add(self, data: Mapping[str, Any]) -> None:
        usage = mapping(data.get("usage"))
        self.turn.add(usage)
        self.session.add(usage)

    async def on_request(self, event: str, data: dict[str, Any]) -> HookResult:
        self._counted = False
        if not self.budgets:
            return CONTINUE
        try:
            return await self._checked()
        except Exception:  # a hook that raises is passed over, and nothing would be bounded
            logger.exception("a budget could not be checked")
            return HookResult(action="deny", reason="the budget of this session could not be checked")

    async def _checked(self) -> HookResult:
        await self._ask_host()
        if self.deny_unknown and self.session.unknown_calls and any(budget.in_dollars for budget in self.budgets):
            return HookResult(action="deny", reason="the cost of this model is not known, so its budget cannot be kept")
        for budget in self.budgets:
            spent = budget.spent(self.turn, self.session)
            if spent >= budget.limit:
                said = f"The budget {budget.name} is used up: {budget.told(spent)} of {budget.told(budget.limit)}"
                await self._tell(BUDGET_EXCEEDED, "error", f"{budget.name}:exceeded", budget, spent, said)
                return HookResult(action="deny", reason=said)
            if spent >= budget.limit * self.warn_at:
                said = f"{budget.told(spent)} of the {budget.told(budget.limit)} of {budget.name} are used"
                await self._tell(BUDGET_WARNING, "warning", budget.name, budget, spent, said)
        await self._warn_of_unknown()
        return CONTINUE

    async def _ask_host(self) -> None:
        """Count what the host knows of earlier turns and was not seen here, once in each turn."""
        if self._asked_host:
            return
        asked = self.coordinator.get_capability(USAGE_CAPABILITY)
        usage = asked() if callable(asked) else None
        if inspect.isawaitable(usage):
            usage = await usage
        self._asked_host = True
        if usage:
            earlier = Spent()
            earlier.add(mapping(usage))
            self.session.cost = max(self.session.cost, earlier.cost + self.turn.cost)
            self.session.tokens = max(self.session.tokens, earlier.tokens + self.turn.tokens)

    async def _warn_of_unknown(self) -> None:
        in_dollars = any(budget.in_dollars for budget in self.budgets)
        if in_dollars and self.session.unknown_calls and "unknown" not in self._told:
            self._told.add("unknown")
            said = "What this model costs is not known: its calls do not count towards budgets in dollars"
            await show(self.coordinator, "warning", said, MODULE_ID)

    async def _tell(self, event: str, level: str, key: str, budget: Budget, spent: Decimal, said: str) -> None:
        if key in self._told:
            return
        self._told.add(key)
        facts = {"budget": budget.name, "limit": str(budget.limit), "spent": str(spent)}
        await self.coordinator.hooks.emit(event, facts)
        await show(self.coordinator, level, said, MODULE_ID)


def _dollars(value: Any) -> Decimal | None:
    try:
        amount = None if value is None else Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount is None or amount.is_finite() else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _budgets(options: Options) -> tuple[Budget, ...]:
    budgets: list[Budget] = []
    for name in ("session_budget_usd", "turn_budget_usd", "session_budget_tokens", "turn_budget_tokens"):
        if options.has(name):
            limit = Decimal(str(options.number(name, 0, minimum=0)))
            budgets.append(Budget(name, limit, name.startswith("session"), name.endswith("usd")))
    return tuple(budgets)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    options = Options(MODULE_ID, config)
    unknown = options.text("unknown_cost") or "warn"
    if unknown not in ("warn", "deny"):
        raise options.problem("unknown_cost", "must be warn or deny")
    accounts = Accounts(
        coordinator,
        budgets=_budgets(options),
        warn_at=Decimal(str(options.number("warn_at", 0.8, minimum=0, maximum=1))),
        deny_unknown=unknown == "deny",
    )
    handlers = Registrations(coordinator, MODULE_ID, options.integer("priority", 50))
    handlers.on(PROMPT_SUBMIT, accounts.on_prompt)
    handlers.on(PROVIDER_REQUEST, accounts.on_request)
    handlers.on(LLM_RESPONSE, accounts.on_llm_response)
    handlers.on(PROVIDER_RESPONSE, accounts.on_provider_response)
    return handlers.close
