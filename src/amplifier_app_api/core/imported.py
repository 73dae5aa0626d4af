"""The lines of an export, read: every line of its shape, all of them there, the transcript what it was."""

from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from amplifier_app_api.errors import ErrorItem, Invalid
from amplifier_app_api.models.transfer import (
    ConfigRecord,
    EndRecord,
    ExportRecord,
    MessageRecord,
    Record,
    SessionRecord,
    TranscriptHash,
    TurnRecord,
    VariablesRecord,
)
from amplifier_app_api.models.turn import UNFINISHED_STATUSES
from amplifier_app_api.runtime.blocks import blocks_of
from amplifier_app_api.storage.configs import sha256_of

_RECORD: TypeAdapter[Any] = TypeAdapter(Record)


class InvalidImport(Invalid):
    """The body is not an export of a session, or not all of one. `errors` names the line."""

    code = "invalid_document"
    title = "The export cannot be read"

    @classmethod
    def at(cls, line: int | None, detail: str, pointer: str | None = None) -> "InvalidImport":
        """What is wrong, and in which line of the body."""
        place = "" if line is None else f"Line {line}: "
        return cls(place + detail, items=[ErrorItem(code="invalid_value", detail=detail, line=line, pointer=pointer)])


@dataclass
class ImportedFile:
    """A whole export."""

    head: ExportRecord
    config: ConfigRecord
    session: SessionRecord
    turns: list[TurnRecord] = field(default_factory=list[TurnRecord])
    messages: list[MessageRecord] = field(default_factory=list[MessageRecord])
    variables: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, body: bytes) -> "ImportedFile":
        """The export of these lines. `InvalidImport` says where it is none."""
        records = [_record(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
        own = [record for record in records if not isinstance(record, VariablesRecord)]
        match own:
            case [
                ExportRecord() as head,
                ConfigRecord() as config,
                SessionRecord() as session,
                *rest,
                EndRecord() as end,
            ]:
                pass
            case _:
                raise InvalidImport.at(
                    None,
                    "An export begins with its `export`, `config` and `session` lines and ends with its `end` line",
                )
        if end.records != len(own) - 1:
            raise InvalidImport.at(None, f"The export has {len(own) - 1} of its {end.records} lines")
        file = cls(head, config, session)
        for record in rest:
            if isinstance(record, TurnRecord):
                file.turns.append(record)
            elif isinstance(record, MessageRecord):
                file.messages.append(record)
            elif isinstance(record, ExportRecord | ConfigRecord | SessionRecord | EndRecord):
                raise InvalidImport.at(None, f"The export has a second `{record.type}` line")
        for record in records:
            if isinstance(record, VariablesRecord):
                file.variables.update(record.variables)
        file._check()
        return file

    def _check(self) -> None:
        if self.config.sha256 != sha256_of(self.config.yaml_content):
            raise InvalidImport.at(None, "The text of the config is not the one that was exported")
        if self.head.messages != len(self.messages):
            raise InvalidImport.at(None, f"The export has {len(self.messages)} of {self.head.messages} messages")
        if self.head.transcript_sha256 != TranscriptHash(self.messages).hexdigest():
            raise InvalidImport.at(None, "The messages are not the ones that were exported")
        _once("turn_id", [turn.turn_id for turn in self.turns])
        _once("number", [turn.number for turn in self.turns])
        _once("message_id", [message.message_id for message in self.messages])
        if any(turn.status in UNFINISHED_STATUSES for turn in self.turns):
            raise InvalidImport.at(None, "A turn of the export has not ended")
        _every_call_is_answered(self.messages)


def _record(number: int, line: bytes) -> Any:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidImport.at(number, f"not JSON: {error}") from None
    try:
        record = _RECORD.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"/{part}" for part in first["loc"][1:])
        raise InvalidImport.at(number, str(first["msg"]).removeprefix("Value error, "), where or None) from None
    if isinstance(record, MessageRecord) and record.content is None:
        raise InvalidImport.at(number, "must not be null", "/content")
    return record


def _once(name: str, values: list[Any]) -> None:
    if len(set(values)) != len(values):
        raise InvalidImport.at(None, f"A `{name}` of the export comes twice")


def _every_call_is_answered(messages: list[MessageRecord]) -> None:
    """No provider takes a history with a call that has no result."""
    open_calls: set[str] = set()
    for message in messages:
        if not message.in_context:
            continue
        if message.role == "tool":
            open_calls.discard(str(message.tool_call_id))
            continue
        if message.role == "assistant":
            if open_calls:
                break
            shape = cast("dict[str, Any]", {"content": message.content, "tool_calls": message.tool_calls})
            calls = (block["tool_use"] for block in blocks_of(shape) if block["type"] == "tool_use")
            open_calls = {str(call["id"]) for call in calls}
    if open_calls:
        raise InvalidImport.at(None, f"The tool call {min(open_calls)!r} of the transcript has no result")
