"""`/approvals` and `/sessions/{session_id}/approvals`: what modules ask people."""

from typing import Annotated

from fastapi import Path, Query

from amplifier_app_api.api.deps import Approvals, Paging, SessionId
from amplifier_app_api.api.refusals import CHANGING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.approvals import AlreadyAnswered, ApprovalNotFound
from amplifier_app_api.core.session_manager import SessionNotFound
from amplifier_app_api.models.approval import Approval, ApprovalAnswer, ApprovalListResponse, ApprovalStatus
from amplifier_app_api.models.page import Page, PageRequest

router = json_router(tag="approvals")

ApprovalId = Annotated[str, Path()]
StatusFilter = Annotated[ApprovalStatus | None, Query(description="Only approvals with this status")]


@router.get("/approvals", responses=documented(*READING))
async def list_approvals(approvals: Approvals, page: Paging, status: StatusFilter = None) -> ApprovalListResponse:
    """The approvals of all sessions, oldest first. `?status=pending`: what waits for an answer."""
    return _listed(await approvals.page_approvals(page, status=status), page)


@router.get("/sessions/{session_id}/approvals", responses=documented(SessionNotFound, *READING))
async def list_session_approvals(
    session_id: SessionId, approvals: Approvals, page: Paging, status: StatusFilter = None
) -> ApprovalListResponse:
    """The approvals of a session, oldest first."""
    return _listed(await approvals.page_approvals(page, session_id=session_id, status=status), page)


@router.get("/sessions/{session_id}/approvals/{approval_id}", responses=documented(ApprovalNotFound, *READING))
async def get_approval(session_id: SessionId, approval_id: ApprovalId, approvals: Approvals) -> Approval:
    """One approval."""
    found = await approvals.get_approval(session_id, approval_id)
    if found is None:
        raise ApprovalNotFound(approval_id)
    return found


@router.post(
    "/sessions/{session_id}/approvals/{approval_id}",
    responses=documented(ApprovalNotFound, AlreadyAnswered, *CHANGING),
)
async def answer_approval(
    session_id: SessionId, approval_id: ApprovalId, body: ApprovalAnswer, approvals: Approvals
) -> Approval:
    """Answer an approval with one of its `options`. The first answer counts; the turn goes on with it."""
    return await approvals.answer(session_id, approval_id, body.decision, body.reason, remember=body.remember)


def _listed(found: Page[Approval], page: PageRequest) -> ApprovalListResponse:
    return ApprovalListResponse(
        approvals=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )
