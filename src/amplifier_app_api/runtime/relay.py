"""From what modules report to what clients see.

Modules tell tokens as `llm:stream_block_*` events with ids of their own, or as `content_block:delta` with text, or
not at all. Here every model call gets a number within its turn, every block a number within its call, every piece
its offset; a call that was abandoned is told, and a block that was not streamed becomes one piece.
"""

import contextvars
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from sqlalchemy import Connection

from amplifier_app_api.models.event import MessageCompleted, MessageDiscarded
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.blocks import DELTA_TYPES, ModelCall, StreamedBlock, blocks_of, numbered
from amplifier_app_api.runtime.recorder import Recorder, TurnKey, Unit
from amplifier_app_api.storage.turns import keep_request

_current_call: contextvars.ContextVar[ModelCall | None] = contextvars.ContextVar("model_call", default=None)


class Relay:
    """The stream of one turn."""

    def __init__(self, recorder: Recorder, *, asked: int = 0) -> None:
        self._recorder = recorder
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
        call = ModelCall(request=self.requests + 1)
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
        self._discard(call, reason or "the stream was aborted")

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
        self._recorder.delta(kind, call.request, block.number, block.length, piece)
        block.parts.append(piece)
        block.length += len(text)

    def complete(self, message_id: str, message: Mapping[str, Any]) -> MessageCompleted:
        """The event of an assistant's message that is whole; blocks nobody streamed are handed on first."""
        call = self._call_for_message()
        blocks = numbered(blocks_of(message), call)
        streamed = {block.number for block in call.blocks.values()}
        call.settled = True
        for block in blocks:
            kind = DELTA_TYPES.get(block["type"])
            if kind is not None and block["block"] not in streamed:
                call.block(("whole", block["block"]), block["type"])
                self._recorder.delta(kind, call.request, block["block"], 0, block["text"])
        return MessageCompleted(message_id=message_id, request=call.request, blocks=blocks)

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

    def unfinished(self) -> ModelCall | None:
        """The last call that streamed something and did not become a message."""
        return next((call for call in reversed(self._calls) if call.blocks and not call.settled), None)

    def discard_unfinished(self, reason: str) -> list[MessageDiscarded]:
        """Give up every call that streamed something and did not become a message."""
        given_up = [call for call in self._calls if call.blocks and not call.settled]
        for call in given_up:
            call.settled = True
        return [MessageDiscarded(request=call.request, reason=reason) for call in given_up]


def _keep_request(request: int, conn: Connection, key: TurnKey) -> None:
    """The number of a call that came to nothing: whoever goes on with the turn gives it to no other one."""
    keep_request(conn, key.turn_id, request)
