"""A session on its way from one server to another: JSON lines, one record each.

The first record is `export`, the last `end` with the number of records before it, so that a file that was cut short
is known for one. Between them: `config`, `session`, every finished `turn`, every `message` of those, and the `event`s
of the log, which an import reads over. Ids are those of the server that wrote them; an import gives new ones.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, Field

from amplifier_app_api.models.content import Content
from amplifier_app_api.models.fields import JsonObject, Name, Tags, Text, Timestamp, format_time, kept_json
from amplifier_app_api.models.session import SessionStatus
from amplifier_app_api.models.turn import (
    MAX_COUNT,
    Budget,
    Message,
    StopReason,
    TokenUsage,
    TurnStatus,
    cost_or_none,
)

FORMAT = "amplifier-app-api/session"
VERSION = 1
MEDIA_TYPE = "application/x-ndjson"

Said = Annotated[Any, AfterValidator(kept_json)]
SaidObject = Annotated[dict[str, Any], AfterValidator(kept_json)]


def _known_cost(value: str) -> str:
    if cost_or_none(value) is None:
        raise ValueError("must be an amount of dollars")
    return value


def _storable_moment(value: datetime) -> datetime:
    try:
        format_time(value)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999, in UTC") from None
    return value


Moment = Annotated[Timestamp, AfterValidator(_storable_moment)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Usage(TokenUsage):
    """What was used, as somebody else counted it."""

    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    cost_usd: Annotated[str, AfterValidator(_known_cost)] | None = None


class ExportRecord(BaseModel):
    """The first record. `transcript_sha256` is the checksum of all messages, see `TranscriptHash`."""

    type: Literal["export"] = "export"
    format: Literal["amplifier-app-api/session"] = FORMAT
    version: Literal[1] = VERSION
    exported_at: Moment
    messages: Annotated[int, Field(ge=0)]
    transcript_sha256: str


class ConfigRecord(BaseModel):
    """The Config with the text of the revision that the session runs."""

    type: Literal["config"] = "config"
    config_id: Text
    name: Name
    description: Annotated[Text, Field(max_length=10_000)] | None = None
    tags: Tags = Field(default_factory=dict)
    revision: int
    sha256: str
    yaml_content: Text


class SessionRecord(BaseModel):
    """What is carried over of the session itself."""

    type: Literal["session"] = "session"
    session_id: Text
    status: SessionStatus = SessionStatus.ACTIVE
    title: Annotated[Text, Field(max_length=1000)] | None = None
    tags: Tags = Field(default_factory=dict)
    budget: Budget | None = None
    message_count: Count = 0
    usage: Usage = Usage()
    created_at: Moment
    updated_at: Moment


class TurnRecord(BaseModel):
    """A turn that has ended."""

    type: Literal["turn"] = "turn"
    turn_id: Text
    number: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    message_id: Text
    status: TurnStatus
    stop_reason: StopReason | None = None
    code: Text | None = None
    error: Text | None = None
    response: Text | None = None
    usage: Usage = Usage()
    iterations: Count = 0
    tool_calls: Count = 0
    attempt: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    created_at: Moment
    started_at: Moment | None = None
    ended_at: Moment | None = None


class MessageRecord(BaseModel):
    """An entry of the transcript. `in_context` says whether the model is shown it."""

    type: Literal["message"] = "message"
    message_id: Text
    turn_id: Text | None = None
    role: Literal["user", "assistant", "tool", "system"]
    content: Said
    tool_calls: list[SaidObject] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None
    metadata: SaidObject = Field(default_factory=dict)
    context: JsonObject | None = None
    interrupted: bool = False
    in_context: bool = True
    created_at: Moment

    def kernel(self, given: Content | None) -> dict[str, Any] | None:
        """The kernel's message dict; `given` is what the model reads of a user's message that has a context."""
        if not self.in_context:
            return None
        made: dict[str, Any] = {"role": self.role, "content": self.content if given is None else given}
        others = {"tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id, "name": self.name}
        made |= {key: value for key, value in others.items() if value is not None}
        return made | ({"metadata": self.metadata} if self.metadata else {})


class VariablesRecord(BaseModel):
    """Put in by whoever imports: the variables of the new session. No export holds them."""

    type: Literal["variables"] = "variables"
    variables: dict[Name, Annotated[Text, Field(max_length=100_000)]]


class EventRecord(BaseModel):
    """An event of the log; read over by an import."""

    type: Literal["event"] = "event"
    event: dict[str, Any]


class EndRecord(BaseModel):
    """The last record; `records` counts those before it."""

    type: Literal["end"] = "end"
    records: Annotated[int, Field(ge=0)]


Record = Annotated[
    ExportRecord
    | ConfigRecord
    | SessionRecord
    | TurnRecord
    | MessageRecord
    | VariablesRecord
    | EventRecord
    | EndRecord,
    Field(discriminator="type"),
]

_HASHED = ("role", "content", "tool_calls", "tool_call_id", "name", "metadata", "context", "interrupted")


class TranscriptHash:
    """The SHA-256 of a transcript: of its entries in order, without ids, each as one line of sorted JSON."""

    def __init__(self, messages: Iterable[Message | MessageRecord] = ()) -> None:
        self._sum = hashlib.sha256()
        for message in messages:
            self.add(message)

    def add(self, message: Message | MessageRecord) -> None:
        """Take in the next entry."""
        fields = {name: getattr(message, name) for name in _HASHED}
        self._sum.update(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))

    def hexdigest(self) -> str:
        """The checksum of what was taken in."""
        return self._sum.hexdigest()
