"""What comes back from Ollama's chat: its parts as our events, and the reply they add up to."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    ChatResponse,
    StreamError,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.call_arguments import arguments_of
from amplifier_app_api.modules.providers.ollama_options import NAME
from amplifier_app_api.modules.providers.wire import AttemptStream


@dataclass(slots=True)
class _Block:
    index: int
    type: str
    pieces: list[str] = field(default_factory=list[str])
    call: ToolCallBlock | None = None


class OllamaReply:
    """One attempt's reply. Fed by parts as they arrive; a whole answer is one part."""

    def __init__(self, model: str, stream: AttemptStream) -> None:
        self._model = model
        self._stream = stream
        self._blocks: list[_Block] = []
        self._saying: _Block | None = None  # the text or the thoughts that are being written
        self._end: dict[str, Any] | None = None

    async def feed(self, part: dict[str, Any]) -> None:
        message = cast("dict[str, Any]", part.get("message") or {})
        if thought := message.get("thinking"):
            await self._say("thinking", str(thought))
        if text := message.get("content"):
            await self._say("text", str(text))
        for call in cast("list[dict[str, Any]]", message.get("tool_calls") or []):
            await self._call(call)
        if part.get("done"):
            self._end = part
            await self._stop_saying()

    async def _say(self, kind: str, text: str) -> None:
        block = self._saying
        if block is None or block.type != kind:
            block = self._saying = await self._begin(kind)
        block.pieces.append(text)
        await self._stream.delta(block.index, text)

    async def _call(self, call: dict[str, Any]) -> None:
        """Calls come whole, from most servers without an id: theirs is made here and stored with the call."""
        function = cast("dict[str, Any]", call.get("function") or {})
        name, arguments = str(function.get("name") or ""), function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        block = await self._begin("tool_use", name)
        block.call = ToolCallBlock(
            id=str(call.get("id") or f"call_{uuid.uuid4().hex}"),
            name=name,
            input=arguments_of(text, cut_off=False, provider=NAME, model=self._model) or {},
        )
        await self._stream.end(block.index)

    async def _begin(self, kind: str, name: str | None = None) -> _Block:
        await self._stop_saying()
        block = _Block(len(self._blocks), kind)
        self._blocks.append(block)
        await self._stream.start(block.index, kind, name)
        return block

    async def _stop_saying(self) -> None:
        if self._saying is not None:
            await self._stream.end(self._saying.index)
            self._saying = None

    def response(self) -> ChatResponse:
        """The whole reply; `StreamError` when it never came to its end."""
        if self._end is None:
            raise StreamError("The answer ended before it was complete", provider=NAME, model=self._model)
        content = [_content(block) for block in self._blocks]
        calls = [ToolCall(id=b.id, name=b.name, arguments=b.input) for b in content if isinstance(b, ToolCallBlock)]
        reason = str(self._end.get("done_reason") or "stop")
        given, made = int(self._end.get("prompt_eval_count") or 0), int(self._end.get("eval_count") or 0)
        return ChatResponse(
            content=content,
            tool_calls=calls or None,
            usage=Usage(input_tokens=given, output_tokens=made, total_tokens=given + made),
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
        )


def _content(block: _Block) -> Any:
    text = "".join(block.pieces)
    if block.call is not None:
        return block.call
    if block.type == "thinking":
        return ThinkingBlock.model_validate({"thinking": text, "made_by": NAME})
    return TextBlock(text=text)
