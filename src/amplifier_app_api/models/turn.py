"""A Turn: one message in, one recorded outcome out."""

from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from amplifier_app_api.models.fields import Timestamp


class TurnStatus(StrEnum):
    """Where a turn is. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class StopReason(StrEnum):
    """Why a turn ended."""

    END_TURN = "end_turn"
    MAX_ITERATIONS = "max_iterations"
    USER_CANCEL = "user_cancel"
    SHUTDOWN = "shutdown"
    NODE_LOST = "node_lost"
    TIMEOUT = "timeout"
    ERROR = "error"


OPEN_STATUSES = (TurnStatus.RUNNING, TurnStatus.WAITING)
"""A session has at most one turn in one of these."""


class TokenUsage(BaseModel):
    """Tokens used, and what they cost where the provider knows. `input_tokens` includes cache reads."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: str | None = None

    def plus(self, other: "TokenUsage") -> "TokenUsage":
        """Both together. An unknown cost adds nothing; two unknown costs stay unknown."""
        costs = [Decimal(cost) for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_usd=str(sum(costs)) if costs else None,
        )


class Turn(BaseModel):
    """A turn as it is recorded. `response` is the final answer, `code` the error code of a failed one."""

    turn_id: str
    session_id: str
    status: TurnStatus
    stop_reason: StopReason | None = None
    code: str | None = None
    error: str | None = None
    response: str | None = None
    usage: TokenUsage = TokenUsage()
    iterations: int = 0
    tool_calls: int = 0
    attempt: int = 1
    created_at: Timestamp
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None


class Message(BaseModel):
    """One entry of a transcript. `content` is text or the kernel's content blocks."""

    message_id: str
    session_id: str
    turn_id: str | None
    position: int
    role: str
    content: Any
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    metadata: dict[str, Any]
    context: dict[str, Any] | None = None
    interrupted: bool = False
    created_at: Timestamp
