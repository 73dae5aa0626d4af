"""What a turn's modules do, as rows and events.

`TurnTap` is what the kernel's proxies tell while a turn runs. It counts, keeps track of open tool calls, and hands
everything to the recorder in an order that a crash cannot tear: a message with tool calls is committed before the
first tool starts.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from amplifier_app_api.models.content import Content, said_with
from amplifier_app_api.models.event import (
    ContextCompacted,
    Event,
    MessageCompleted,
    MessageDiscarded,
    Notice,
    ToolCompleted,
    ToolStarted,
    TurnRecovered,
    UsageUpdated,
)
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.models.turn import TokenUsage, cost_or_none
from amplifier_app_api.runtime.blocks import blocks_of
from amplifier_app_api.runtime.budget import Meter
from amplifier_app_api.runtime.journal import OUTCOME_UNKNOWN, Journal, Seals
from amplifier_app_api.runtime.kernel.proxies import json_copy
from amplifier_app_api.runtime.kernel.stopped import StopLoop
from amplifier_app_api.runtime.kernel.tap import Recalled
from amplifier_app_api.runtime.recorder import Recorder, TurnOver
from amplifier_app_api.runtime.relay import Relay
from amplifier_app_api.runtime.resumption import Resumption, Tally
from amplifier_app_api.runtime.shown import shown_row
from amplifier_app_api.runtime.units import Unit
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.ending import partial_answer
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.journal import FINISHED, UNKNOWN, JournalledCall
from amplifier_app_api.storage.lifecycle import synthetic_result
from amplifier_app_api.storage.messages import NewMessage

logger = logging.getLogger(__name__)

PROCESS_LOST = "the server that asked the model stopped"
OUTPUT_LIMIT = 16_384
"""Characters of a tool's output in its event; the message row has the whole."""
ARGUMENT_LIMIT = 16_384
MAX_TOKENS = 10**9
"""Of one answer; so many answers of a tenant's day fit a column."""

GOAL_NEWS: Mapping[str, tuple[str, str]] = {
    "continuing": ("info", "The goal is not reached yet"),
    "achieved": ("info", "The goal is reached"),
    "stalled": ("warning", "The goal is given up, for nothing gets closer to it"),
    "cap_hit": ("warning", "The goal is not confirmed within its bounds"),
    "cancelled": ("info", "The goal is given up"),
    "error": ("warning", "The goal could not be judged"),
}
"""How a notice begins that tells of a goal, and its level."""
GOAL_NEWS_LIMIT = 2_000


class TurnTap:
    """The ears of one turn. `stopping` is set when no model may be asked any more.

    `over_budget` says which budget ends the turn; `on_refusal` is called when a model call was refused for
    either reason.
    `last_text` is what the assistant said last.

    `steered` makes of a message that the loop adds on behalf of a user what is to be recorded for it, None when it
    knows nothing of it. `on_model_call` is called when a model is about to be asked. `child_outcome` waits for the
    child session that a call of an earlier attempt started, and gives the result of the call; None when there is no
    such child.
    """

    def __init__(
        self,
        recorder: Recorder,
        seals: Seals,
        meter: Meter,
        *,
        turn_id: str,
        message_id: str,
        prompt: str,
        content: Content | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        self.tally = Tally() if resumption is None else resumption.tally
        self.steered: Callable[[dict[str, Any]], Unit | None] | None = None
        self.on_model_call: Callable[[], None] | None = None
        self.child_outcome: Callable[[str], Awaitable[Recalled | None]] | None = None
        self.error: Exception | None = None
        self.loop_status: Mapping[str, Any] = {}
        self.stopping = False
        self.over_budget: str | None = None
        self.on_refusal: Callable[[], None] | None = None
        self.last_text: str | None = None
        self._meter = meter
        if resumption is not None:
            meter.charge(self.tally.usage, tool_calls=self.tally.tool_calls, iterations=self.tally.iterations)
        self._recorder = recorder
        self._seals = seals
        self._mask = seals.mask
        self._turn_id = turn_id
        self._message_id = message_id
        self._prompt = prompt
        self._content = prompt if content is None else content
        self._relay = Relay(recorder, seals.mask, asked=0 if resumption is None else resumption.requests)
        self._journal = Journal(seals)
        self._user_bound = resumption is not None
        self._open_calls: dict[str, str] = {}
        self._running_tools: dict[str, float] = {}
        self._told_calls: set[str] = set()
        self._outputs: dict[str, str] = {}  # of calls that are still open: their tool has run, their loop said nothing
        if resumption is not None:
            self._take_up(resumption)
        self._asking_model = 0

    def _take_up(self, before: Resumption) -> None:
        self._journal = Journal(self._seals, earlier=before.calls, answered=before.answered)
        self._open_calls.update(before.open_calls)
        recalled = ((call_id, self._journal.recall(call_id, tool)) for call_id, tool in before.open_calls.items())
        self._told_calls.update(
            call_id for call_id, call in recalled if call is not None and call.status in (FINISHED, UNKNOWN)
        )

    def release(self) -> None:
        """Let go of the turn, which is over: so nothing of it holds it any longer."""
        self.steered = self.on_model_call = self.child_outcome = self.on_refusal = None

    async def recovered(self, before: Resumption) -> None:
        """Tell that the turn goes on."""
        news: list[Event] = [
            TurnRecovered(attempt=before.attempt, reused=[*before.reused], unknown=[*before.unknown]),
            *(MessageDiscarded(request=request, reason=PROCESS_LOST) for request in before.abandoned),
        ]
        # With the numbers that were given: should this process be lost, too, none is given again.
        await self._write(Unit(events=news, tally=self._tally_columns()))

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
        elif event == "orchestrator:goal_progress":
            self._goal_progress(data)

    async def before_model_call(self) -> None:
        """A provider is about to be called."""
        self._refuse_when_over()
        if self.stopping or self._is_over_budget():
            if self.on_refusal is not None:
                self.on_refusal()
            await asyncio.sleep(0)  # a loop that asks again and again still lets others run
            raise StopLoop
        if self.on_model_call is not None:
            self.on_model_call()
        # Before anything is awaited: of two turns that share the last call of a budget one gets it.
        self.tally.iterations += 1
        self._meter.charge(iterations=1)
        await self._write()
        self._asking_model += 1
        self._relay.begin_call()

    def model_answered(self, response: Any) -> None:
        """A provider answered."""
        self._asking_model -= 1
        self.error = None
        self._relay.call_answered()
        usage = getattr(response, "usage", None)
        if usage is not None:
            used = _usage_of(usage)
            self.tally.usage = self.tally.usage.plus(used)
            self._meter.charge(used)

    def _is_over_budget(self, *, tool: bool = False) -> bool:
        self.over_budget = self.over_budget or self._meter.used_up(tool=tool)
        return self.over_budget is not None

    def refusal_of_calls(self) -> str | None:
        """Why no tool may be started any more. None: it may."""
        if self.stopping:
            return "the turn is being stopped"
        return self.over_budget if self._is_over_budget(tool=True) else None

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

    async def message_added(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The loop adds a message: it is a row before the loop can build on it.

        A loop knows the text of what the user said only: where there are blocks, they take the place of its message.
        """
        self._refuse_when_over()
        role = message.get("role")
        if role == "user" and not self._user_bound and self._may_be_the_prompt(message):
            self._user_bound = True
            given = said_with(self._content, message, prompt=self._prompt)
            if given != {"role": "user", "content": self._content}:
                self._recorder.defer(Unit(binds=[(self._message_id, self._seals.kept_message(given))]))
            return None if given == message else given
        if role == "user" and self.steered is not None and (told := self.steered(message)) is not None:
            self._recorder.defer(told)
            return None
        unit = self._unit_of(message)
        calls = _calls_of(message) if role == "assistant" else {}
        self._open_calls.update(calls)
        if role == "tool":
            call_id = str(message.get("tool_call_id"))
            self._open_calls.pop(call_id, None)
            self._told_calls.discard(call_id)
            self._outputs.pop(call_id, None)
            self._journal.answered(call_id)
        if calls:
            await self._write(unit)
        else:
            self._recorder.defer(unit)
        return None

    def _may_be_the_prompt(self, message: dict[str, Any]) -> bool:
        """Whether the message is what the user said, though a hook may have changed it: hooks add theirs before it."""
        metadata = message.get("metadata")
        facts = cast("dict[str, Any]", metadata if isinstance(metadata, dict) else {})
        of_hook = facts.get("source") == "hook" or facts.get("ephemeral")
        return not of_hook or message.get("content") == self._prompt

    def _unit_of(self, message: dict[str, Any]) -> Unit:
        row = self._shown(_row_of(message, self._turn_id))
        if row.role == "assistant":
            completed = self._relay.complete(row.message_id, message)
            said = "".join(block["text"] for block in blocks_of(message) if block["type"] == "text")
            self.last_text = said or self.last_text
            used = UsageUpdated(usage=self._meter.usage)
            return Unit(messages=[row], events=[completed, used], tally=self._tally_columns())
        if row.role == "tool" and row.tool_call_id not in self._told_calls:
            return Unit(messages=[row], events=[self._refused(row)])
        return Unit(messages=[row])

    def _tally_columns(self) -> dict[str, Any]:
        """What the turn's row keeps of it, for who goes on with the turn."""
        return {
            "usage": self.tally.usage.model_dump(),
            "iterations": self.tally.iterations,
            "tool_calls": self.tally.tool_calls,
            "requests": self._relay.requests,
        }

    def _shown(self, row: NewMessage) -> NewMessage:
        """The row as people read it, without secrets. The kernel's dict stays whole, sealed when it holds one."""
        kernel = None if row.kernel is None else self._seals.kept_message(row.kernel)
        return replace(shown_row(row, self._mask), kernel=kernel)

    def _refused(self, row: NewMessage) -> ToolCompleted:
        """A call that was answered without its tool having run: denied, or no such tool."""
        call_id = str(row.tool_call_id)
        self._told_calls.add(call_id)
        return self._tool_completed(call_id, ok=False, output=str(row.content), seconds=0.0)

    async def recall(self, call_id: str, tool: str) -> Recalled | None:
        """What became of a call that an earlier attempt made, or that may not be made. None: it is to be made now."""
        call = self._journal.recall(call_id, tool)
        if call is None:
            why = self.refusal_of_calls()
            return None if why is None else Recalled.failure(f"This call was not made: {why}.")
        if call.status == FINISHED:
            return Recalled(self._journal.result_of(call))
        if self.child_outcome is not None and (outcome := await self.child_outcome(call_id)) is not None:
            return await self._child_ended(call, call_id, outcome)
        if call.repeatable is not None:
            return None
        if call.status != UNKNOWN:
            self._told_calls.add(call_id)
            unknown = self._tool_completed(call_id, ok=False, output=OUTCOME_UNKNOWN, seconds=0.0)
            await self._write(Unit(events=[unknown], effects=[self._journal.given_up(call)]))
        return Recalled.failure(OUTCOME_UNKNOWN)

    async def _child_ended(self, call: JournalledCall, call_id: str, outcome: Recalled) -> Recalled:
        self._told_calls.add(call_id)
        completed = self._tool_completed(call_id, ok=outcome.ok, output=outcome.text, seconds=0.0)
        effect = self._journal.finished_before(call, outcome.result)
        await self._write(Unit(events=[completed], effects=[effect]))
        return outcome

    async def tool_started(self, call_id: str, tool: str, arguments: Any, *, repeatable: str | None = None) -> None:
        """A tool is about to run."""
        self._refuse_when_over()
        self.tally.tool_calls += 1
        self._meter.charge(tool_calls=1)
        self._told_calls.add(call_id)
        self._running_tools[call_id] = time.monotonic()
        shown = _bounded(self._mask.json(arguments), ARGUMENT_LIMIT)
        try:
            started = ToolStarted(call_id=call_id, tool=tool, arguments=shown)
            entry = self._journal.started(call_id, tool, arguments, repeatable)
            await self._write(Unit(events=[started], effects=[entry]))
        except DatabaseUnavailable:
            self.tool_left(call_id, "It did not run: the database is unavailable.")
            raise

    async def tool_ended(self, call_id: str, tool: str, *, ok: bool, output: str, result: Any = None) -> None:
        """A tool has run; `result` is what a later attempt gives back in its place."""
        self._refuse_when_over()
        seconds = time.monotonic() - self._running_tools.pop(call_id, time.monotonic())
        if call_id in self._open_calls:
            self._outputs[call_id] = output
        try:
            completed = self._tool_completed(call_id, ok=ok, output=output, seconds=seconds)
            await self._write(Unit(events=[completed], effects=[self._journal.finished(call_id, result)]))
        except DatabaseUnavailable:
            # Raised here, the loop would tell the model that the tool failed. It is written with what comes next.
            logger.warning("the end of a tool call could not be written yet", extra={"turn_id": self._turn_id})

    def tool_left(self, call_id: str, said: str) -> None:
        """A tool call was given up before it had a result."""
        began = self._running_tools.pop(call_id, None)
        if began is not None:
            seconds = time.monotonic() - began
            completed = self._tool_completed(call_id, ok=False, output=said, seconds=seconds)
            entry = self._journal.finished(call_id, Recalled.failure(said).result)
            self._recorder.defer(Unit(events=[completed], effects=[entry]))

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

    def _goal_progress(self, data: Mapping[str, Any]) -> None:
        state = str(data.get("state"))
        level, sentence = GOAL_NEWS.get(state, ("info", f"Goal {state}"))
        told = data.get("summary") or data.get("reason")
        self.notice(level, f"{sentence}: {told}"[:GOAL_NEWS_LIMIT] if told else sentence, "goal")

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
        partial = self._relay.keep_unfinished()
        if partial is None:
            return None
        row = self._shown(partial_answer(self._turn_id, partial.text))
        shown = "".join(block["text"] for block in partial.blocks)
        unit.messages.append(replace(row, content=[{"type": "text", "text": shown}]))
        unit.events.append(MessageCompleted(message_id=row.message_id, request=partial.request, blocks=partial.blocks))
        return partial.text

    def answer_open_calls(self, unit: Unit, said: str) -> None:
        """Answer every call that is open, so that the history is valid for every provider: with what its tool gave, or
        with `said` where it has no result."""
        for call_id, tool in self._open_calls.items():
            if (output := self._outputs.get(call_id)) is not None:
                unit.messages.append(self._shown(synthetic_result(self._turn_id, call_id, tool, made_storable(output))))
                continue
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
    """What a provider says that its answer used; what it says is bounded, so that sums of it can be stored."""
    counts = {name: _count(getattr(usage, name, 0)) for name in TokenUsage.model_fields if name != "cost_usd"}
    cost = getattr(usage, "cost_usd", None)
    return TokenUsage(**counts, cost_usd=None if cost is None else cost_or_none(cost))


def _count(value: Any) -> int:
    return min(max(0, value), MAX_TOKENS) if isinstance(value, int) else 0


def _compaction(data: Mapping[str, Any]) -> ContextCompacted:
    def side(name: str) -> dict[str, int]:
        found = {unit: data.get(f"{name}_{unit}") for unit in ("messages", "tokens")}
        return {unit: int(number) if isinstance(number, int | float) else 0 for unit, number in found.items()}

    return ContextCompacted(before=side("before"), after=side("after"))


def _bounded(value: Any, limit: int) -> Any:
    text = str(json_copy(value))
    return value if len(text) <= limit else {"truncated": True, "preview": text[:limit]}
