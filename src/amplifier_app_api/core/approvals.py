"""Approvals: what modules ask people, listed and answered."""

import copy
from typing import Self

from sqlalchemy import Connection

from amplifier_app_api.core.fields import InvalidFields, is_storable, valid
from amplifier_app_api.core.session_manager import SessionNotFound
from amplifier_app_api.errors import Conflict, NotFound
from amplifier_app_api.models.approval import Approval, ApprovalAnswer, ApprovalStatus
from amplifier_app_api.models.page import Page, PageRequest
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.runtime.approvals import TIMEOUT, ApprovalBoard
from amplifier_app_api.storage.approvals import get_approval, list_approvals, settle_approval
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.sessions import get_session

ALWAYS = "allow always"
"""Where a module offers this answer, it is meant for the calls to come, too."""


class ApprovalNotFound(NotFound):
    """The session has no such approval."""

    code = "approval_not_found"
    title = "No such approval"

    def __init__(self, approval_id: str) -> None:
        super().__init__(f"Approval not found: {approval_id}")


class AlreadyAnswered(Conflict):
    """The approval is settled: answered, expired or withdrawn. `approval_status` and `decision` say how."""

    code = "already_answered"
    title = "The approval is settled"

    def __init__(self, approval: Approval) -> None:
        facts = {"approval_status": approval.status.value, "decision": approval.decision}
        super().__init__(f"the approval is {approval.status.value} already", facts=facts)


class ApprovalManager:
    """Lists and answers approvals within one tenant."""

    def __init__(self, db: Database, *, board: ApprovalBoard, principal: Principal = LOCAL) -> None:
        self._db = db
        self._board = board
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same, acting for somebody."""
        scoped = copy.copy(self)
        scoped._principal = principal
        return scoped

    async def page_approvals(
        self, page: PageRequest, *, session_id: str | None = None, status: ApprovalStatus | None = None
    ) -> Page[Approval]:
        """One page, oldest first: of a session, or of all of them."""
        tenant = self._principal.tenant_id
        if session_id is not None and not await self._has_session(session_id):
            raise SessionNotFound(session_id)
        return await self._db.read(
            list_approvals,
            page,
            within=tenant,
            session_id=session_id,
            status=None if status is None else status.value,
        )

    async def _has_session(self, session_id: str) -> bool:
        if not is_storable(session_id):
            return False
        return await self._db.read(get_session, session_id, within=self._principal.tenant_id) is not None

    async def get_approval(self, session_id: str, approval_id: str) -> Approval | None:
        """One approval of a session, or None."""
        if not is_storable(session_id) or not is_storable(approval_id):
            return None
        return await self._db.read(get_approval, session_id, approval_id, within=self._principal.tenant_id)

    async def answer(
        self, session_id: str, approval_id: str, decision: str, reason: str | None = None, *, remember: bool = False
    ) -> Approval:
        """Answer with one of the approval's options. Only the first answer counts.

        `remember` gives the same answer from then on, in this session, for the same tool with the same arguments.
        Secrets of the session are masked in the reason; only the model of the turn that asked is told it whole.
        """
        answer = valid(ApprovalAnswer, {"decision": decision, "reason": reason, "remember": remember})
        if not is_storable(session_id) or not is_storable(approval_id):
            raise ApprovalNotFound(approval_id)
        shown = answer.model_copy(update={"reason": self._board.shown(approval_id, answer.reason)})
        answered, is_ours = await self._db.write(
            _answer, session_id, approval_id, shown, by=self._principal.subject, within=self._principal.tenant_id
        )
        self._board.settled(answered.model_copy(update={"reason": answer.reason}) if is_ours else answered)
        if not is_ours:
            raise AlreadyAnswered(answered)
        return answered


def _answer(
    conn: Connection, session_id: str, approval_id: str, answer: ApprovalAnswer, *, by: str, within: str
) -> tuple[Approval, bool]:
    """The approval as it is settled now, and whether this answer did it."""
    before = get_approval(conn, session_id, approval_id, within=within)
    if before is None:
        raise ApprovalNotFound(approval_id)
    if before.status is ApprovalStatus.PENDING and answer.decision not in before.options:
        raise InvalidFields.of("decision", f"must be one of {', '.join(before.options)}")
    now = utc_now()
    if now >= before.expires_at:
        settled = settle_approval(
            conn, approval_id, ApprovalStatus.EXPIRED, now=now, decision=before.default, decided_by=TIMEOUT
        )
        return settled or _again(conn, before, within), False
    settled = settle_approval(
        conn,
        approval_id,
        ApprovalStatus.ANSWERED,
        now=now,
        decision=answer.decision,
        reason=answer.reason,
        remember=answer.remember or answer.decision.lower() == ALWAYS,
        decided_by=by,
    )
    return (settled, True) if settled is not None else (_again(conn, before, within), False)


def _again(conn: Connection, before: Approval, within: str) -> Approval:
    """The approval as somebody else settled it."""
    return get_approval(conn, before.session_id, before.approval_id, within=within) or before
