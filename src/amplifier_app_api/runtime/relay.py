"""From what modules report to what clients see.

Modules tell tokens as `llm:stream_block_*` events with ids of their own, or as `content_block:delta` with text, or
not at all. Here every model call gets a number within its turn, every block a number within its call, every piece
its offset; a call that was abandoned is told, and a block that was not streamed becomes one piece. What is secret is
masked on the way: of a block that ends in what may become a secret the end is held back, and the message that is
whole shows of it what its pieces showed.
"""

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from sqlalchemy import Connection

from amplifier_app_api.models.event import DeltaType, MessageCompleted, MessageDiscarded
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.blocks import DELTA_TYPES, ModelCall, StreamedBlock, blocks_of, numbered
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.recorder import Recorder
from amplifier_app_api.runtime.shown import shown_part
from amplifier_app_api.runtime.units import TurnKey, Unit
from amplifier_app_api.storage.turns import keep_request

_current_call: contextvars.ContextVar[ModelCall | None] = contextvars.ContextVar("model_call", default=None)


@dataclass(frozen=True, slots=True)
class PartialAnswer:
    """What was said of an answer that was not finished: `text` is all of it, `blocks` what people are shown."""

    request: int
    text: str
    blocks: list[dict[str, Any]]


class Relay:
    """The stream of one turn."""

    def __init__(self, recorder: Recorder, mask: SecretMask | None = None, *, asked: int = 0) -> None:
        self._recorder = recorder
        self._mask = mask or SecretMask()
        self._asked_before = asked
        self._calls: list[ModelCall] = []

    @property
    def requests(self) -> int:
        """How many times a model was asked."""
        return self._asked_before + len(self._calls)

    def begin_call(self) -> None:
        """A provider is about to be called; what it reports from its task belongs to this call."""
        self._new_call()

    def _new_call(self) -> ModelCall:
        call = ModelCall(request=self.requests + 1, mask=self._mask)
        self._calls.append(call)
        _current_call.set(call)
        return call

    def call_answered(self) -> None:
        """The provider of this task has answered."""
        self._current().answered = True

    def call_failed(self) -> None:
        """The provider of this task has failed: what it streamed does not count."""
        call = self._current()
        if call.blocks and not call.settled:
            self._discard(call, "the model call failed")
        elif not call.settled:
            self._recorder.defer(Unit(effects=[partial(_keep_request, call.request)]))
        call.settled = True

    def _current(self) -> ModelCall:
        call = _current_call.get()
        if call is not None and call in self._calls:
            return call
        return self._calls[-1] if self._calls else self._new_call()

    def on_stream_event(self, event: str, data: Mapping[str, Any]) -> None:
        """One of the four `llm:stream_*` events."""
        stream_id = str(data.get("request_id"))
        if event == "llm:stream_aborted":
            self._aborted(stream_id, data)
            return
        call = self._call_of(stream_id)
        kind = str(data.get("block_type") or "text")
        block = call.block(data.get("block_index"), kind, data.get("name"))
        if event == "llm:stream_block_delta":
            self._piece(call, block, data.get("text"))
        elif event == "llm:stream_block_end" and block.masking is not None:
            self._end(call, block)

    def _call_of(self, stream_id: str) -> ModelCall:
        call = self._current()
        if call.stream_id is None and not call.settled:
            call.stream_id = stream_id
        if call.stream_id == stream_id and not call.settled:
            return call
        # The provider tries again: a new stream is a new request.
        if call.blocks and not call.settled:
            self._discard(call, "the model was asked again")
        retry = self._new_call()
        retry.stream_id = stream_id
        return retry

    def _aborted(self, stream_id: str, data: Mapping[str, Any]) -> None:
        call = self._current()
        if call.stream_id != stream_id or call.settled:
            return
        error: Any = data.get("error")
        reason = str(cast("Mapping[str, Any]", error).get("msg", "")) if isinstance(error, Mapping) else ""
        self._discard(call, self._mask.text(reason) or "the stream was aborted")

    def on_content_delta(self, data: Mapping[str, Any]) -> None:
        """`content_block:delta` with text, from a module that reports no stream events."""
        call = self._current()
        if call.stream_id is not None or call.settled:
            return
        text: Any = data.get("text")
        delta: Any = data.get("delta")
        if text is None:
            text = cast("Mapping[str, Any]", delta).get("text") if isinstance(delta, Mapping) else delta
        block = call.block(("content", data.get("block_index", 0)), str(data.get("block_type") or "text"))
        self._piece(call, block, text)

    def _piece(self, call: ModelCall, block: StreamedBlock, text: Any) -> None:
        kind = DELTA_TYPES.get(block.type)
        if kind is None or not isinstance(text, str) or not text:
            return
        piece = made_storable(text)
        block.parts.append(piece)
        if block.shown is not None:
            if block.masking is None:  # a module that goes on with what it said had ended
                block.mask_with(self._mask)
            piece = piece if block.masking is None else block.masking.feed(piece)
            self._show(kind, call, block, piece)
            return
        self._recorder.delta(kind, call.request, block.number, block.length, piece)
        block.length += len(text)

    def _show(self, kind: DeltaType, call: ModelCall, block: StreamedBlock, piece: str) -> None:
        """Tell a piece that was masked."""
        if piece and block.shown is not None:
            self._recorder.delta(kind, call.request, block.number, block.length, piece)
            block.shown.append(piece)
            block.length += len(piece)

    def _end(self, call: ModelCall, block: StreamedBlock, *, cut_off: bool = False) -> None:
        """Nothing more comes of a block: tell what was held back."""
        masking, block.masking = block.masking, None
        kind = DELTA_TYPES.get(block.type)
        if masking is not None and kind is not None:
            self._show(kind, call, block, masking.finish(cut_off=cut_off))

    def complete(self, message_id: str, message: Mapping[str, Any]) -> MessageCompleted:
        """The event of an assistant's message that is whole; blocks nobody streamed are handed on first."""
        call = self._call_for_message()
        blocks = numbered(blocks_of(message), call)
        streamed = {block.number: block for block in call.blocks.values()}
        call.settled = True
        shown = [self._shown(call, block, streamed.get(block["block"])) for block in blocks]
        return MessageCompleted(message_id=message_id, request=call.request, blocks=shown)

    def _shown(self, call: ModelCall, block: dict[str, Any], streamed: StreamedBlock | None) -> dict[str, Any]:
        kind = DELTA_TYPES.get(block["type"])
        if kind is None:
            return shown_part(block, self._mask)
        if streamed is None:
            text = self._mask.text(block["text"])
            call.block(("whole", block["block"]), block["type"])
            self._recorder.delta(kind, call.request, block["block"], 0, text)
            return {**block, "text": text}
        self._end(call, streamed)
        return block if streamed.shown is None else {**block, "text": streamed.shown_text}

    def _call_for_message(self) -> ModelCall:
        call = _current_call.get()
        if call is not None and call in self._calls and not call.settled:
            return call
        # A loop may ask the model in a task of its own: then the message is the oldest answer without one.
        waiting = next((known for known in self._calls if known.answered and not known.settled), None)
        return waiting or (self._calls[-1] if self._calls else self._new_call())

    def _discard(self, call: ModelCall, reason: str) -> None:
        call.settled = True
        told = MessageDiscarded(request=call.request, reason=reason[:500])
        self._recorder.defer(Unit(events=[told], effects=[partial(_keep_request, call.request)]))

    def keep_unfinished(self) -> PartialAnswer | None:
        """The text of the last call that streamed something and did not become a message; now it is one."""
        call = next((call for call in reversed(self._calls) if call.blocks and not call.settled), None)
        if call is None or not (text := call.streamed_text):
            return None
        call.settled = True
        blocks: list[dict[str, Any]] = []
        for block in call.blocks.values():
            if block.type == "text" and block.text:
                self._end(call, block, cut_off=True)
                blocks.append({"block": block.number, "type": "text", "text": block.shown_text})
        return PartialAnswer(call.request, text, blocks)

    def discard_unfinished(self, reason: str) -> list[MessageDiscarded]:
        """Give up every call that streamed something and did not become a message."""
        given_up = [call for call in self._calls if call.blocks and not call.settled]
        for call in given_up:
            call.settled = True
        return [MessageDiscarded(request=call.request, reason=reason) for call in given_up]


def _keep_request(request: int, conn: Connection, key: TurnKey) -> None:
    """The number of a call that came to nothing: whoever goes on with the turn gives it to no other one."""
    keep_request(conn, key.turn_id, request)
