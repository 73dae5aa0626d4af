"""What happened, as types.

A durable event is a fact after the fact: it is numbered by the log, kept, and every follower sees it. A
delta is a piece of an answer while it is being made: it has no number, only its place (`request`, `block`,
`offset`), and once the block is whole `message.completed` says the same. The envelope around the fields of
an event (`seq`, `session_id`, `turn_id`, `at`, `schema`) is added by the log.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from amplifier_app_api.models.fields import Timestamp
from amplifier_app_api.models.turn import TokenUsage, TurnStatus

SCHEMA = 1


class Event(BaseModel, frozen=True):
    """The base of every durable event."""

    type: str


class SessionCreated(Event, frozen=True):
    """A session was opened for the first time."""

    type: Literal["session.created"] = "session.created"
    config_id: str
    revision: int
    forked_from: str | None = None


class SessionUpgraded(Event, frozen=True):
    """The session was moved to another revision of its Config."""

    type: Literal["session.upgraded"] = "session.upgraded"
    from_: int = Field(serialization_alias="from")
    to: int


class SessionClosed(Event, frozen=True):
    """Somebody closed the session with a status."""

    type: Literal["session.closed"] = "session.closed"
    status: str


class SessionResumed(Event, frozen=True):
    """A closed or failed session takes messages again."""

    type: Literal["session.resumed"] = "session.resumed"


class TurnQueued(Event, frozen=True):
    """A message was accepted; its turn waits for its place."""

    type: Literal["turn.queued"] = "turn.queued"
    message_id: str


class TurnStarted(Event, frozen=True):
    """A message was accepted and its turn runs."""

    type: Literal["turn.started"] = "turn.started"
    message_id: str


class MessageUser(Event, frozen=True):
    """The message that the turn answers."""

    type: Literal["message.user"] = "message.user"
    message_id: str
    content: Any


class MessageCompleted(Event, frozen=True):
    """A message of the assistant is whole. Its blocks are numbered as its deltas were."""

    type: Literal["message.completed"] = "message.completed"
    message_id: str
    request: int
    blocks: list[dict[str, Any]]


class MessageDiscarded(Event, frozen=True):
    """What was streamed for this request does not count: the model call failed or was made again."""

    type: Literal["message.discarded"] = "message.discarded"
    request: int
    reason: str


class ToolStarted(Event, frozen=True):
    """A tool runs."""

    type: Literal["tool.started"] = "tool.started"
    call_id: str
    tool: str
    arguments: Any


class ToolCompleted(Event, frozen=True):
    """A tool call has its result. `output` is bounded; `truncated` says whether something was cut."""

    type: Literal["tool.completed"] = "tool.completed"
    call_id: str
    ok: bool
    output: str
    truncated: bool
    ms: int


class ApprovalRequested(Event, frozen=True):
    """A person is asked whether a tool may run. Until it is answered the turn waits."""

    type: Literal["approval.requested"] = "approval.requested"
    approval_id: str
    tool: str
    expires_at: Timestamp


class ApprovalResolved(Event, frozen=True):
    """An approval was answered, expired or withdrawn (`status`); `decision` is what counts, null when withdrawn."""

    type: Literal["approval.resolved"] = "approval.resolved"
    approval_id: str
    tool: str
    status: str
    decision: str | None


class ChildStarted(Event, frozen=True):
    """A child session was started, or given another task. `external_id` is the id its tool knows it by."""

    type: Literal["child.started"] = "child.started"
    child_id: str
    external_id: str
    agent: str


class ChildEnded(Event, frozen=True):
    """The task of a child session ended; `status` is that of its turn."""

    type: Literal["child.ended"] = "child.ended"
    child_id: str
    external_id: str
    agent: str
    status: str


class UsageUpdated(Event, frozen=True):
    """What the turn has used so far."""

    type: Literal["usage.updated"] = "usage.updated"
    usage: TokenUsage


class ContextCompacted(Event, frozen=True):
    """The context was shortened for a request."""

    type: Literal["context.compacted"] = "context.compacted"
    before: dict[str, int]
    after: dict[str, int]


class Notice(Event, frozen=True):
    """Something people should read."""

    type: Literal["notice"] = "notice"
    level: str
    text: str
    source: str


class TurnRecovered(Event, frozen=True):
    """Another process goes on with the turn. `reused` and `unknown` are ids of tool calls.

    The results of `reused` were on record; what became of `unknown` nobody knows, and they are not made again.
    """

    type: Literal["turn.recovered"] = "turn.recovered"
    attempt: int
    reused: list[str]
    unknown: list[str]


class TurnEnded(Event, frozen=True):
    """The base of the four ways a turn ends."""

    stop_reason: str
    response: str | None = None
    usage: TokenUsage
    code: str | None = None
    error: str | None = None


class TurnCompleted(TurnEnded, frozen=True):
    """The turn has its answer."""

    type: Literal["turn.completed"] = "turn.completed"


class TurnFailed(TurnEnded, frozen=True):
    """The turn ended in an error; `code` is one of the error codes."""

    type: Literal["turn.failed"] = "turn.failed"


class TurnCancelled(TurnEnded, frozen=True):
    """Somebody stopped the turn. `response` is the text up to there."""

    type: Literal["turn.cancelled"] = "turn.cancelled"


class TurnInterrupted(TurnEnded, frozen=True):
    """The server stopped before the turn could end."""

    type: Literal["turn.interrupted"] = "turn.interrupted"


TERMINAL_EVENTS: Mapping[TurnStatus, type[TurnEnded]] = {
    TurnStatus.COMPLETED: TurnCompleted,
    TurnStatus.FAILED: TurnFailed,
    TurnStatus.CANCELLED: TurnCancelled,
    TurnStatus.INTERRUPTED: TurnInterrupted,
}

DURABLE_EVENTS: tuple[type[Event], ...] = (
    SessionCreated,
    SessionUpgraded,
    SessionClosed,
    SessionResumed,
    TurnQueued,
    TurnStarted,
    MessageUser,
    MessageCompleted,
    MessageDiscarded,
    ToolStarted,
    ToolCompleted,
    ApprovalRequested,
    ApprovalResolved,
    ChildStarted,
    ChildEnded,
    UsageUpdated,
    ContextCompacted,
    Notice,
    TurnRecovered,
    TurnCompleted,
    TurnFailed,
    TurnCancelled,
    TurnInterrupted,
)

DeltaType = Literal["message.delta", "reasoning.delta"]

TERMINAL_TYPES = frozenset({"turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted"})

SETTLING_TYPES = frozenset({"message.completed", "message.discarded"})
"""The last word of one request: its deltas are part of a message, or do not count."""


class Delta:
    """A piece of text of a block that is being made.

    `offset` is where the piece starts in its block, in Unicode code points; `seq` is the number of the last
    durable event before it.
    """

    __slots__ = ("at", "block", "offset", "request", "seq", "session_id", "text", "turn_id", "type")

    def __init__(
        self,
        *,
        type: DeltaType,  # noqa: A002 - the name of the field on the wire
        session_id: str,
        turn_id: str,
        seq: int,
        request: int,
        block: int,
        offset: int,
        text: str,
        at: datetime,
    ) -> None:
        self.type: DeltaType = type
        self.session_id = session_id
        self.turn_id = turn_id
        self.seq = seq
        self.request = request
        self.block = block
        self.offset = offset
        self.text = text
        self.at = at

    @property
    def end(self) -> int:
        """Where the piece ends, in code points."""
        return self.offset + len(self.text)

    def continues(self, other: "Delta") -> bool:
        """Whether this piece begins where `other` ended."""
        return (
            self.seq == other.seq
            and self.request == other.request
            and self.block == other.block
            and self.type == other.type
            and self.turn_id == other.turn_id
            and self.offset == other.end
        )
