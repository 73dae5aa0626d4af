"""A Turn: one message in, one recorded outcome out."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from amplifier_app_api.models.fields import NOT_A_SWITCH, Timestamp


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
    BUDGET = "budget"
    USER_CANCEL = "user_cancel"
    SHUTDOWN = "shutdown"
    NODE_LOST = "node_lost"
    TIMEOUT = "timeout"
    ERROR = "error"


OPEN_STATUSES = (TurnStatus.RUNNING, TurnStatus.WAITING)
"""A session has at most one turn in one of these."""

UNFINISHED_STATUSES = (TurnStatus.QUEUED, *OPEN_STATUSES)
"""A turn in one of these has not ended."""


MAX_COUNT = 2**53
MAX_COST = Decimal(10) ** 9
FINEST_COST = -40
"""The power of ten of the last digit of a cost."""


def cost_or_none(value: Any) -> str | None:
    """A cost in dollars as text. None: it is no amount that could be added up."""
    try:
        cost = Decimal(str(value))
    except ArithmeticError:
        return None
    exponent = cost.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < FINEST_COST or not 0 <= cost <= MAX_COST:
        return None
    return str(cost)


class TokenUsage(BaseModel):
    """Tokens used, and what they cost where the provider knows. `input_tokens` includes cache reads."""

    model_config = ConfigDict(frozen=True)

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


class Budget(BaseModel):
    """What may be used before a turn is ended with the stop reason `budget`. Absent: no bound.

    `tokens` counts input and output, without what was read from a cache; `seconds` is wall time; `iterations` are
    model calls.
    """

    model_config = ConfigDict(extra="forbid")

    tokens: Annotated[int, Field(ge=1, le=2**53), NOT_A_SWITCH] | None = None
    cost_usd: Annotated[Decimal, Field(ge=Decimal("0.000000001"), le=1_000_000)] | None = None
    seconds: Annotated[float, Field(gt=0, le=10**9), NOT_A_SWITCH] | None = None
    tool_calls: Annotated[int, Field(ge=0, le=2**31 - 1), NOT_A_SWITCH] | None = None
    iterations: Annotated[int, Field(ge=1, le=2**31 - 1), NOT_A_SWITCH] | None = None

    @field_serializer("cost_usd")
    def _exact(self, value: Decimal | None) -> str | None:
        return None if value is None else format(value, "f")


class Turn(BaseModel):
    """A turn as it is recorded. `response` is the final answer, `code` the error code of a failed one.

    `number` counts the turns of the session in the order they were accepted. `message` is that of a turn that
    still waits for its place, with the type and the size of its images; once it has begun the transcript has it.
    """

    turn_id: str
    session_id: str
    number: int = 1
    message_id: str = ""
    message: str | list[dict[str, Any]] | None = None
    budget: Budget | None = None
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
