"""A Session: a running instance of one Config."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from amplifier_app_api.models.content import MessageContent, content_of, has_image
from amplifier_app_api.models.fields import NOT_A_SWITCH, JsonObject, Name, Tags, Text, Timestamp
from amplifier_app_api.models.turn import Budget, Message, TokenUsage, Turn


class SessionStatus(StrEnum):
    """What a session is: in use, or closed with an outcome."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Activity(StrEnum):
    """What a session is doing now."""

    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"


class SessionFailure(BaseModel):
    """Why a session could not be opened the last time."""

    code: str
    detail: str


class DegradedModule(BaseModel):
    """A module the session does without (`allow_missing`)."""

    module: str
    kind: str
    detail: str


class Session(BaseModel):
    """The stored session. `message_count` counts the messages the user sent, `last_seq` the events.

    A child session has a `parent_id`, the `external_id` its parent's tool knows it by, and the `agent` it runs as.
    """

    session_id: str
    config_id: str
    revision: int
    status: SessionStatus
    activity: Activity = Activity.IDLE
    title: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    degraded: list[DegradedModule] = Field(default_factory=list[DegradedModule])
    error: SessionFailure | None = None
    parent_id: str | None = None
    external_id: str | None = None
    agent: str | None = None
    forked_from: str | None = None
    budget: Budget | None = None
    message_count: int = 0
    last_seq: int = 0
    usage: TokenUsage = TokenUsage()
    created_at: Timestamp
    updated_at: Timestamp


class SessionCreateRequest(BaseModel):
    """Body of `POST /sessions`."""

    config_id: Annotated[Text, Field(min_length=1, max_length=200)]
    revision: Annotated[int, Field(ge=1, le=2**31 - 1), NOT_A_SWITCH] | None = None
    variables: Annotated[dict[Name, Annotated[Text, Field(max_length=100_000)]], Field(max_length=200)] | None = None
    title: Annotated[Text, Field(max_length=1000)] | None = None
    tags: Tags | None = None
    working_dir: Annotated[Text, Field(min_length=1, max_length=1000)] | None = None
    allow_missing: bool = False
    budget: Budget | None = None


class SessionPatchRequest(BaseModel):
    """Body of `PATCH /sessions/{session_id}`: absent leaves a field; null clears `title` and `tags`."""

    title: Annotated[Text, Field(max_length=1000)] | None = None
    tags: dict[str, Annotated[Text, Field(max_length=1000)] | None] | None = None
    status: Literal["active", "completed", "failed", "cancelled"] | None = None


class WhenBusy(StrEnum):
    """What to do with a message while a turn runs: refuse it, let it wait, stop the turn for it, or hand it to it."""

    REJECT = "reject"
    QUEUE = "queue"
    INTERRUPT = "interrupt"
    STEER = "steer"


class MessageRequest(BaseModel):
    """Body of `POST …/messages`, `…/stream` and `…/turns`. `context` is JSON the model sees with this message.

    `message` is a text, or a list of blocks of texts and images; only a text can steer.
    """

    message: MessageContent
    context: JsonObject | None = None
    when_busy: WhenBusy = WhenBusy.REJECT
    budget: Budget | None = None

    @model_validator(mode="after")
    def _steers_with_text(self) -> "MessageRequest":
        if self.when_busy is WhenBusy.STEER and has_image(content_of(self.message)):
            raise ValueError("a message with images cannot steer a turn: `queue` it, or let it `interrupt`")
        return self


class ForkRequest(BaseModel):
    """Body of `POST …/fork`. `turn_id` is the last turn that is copied; `variables` add to those of the source."""

    turn_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    variables: Annotated[dict[Name, Annotated[Text, Field(max_length=100_000)]], Field(max_length=200)] | None = None
    title: Annotated[Text, Field(max_length=1000)] | None = None
    tags: Tags | None = None
    working_dir: Annotated[Text, Field(min_length=1, max_length=1000)] | None = None
    budget: Budget | None = None


class UpgradeRequest(BaseModel):
    """Body of `POST …/upgrade`. Without a `revision` the newest is meant."""

    revision: Annotated[int, Field(ge=1, le=2**31 - 1), NOT_A_SWITCH] | None = None


class CancelRequest(BaseModel):
    """Body of `POST …/cancel`. `immediate: false` lets a running tool finish."""

    immediate: bool = True


class SessionResponse(Session):
    """A session, what just happened to it, and its transcript when asked for."""

    message: str | None = None
    transcript: list[Message] | None = None

    @classmethod
    def of(
        cls, session: Session, message: str | None = None, *, transcript: list[Message] | None = None
    ) -> "SessionResponse":
        """The answer that shows `session`."""
        fields: dict[str, Any] = {name: getattr(session, name) for name in type(session).model_fields}
        return cls.model_construct(**fields, message=message, transcript=transcript)


class SessionListResponse(BaseModel):
    """A page of sessions, newest change first."""

    sessions: list[Session]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None


class MessageListResponse(BaseModel):
    """A page of a transcript, oldest first."""

    messages: list[Message]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None


class CancelResponse(BaseModel):
    """What a cancel did. Both ids are null when there was nothing to cancel."""

    session_id: str
    turn_id: str | None
    status: str | None
    message: str


class SteeringResponse(BaseModel):
    """A message that was handed to the turn that runs, which `turn_id` names."""

    session_id: str
    turn_id: str
    message_id: str
    status: Literal["pending"] = "pending"


class TurnListResponse(BaseModel):
    """A page of turns, the newest first."""

    turns: list[Turn]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None


class MessageResponse(BaseModel):
    """The outcome of a turn."""

    session_id: str
    turn_id: str
    status: str
    stop_reason: str | None
    response: str | None
    usage: TokenUsage
    metadata: dict[str, Any]
