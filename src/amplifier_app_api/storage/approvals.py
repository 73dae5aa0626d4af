"""Approvals as rows. Whoever answers changes the row; the owner of the turn tells it in the log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, insert, or_, select, update

from amplifier_app_api.models.approval import Approval, ApprovalStatus
from amplifier_app_api.models.fields import format_time
from amplifier_app_api.models.page import Page, PageRequest, make_cursor
from amplifier_app_api.models.session import Activity
from amplifier_app_api.models.turn import OPEN_STATUSES, TurnStatus
from amplifier_app_api.storage.children import is_kept, show_answered, show_asking
from amplifier_app_api.storage.paging import moment_after
from amplifier_app_api.storage.tables import approvals, sessions, turns

_OPEN = [status.value for status in OPEN_STATUSES]
_PENDING = approvals.c.status == ApprovalStatus.PENDING.value


def insert_approval(conn: Connection, approval: Approval, *, within: str) -> None:
    """Store a question; a turn with one that is pending waits, and so does its session."""
    conn.execute(
        insert(approvals).values(
            **approval.model_dump(exclude={"status", "remember"}),
            tenant_id=within,
            status=approval.status.value,
            remember=int(approval.remember),
            told=int(approval.status is not ApprovalStatus.PENDING),
        )
    )
    if approval.status is ApprovalStatus.PENDING:
        show_waiting(conn, approval.turn_id, approval.session_id)


def show_waiting(conn: Connection, turn_id: str, session_id: str) -> None:
    """The turn waits for a person, and so do those that it works for."""
    _show(conn, turn_id, session_id, TurnStatus.WAITING, Activity.WAITING)
    show_asking(conn, turn_id)


def _show(conn: Connection, turn_id: str, session_id: str, status: TurnStatus, activity: Activity) -> None:
    open_turn = (turns.c.turn_id == turn_id) & turns.c.status.in_(_OPEN)
    conn.execute(update(turns).where(open_turn).values(status=status.value))
    conn.execute(update(sessions).where(sessions.c.session_id == session_id).values(activity=activity.value))


def tell_approval(conn: Connection, approval: Approval) -> None:
    """The log tells how an approval was settled; a turn that has no other one pending runs again.

    From now on its reason is the one given here, in which the owner has masked what only it knows for secret.
    """
    told = {"told": 1, "reason": approval.reason}
    conn.execute(update(approvals).where(approvals.c.approval_id == approval.approval_id).values(told))
    if not is_kept(conn, approval.turn_id):
        _show(conn, approval.turn_id, approval.session_id, TurnStatus.RUNNING, Activity.RUNNING)
        show_answered(conn, approval.turn_id)


def show_reason(conn: Connection, approval_id: str, reason: str) -> None:
    """Let people see this reason instead of what was said."""
    conn.execute(update(approvals).where(approvals.c.approval_id == approval_id).values(reason=reason))


def settle_approval(
    conn: Connection,
    approval_id: str,
    status: ApprovalStatus,
    *,
    now: datetime,
    decision: str | None = None,
    reason: str | None = None,
    remember: bool = False,
    decided_by: str | None = None,
) -> Approval | None:
    """Settle an approval that is pending. None: it is not any more, or there is none."""
    row = (
        conn.execute(
            update(approvals)
            .where(approvals.c.approval_id == approval_id, _PENDING)
            .values(
                status=status.value,
                decision=decision,
                reason=reason,
                remember=int(remember),
                decided_by=decided_by,
                decided_at=now,
            )
            .returning(*approvals.c)
        )
        .mappings()
        .first()
    )
    return None if row is None else approval_from_row(row)


def withdraw_approvals(conn: Connection, turn_id: str, *, now: datetime) -> list[Approval]:
    """Settle what is still pending of a turn that ends; give back every approval of which the log does not tell."""
    of_turn = approvals.c.turn_id == turn_id
    withdrawn = {"status": ApprovalStatus.WITHDRAWN.value, "decided_at": now}
    conn.execute(update(approvals).where(of_turn, _PENDING).values(withdrawn))
    untold = update(approvals).where(of_turn, approvals.c.told == 0).values(told=1).returning(*approvals.c)
    return [approval_from_row(row) for row in conn.execute(untold).mappings()]


def get_approval(conn: Connection, session_id: str, approval_id: str, *, within: str) -> Approval | None:
    """One approval of a session, when the tenant has it."""
    statement = select(approvals).where(
        approvals.c.tenant_id == within,
        approvals.c.session_id == session_id,
        approvals.c.approval_id == approval_id,
    )
    row = conn.execute(statement).mappings().first()
    return None if row is None else approval_from_row(row)


def approvals_by_id(conn: Connection, approval_ids: Sequence[str]) -> list[Approval]:
    """Those of the approvals that are settled. For the owner of their turns: no tenant is asked."""
    statement = select(approvals).where(approvals.c.approval_id.in_(approval_ids), ~_PENDING)
    return [approval_from_row(row) for row in conn.execute(statement).mappings()]


def approvals_of_turn(conn: Connection, turn_id: str) -> list[tuple[Approval, bool]]:
    """Every approval of a turn, oldest first, and whether the log tells how it was settled."""
    statement = (
        select(approvals)
        .where(approvals.c.turn_id == turn_id)
        .order_by(approvals.c.created_at, approvals.c.approval_id)
    )
    return [(approval_from_row(row), bool(row["told"])) for row in conn.execute(statement).mappings()]


def remembered_answer(conn: Connection, session_id: str, tool: str, digest: str) -> Approval | None:
    """The newest answer of a session that was given for every such call."""
    statement = (
        select(approvals)
        .where(
            approvals.c.session_id == session_id,
            approvals.c.tool == tool,
            approvals.c.digest == digest,
            approvals.c.status == ApprovalStatus.ANSWERED.value,
            approvals.c.remember == 1,
        )
        .order_by(approvals.c.decided_at.desc())
        .limit(1)
    )
    row = conn.execute(statement).mappings().first()
    return None if row is None else approval_from_row(row)


def list_approvals(
    conn: Connection,
    page: PageRequest,
    *,
    within: str,
    session_id: str | None = None,
    status: str | None = None,
) -> Page[Approval]:
    """One page, oldest first, and the number of all that match."""
    statement = select(approvals).where(approvals.c.tenant_id == within)
    if session_id is not None:
        statement = statement.where(approvals.c.session_id == session_id)
    if status is not None:
        statement = statement.where(approvals.c.status == status)
    total = conn.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
    moment, identity = approvals.c.created_at, approvals.c.approval_id
    rows = statement.order_by(moment, identity).limit(page.limit + 1)
    after = moment_after(page)
    if after is None:
        rows = rows.offset(page.offset)
    else:
        rows = rows.where(or_(moment > after[0], and_(moment == after[0], identity > after[1])))
    found = [approval_from_row(row) for row in conn.execute(rows).mappings()]
    items = found[: page.limit]
    more = len(found) > page.limit
    return Page(items, total, make_cursor(format_time(items[-1].created_at), items[-1].approval_id) if more else None)


def approval_from_row(row: RowMapping) -> Approval:
    """The approval of a whole row of `approvals`."""
    fields: dict[str, Any] = {name: row[name] for name in Approval.model_fields}
    return Approval.model_validate({**fields, "remember": bool(row["remember"])})
