"""What turns have used, added up: per session, and per tenant and day."""

from datetime import date, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, case, select
from sqlalchemy.dialects import postgresql, sqlite

from amplifier_app_api.models.turn import Budget, TokenUsage
from amplifier_app_api.models.usage import NANO, DayOfUsage, Spent
from amplifier_app_api.storage.tables import sessions, tenant_usage

_COUNTED = ("turns", "tool_calls", "iterations", "active_ms", *TokenUsage.model_fields.keys() - {"cost_usd"})


# Statements of the hot path are made once: making one costs more than running it.
_SPENT = select(
    sessions.c.budget, sessions.c.usage, sessions.c.tool_calls, sessions.c.iterations, sessions.c.active_ms
).where(sessions.c.session_id == bindparam("of_session"))


def _booking(statement: postgresql.Insert | sqlite.Insert) -> Executable:
    more = statement.excluded
    known, added = tenant_usage.c.cost_nano_usd, more.cost_nano_usd
    return statement.on_conflict_do_update(
        index_elements=["tenant_id", "day"],
        set_={
            **{name: tenant_usage.c[name] + more[name] for name in _COUNTED},
            # An unknown cost adds nothing; two unknown ones stay unknown.
            "cost_nano_usd": case((added.is_(None), known), (known.is_(None), added), else_=known + added),
        },
    )


_BOOK = {
    "sqlite": _booking(sqlite.insert(tenant_usage)),
    "postgresql": _booking(postgresql.insert(tenant_usage)),
}


def book(conn: Connection, own: Spent, *, now: datetime, within: str) -> None:
    """Add what a turn that ends used itself to the tenant's day. The turns of children are booked for themselves."""
    usage = own.usage
    row = {
        "tenant_id": within,
        "day": now.date().isoformat(),
        "turns": 1,
        "tool_calls": own.tool_calls,
        "iterations": own.iterations,
        "active_ms": round(own.seconds * 1000),
        **usage.model_dump(exclude={"cost_usd"}),
        "cost_nano_usd": _nano(usage.cost_usd),
    }
    conn.execute(_BOOK[conn.dialect.name], row)


def session_spent(conn: Connection, session_id: str) -> tuple[Budget | None, Spent]:
    """The budget that a session was opened with, and what its turns have used."""
    row = conn.execute(_SPENT, {"of_session": session_id}).one()
    budget = None if row.budget is None else Budget.model_validate(row.budget)
    return budget, Spent(TokenUsage.model_validate(row.usage), row.tool_calls, row.iterations, row.active_ms / 1000)


def usage_of_days(conn: Connection, first: date, last: date, *, within: str) -> list[DayOfUsage]:
    """The tenant's days from `first` to `last` on which a turn ended, oldest first."""
    statement = (
        select(tenant_usage)
        .where(
            tenant_usage.c.tenant_id == within,
            tenant_usage.c.day >= first.isoformat(),
            tenant_usage.c.day <= last.isoformat(),
        )
        .order_by(tenant_usage.c.day)
    )
    return [_day(row) for row in conn.execute(statement)]


def _day(row: Any) -> DayOfUsage:
    cost = None if row.cost_nano_usd is None else format((Decimal(row.cost_nano_usd) / NANO).normalize(), "f")
    counted = {name: getattr(row, name) for name in _COUNTED if name != "active_ms"}
    return DayOfUsage(day=date.fromisoformat(row.day), seconds=row.active_ms / 1000, cost_usd=cost, **counted)


def _nano(cost: str | None) -> int | None:
    """Billionths of a dollar; of a smaller part one more, so that nothing counts as free."""
    return None if cost is None else int((Decimal(cost) * NANO).to_integral_value(ROUND_CEILING))
