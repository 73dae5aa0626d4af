"""One way to read a page of a table: a `where`, an order, a total that belongs to the same `where`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select

from amplifier_app_api.models.fields import format_time, parse_time, storable_text
from amplifier_app_api.models.page import InvalidPage, PageRequest


def newest_first(
    conn: Connection,
    statement: Select[Any],
    page: PageRequest,
    *,
    moment: ColumnElement[Any],
    identity: ColumnElement[Any],
    after: tuple[Any, Any] | None,
) -> tuple[Sequence[Row[Any]], int, bool]:
    """Rows of `statement` by `moment` and `identity`, latest first, the total, and whether more follow.

    `after` is the decoded cursor: with it, only what comes after that place; `offset` is then ignored.
    """
    total = conn.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
    rows = statement.order_by(moment.desc(), identity.desc()).limit(page.limit + 1)
    if after is not None:
        rows = rows.where(or_(moment < after[0], and_(moment == after[0], identity < after[1])))
    else:
        rows = rows.offset(page.offset)
    found = conn.execute(rows).all()
    return found[: page.limit], total, len(found) > page.limit


def moment_after(page: PageRequest) -> tuple[datetime, str] | None:
    """The place of a cursor in a list by time, when the caller sent one that such a list made."""
    after = page.after()
    if after is None:
        return None
    try:
        moment = parse_time(after[0])
        if format_time(moment) == after[0]:
            return moment, storable_text(after[1])
    except (ValueError, OverflowError):
        pass
    raise InvalidPage("cursor is not one that this list made")
