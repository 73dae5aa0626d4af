"""What comes back from the Messages API: its events as ours, and the reply they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import (
    ChatResponse,
    RedactedThinkingBlock,
    StreamError,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.anthropic_models import cost_of
from amplifier_app_api.modules.providers.anthropic_options import PROVIDER
from amplifier_app_api.modules.providers.call_arguments import arguments_of
from amplifier_app_api.modules.providers.wire import AttemptStream

_STREAM_TYPES = {"text": "text", "thinking": "thinking", "redacted_thinking": "thinking", "tool_use": "tool_use"}
_CUT_OFF = {"max_tokens", "model_context_window_exceeded", "refusal"}  # the last block may be without its end
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details",
)


@dataclass(slots=True)
class _Block:
    index: int  # ours: the API may send kinds of blocks that we do not know and leave out
    type: str
    pieces: list[str] = field(default_factory=list[str])
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] | None = None


class Reply:
    """One attempt's reply. Fed by events as they arrive, or by a whole message."""

    def __init__(self, model: str, stream: AttemptStream) -> None:
        self._model = model
        self._stream = stream
        self._blocks: dict[int, _Block] = {}
        self._counts: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._finished = False

    async def feed(self, event: Any) -> None:
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "content_block_start":
                await self._open(event.index, event.content_block)
            case "content_block_delta":
                await self._extend(event.index, event.delta)
            case "content_block_stop":
                if (block := self._blocks.get(event.index)) is not None:
                    await self._stream.end(block.index)
            case "message_delta":
                self._stop_reason = event.delta.stop_reason or self._stop_reason
                self._count(event.usage)
            case "message_stop":
                self._finished = True
            case _:
                pass

    async def take(self, message: Any) -> None:
        """A message that did not come as a stream; shown block by block all the same."""
        self._count(message.usage)
        for index, content in enumerate(message.content):
            await self._open(index, content)
            if (block := self._blocks.get(index)) is None:
                continue
            block.input = getattr(content, "input", None)
            text = content.text if block.type == "text" else getattr(content, "thinking", "")
            block.signature = getattr(content, "signature", "")
            await self._say(block, text)
            await self._stream.end(block.index)
        self._stop_reason = message.stop_reason
        self._finished = True

    async def _open(self, index: int, content: Any) -> None:
        if content.type not in _STREAM_TYPES:
            return
        block = _Block(len(self._blocks), content.type)
        block.id, block.name = getattr(content, "id", ""), getattr(content, "name", "")
        block.data = getattr(content, "data", "")
        self._blocks[index] = block
        await self._stream.start(block.index, _STREAM_TYPES[content.type], block.name or None)

    async def _extend(self, index: int, delta: Any) -> None:
        if (block := self._blocks.get(index)) is None:
            return
        match delta.type:
            case "text_delta":
                await self._say(block, delta.text)
            case "thinking_delta":
                await self._say(block, delta.thinking)
            case "input_json_delta":
                block.pieces.append(delta.partial_json)
            case "signature_delta":
                block.signature += delta.signature
            case _:
                pass

    async def _say(self, block: _Block, text: str) -> None:
        if text:
            block.pieces.append(text)
            await self._stream.delta(block.index, text)

    def _count(self, usage: Any) -> None:
        """Later figures replace earlier ones: the API counts up."""
        for name in _COUNTS:
            value = getattr(usage, name, None)
            if value is not None:
                self._counts[name] = value

    def response(self) -> ChatResponse:
        """The whole reply; `StreamError` when it never came to its end."""
        if not self._finished:
            raise StreamError("The answer ended before it was complete", provider=PROVIDER, model=self._model)
        content = [made for block in self._blocks.values() if (made := self._content(block)) is not None]
        calls = [ToolCall(id=b.id, name=b.name, arguments=b.input) for b in content if isinstance(b, ToolCallBlock)]
        return ChatResponse(
            content=content, tool_calls=calls or None, usage=self._usage(), finish_reason=self._stop_reason
        )

    def _content(self, block: _Block) -> Any:
        text = "".join(block.pieces)
        match block.type:
            case "text":
                return TextBlock(text=text)
            case "thinking":
                return ThinkingBlock(thinking=text, signature=block.signature or None)
            case "redacted_thinking":
                return RedactedThinkingBlock(data=block.data)
            case _:
                arguments = block.input if block.input is not None else self._arguments(block, text)
                return None if arguments is None else ToolCallBlock(id=block.id, name=block.name, input=arguments)

    def _arguments(self, block: _Block, text: str) -> dict[str, Any] | None:
        cut_off = self._stop_reason in _CUT_OFF and block.index == len(self._blocks) - 1
        return arguments_of(text, cut_off=cut_off, provider=PROVIDER, model=self._model)

    def _usage(self) -> Usage:
        """`input_tokens` includes what was read from and written to the cache; the API counts these apart."""
        counts = self._counts
        read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
        given = counts.get("input_tokens", 0) + read + written
        made = counts.get("output_tokens", 0)
        usage = Usage(
            input_tokens=given,
            output_tokens=made,
            total_tokens=given + made,
            reasoning_tokens=getattr(counts.get("output_tokens_details"), "thinking_tokens", None),
            cache_read_tokens=read or None,
            cache_write_tokens=written or None,
        )
        usage.cost_usd = cost_of(self._model, usage)
        return usage
