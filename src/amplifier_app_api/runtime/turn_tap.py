"""What a turn's modules do, as rows and events.

`TurnTap` is what the kernel's proxies tell while a turn runs. It counts, keeps track of open tool calls, and hands
everything to the recorder in an order that a crash cannot tear: a message with tool calls is committed before the
first tool starts.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from amplifier_app_api.models.event import (
    ContextCompacted,
    MessageCompleted,
    Notice,
    ToolCompleted,
    ToolStarted,
    UsageUpdated,
)
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.models.turn import TokenUsage
from amplifier_app_api.runtime.blocks import blocks_of
from amplifier_app_api.runtime.kernel.proxies import json_copy
from amplifier_app_api.runtime.kernel.stopped import StopLoop
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.recorder import Recorder, TurnOver, Unit
from amplifier_app_api.runtime.relay import Relay
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.lifecycle import synthetic_result
from amplifier_app_api.storage.messages import SEALED, NewMessage

logger = logging.getLogger(__name__)

OUTPUT_LIMIT = 16_384
"""Characters of a tool's output in its event; the message row has the whole."""
ARGUMENT_LIMIT = 16_384


@dataclass
class Tally:
    """What a turn has used so far."""

    usage: TokenUsage = field(default_factory=TokenUsage)
    iterations: int = 0
    tool_calls: int = 0


class TurnTap:
    """The ears of one turn. `stopping` is set when no model may be asked any more."""

    def __init__(
        self,
        recorder: Recorder,
        mask: SecretMask,
        seal: Callable[[Any], str],
        *,
        turn_id: str,
        message_id: str,
        prompt: str,
    ) -> None:
        self.tally = Tally()
        self.error: Exception | None = None
        self.loop_status: Mapping[str, Any] = {}
        self.stopping = False
        self._recorder = recorder
        self._mask = mask
        self._seal = seal
        self._turn_id = turn_id
        self._message_id = message_id
        self._prompt = prompt
        self._relay = Relay(recorder)
        self._user_bound = False
        self._open_calls: dict[str, str] = {}
        self._running_tools: dict[str, float] = {}
        self._told_calls: set[str] = set()
        self._asking_model = 0

    @property
    def only_asks_model(self) -> bool:
        """Whether a model is being asked and no tool runs."""
        return self._asking_model > 0 and not self._running_tools

    @property
    def has_open_calls(self) -> bool:
        """Whether a tool call has no result yet."""
        return bool(self._open_calls)

    def on_event(self, event: str, data: Mapping[str, Any]) -> None:
        """A hook event that a module emitted."""
        if event.startswith("llm:stream_"):
            self._relay.on_stream_event(event, data)
        elif event == "content_block:delta":
            self._relay.on_content_delta(data)
        elif event == "context:compaction":
            self._recorder.defer(Unit(events=[_compaction(data)]))
        elif event == "orchestrator:complete":
            self.loop_status = dict(data)

    async def before_model_call(self) -> None:
        """A provider is about to be called."""
        self._refuse_when_over()
        if self.stopping:
            raise StopLoop
        await self._write()
        self.tally.iterations += 1
        self._asking_model += 1
        self._relay.begin_call()

    def model_answered(self, response: Any) -> None:
        """A provider answered."""
        self._asking_model -= 1
        self.error = None
        self._relay.call_answered()
        usage = getattr(response, "usage", None)
        if usage is not None:
            self.tally.usage = self.tally.usage.plus(_usage_of(usage))

    def model_failed(self, error: Exception) -> None:
        """A provider raised."""
        self._asking_model -= 1
        self.error = error
        self._relay.call_failed()

    def model_left(self) -> None:
        """The loop gave a model call up, say after a time limit of its own."""
        self._asking_model -= 1
        if not self.stopping:  # else the turn ends here, and keeps what was said
            self._relay.call_failed()

    async def message_added(self, message: dict[str, Any]) -> None:
        """The loop adds a message: it is a row before the loop can build on it."""
        self._refuse_when_over()
        role = message.get("role")
        if role == "user" and not self._user_bound:
            self._user_bound = True
            if message != {"role": "user", "content": self._prompt}:
                self._recorder.defer(Unit(binds=[(self._message_id, message)]))
            return
        unit = self._unit_of(message)
        calls = _calls_of(message) if role == "assistant" else {}
        self._open_calls.update(calls)
        if role == "tool":
            self._open_calls.pop(str(message.get("tool_call_id")), None)
        if calls:
            await self._write(unit)
        else:
            self._recorder.defer(unit)

    def _unit_of(self, message: dict[str, Any]) -> Unit:
        row = self._shown(_row_of(message, self._turn_id))
        if row.role == "assistant":
            told = self._relay.complete(row.message_id, message)
            completed = told.model_copy(update={"blocks": [self._shown_part(block) for block in told.blocks]})
            return Unit(messages=[row], events=[completed, UsageUpdated(usage=self.tally.usage)])
        if row.role == "tool" and row.tool_call_id not in self._told_calls:
            return Unit(messages=[row], events=[self._refused(row)])
        return Unit(messages=[row])

    def _shown(self, row: NewMessage) -> NewMessage:
        """The row as people read it: what a tool was given and what it gave back, without secrets.

        The kernel's dict stays whole, sealed when it holds one. What the model itself says stays as it is.
        """
        if row.role == "tool":
            return replace(row, content=self._mask.json(row.content), kernel=self._kept(row.kernel))
        if row.role != "assistant":
            return row
        content: Any = row.content
        if isinstance(content, list):
            content = [self._shown_part(part) for part in cast("list[Any]", content)]
        return replace(row, content=content, tool_calls=self._mask.json(row.tool_calls), kernel=self._kept(row.kernel))

    def _kept(self, kernel: dict[str, Any] | None) -> dict[str, Any] | None:
        holds_secret = kernel is not None and self._mask.json(kernel) != kernel
        return {SEALED: self._seal(kernel)} if holds_secret else kernel

    def _shown_part(self, part: Any) -> Any:
        match part:
            case {"type": "tool_use" | "tool_call" | "tool_result"}:
                return self._mask.json(part)
            case _:
                return part

    def _refused(self, row: NewMessage) -> ToolCompleted:
        """A call that was answered without its tool having run: denied, or no such tool."""
        call_id = str(row.tool_call_id)
        self._told_calls.add(call_id)
        return self._tool_completed(call_id, ok=False, output=str(row.content), seconds=0.0)

    async def tool_started(self, call_id: str, tool: str, arguments: Any) -> None:
        """A tool is about to run."""
        self._refuse_when_over()
        self.tally.tool_calls += 1
        self._told_calls.add(call_id)
        self._running_tools[call_id] = time.monotonic()
        shown = _bounded(self._mask.json(arguments), ARGUMENT_LIMIT)
        try:
            await self._write(Unit(events=[ToolStarted(call_id=call_id, tool=tool, arguments=shown)]))
        except DatabaseUnavailable:
            self.tool_left(call_id, "It did not run: the database is unavailable.")
            raise

    async def tool_ended(self, call_id: str, tool: str, *, ok: bool, output: str) -> None:
        """A tool has run."""
        self._refuse_when_over()
        seconds = time.monotonic() - self._running_tools.pop(call_id, time.monotonic())
        try:
            completed = self._tool_completed(call_id, ok=ok, output=output, seconds=seconds)
            await self._write(Unit(events=[completed]))
        except DatabaseUnavailable:
            # Raised here, the loop would tell the model that the tool failed. It is written with what comes next.
            logger.warning("the end of a tool call could not be written yet", extra={"turn_id": self._turn_id})

    def tool_left(self, call_id: str, said: str) -> None:
        """A tool call was given up before it had a result."""
        began = self._running_tools.pop(call_id, None)
        if began is not None:
            seconds = time.monotonic() - began
            completed = self._tool_completed(call_id, ok=False, output=said, seconds=seconds)
            self._recorder.defer(Unit(events=[completed]))

    def _tool_completed(self, call_id: str, *, ok: bool, output: str, seconds: float) -> ToolCompleted:
        shown = made_storable(self._mask.text(output))
        return ToolCompleted(
            call_id=call_id,
            ok=ok,
            output=shown[:OUTPUT_LIMIT],
            truncated=len(shown) > OUTPUT_LIMIT,
            ms=round(seconds * 1000),
        )

    def notice(self, level: str, text: str, source: str) -> None:
        """Something people should read."""
        shown = made_storable(self._mask.text(text))
        self._recorder.defer(Unit(events=[Notice(level=level, text=shown, source=source)]))

    async def _write(self, unit: Unit | None = None) -> None:
        try:
            await self._recorder.write(unit)
        except DatabaseUnavailable as error:
            # The loop may wrap it in whatever it likes: this is why the turn fails.
            self.error = error
            raise

    def _refuse_when_over(self) -> None:
        if self._recorder.sealed:
            raise TurnOver

    def keep_partial_text(self, unit: Unit) -> str | None:
        """Make a message of the text that was streamed and did not become one. None: there was none."""
        call = self._relay.unfinished()
        if call is None or not call.streamed_text:
            return None
        text = call.streamed_text
        call.settled = True
        row = NewMessage(
            message_id=str(uuid.uuid4()),
            turn_id=self._turn_id,
            role="assistant",
            content=[{"type": "text", "text": text}],
            created_at=utc_now(),
            kernel={"role": "assistant", "content": [{"type": "text", "text": text}]},
            metadata={"interrupted": True},
            interrupted=True,
        )
        blocks = [
            {"block": block.number, "type": "text", "text": block.text}
            for block in call.blocks.values()
            if block.type == "text" and block.text
        ]
        unit.messages.append(row)
        unit.events.append(MessageCompleted(message_id=row.message_id, request=call.request, blocks=blocks))
        return text

    def answer_open_calls(self, unit: Unit, said: str) -> None:
        """Answer every call that has no result, so that the history is valid for every provider."""
        for call_id, tool in self._open_calls.items():
            unit.messages.append(synthetic_result(self._turn_id, call_id, tool, said))
            if call_id in self._running_tools or call_id not in self._told_calls:
                seconds = time.monotonic() - self._running_tools.get(call_id, time.monotonic())
                unit.events.append(self._tool_completed(call_id, ok=False, output=said, seconds=seconds))
        self._open_calls.clear()

    def give_up_the_rest(self, unit: Unit) -> None:
        """Tell of what was streamed and did not become part of the transcript."""
        unit.events += self._relay.discard_unfinished("it did not become part of the transcript")


def _row_of(message: dict[str, Any], turn_id: str) -> NewMessage:
    metadata = message.get("metadata")
    calls = message.get("tool_calls")
    return NewMessage(
        message_id=str(uuid.uuid4()),
        turn_id=turn_id,
        role=made_storable(str(message.get("role") or "user")),
        content=message.get("content") if message.get("content") is not None else "",
        created_at=utc_now(),
        kernel=message,
        tool_calls=calls or None,
        tool_call_id=_text_or_none(message.get("tool_call_id")),
        name=_text_or_none(message.get("name")),
        metadata=metadata if isinstance(metadata, dict) else {},  # pyright: ignore[reportUnknownArgumentType]
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else made_storable(str(value))


def _calls_of(message: Mapping[str, Any]) -> dict[str, str]:
    calls = (block["tool_use"] for block in blocks_of(message) if block["type"] == "tool_use")
    return {str(call["id"]): str(call["name"]) for call in calls}


def _usage_of(usage: Any) -> TokenUsage:
    cost = getattr(usage, "cost_usd", None)
    return TokenUsage(
        input_tokens=getattr(usage, "input_tokens", 0) or 0,
        output_tokens=getattr(usage, "output_tokens", 0) or 0,
        cache_read_tokens=getattr(usage, "cache_read_tokens", 0) or 0,
        cache_write_tokens=getattr(usage, "cache_write_tokens", 0) or 0,
        cost_usd=None if cost is None else str(cost),
    )


def _compaction(data: Mapping[str, Any]) -> ContextCompacted:
    def side(name: str) -> dict[str, int]:
        found = {unit: data.get(f"{name}_{unit}") for unit in ("messages", "tokens")}
        return {unit: int(number) if isinstance(number, int | float) else 0 for unit, number in found.items()}

    return ContextCompacted(before=side("before"), after=side("after"))


def _bounded(value: Any, limit: int) -> Any:
    text = str(json_copy(value))
    return value if len(text) <= limit else {"truncated": True, "preview": text[:limit]}
