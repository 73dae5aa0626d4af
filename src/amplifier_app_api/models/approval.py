"""An Approval: a person decides whether a tool may run."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field

from amplifier_app_api.models.fields import Text, Timestamp


class ApprovalStatus(StrEnum):
    """Where an approval is. Only a pending one can be answered; the others are final."""

    PENDING = "pending"
    ANSWERED = "answered"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Approval(BaseModel):
    """A question to a person. `arguments` are shown without secrets; `digest` is the SHA-256 of the exact ones."""

    approval_id: str
    session_id: str
    turn_id: str
    call_id: str | None = None
    tool: str
    arguments: Any
    digest: str
    prompt: str
    options: list[str]
    default: str
    status: ApprovalStatus
    decision: str | None = None
    reason: str | None = None
    remember: bool = False
    decided_by: str | None = None
    expires_at: Timestamp
    created_at: Timestamp
    decided_at: Timestamp | None = None


class ApprovalAnswer(BaseModel):
    """Body of `POST /sessions/{session_id}/approvals/{approval_id}`. `decision` is one of the approval's options."""

    decision: Annotated[Text, Field(min_length=1, max_length=100)]
    reason: Annotated[Text, Field(max_length=10_000)] | None = None
    remember: bool = False


class ApprovalListResponse(BaseModel):
    """A page of approvals, oldest first."""

    approvals: list[Approval]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None
