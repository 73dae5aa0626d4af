"""What comes back from Chat Completions: its chunks as our events, and the reply they add up to.

Written for the many servers that speak it: calls without an id or with another's index, thoughts under two
names, arguments in one piece or many.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import (
    ChatResponse,
    ContentFilterError,
    StreamError,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.call_arguments import arguments_of
from amplifier_app_api.modules.providers.openai_chat_messages import chat_thought
from amplifier_app_api.modules.providers.openai_models import cost_of
from amplifier_app_api.modules.providers.openai_options import Endpoint
from amplifier_app_api.modules.providers.wire import AttemptStream

_CUT_OFF = {"length", "content_filter"}  # the last block may be without its end


@dataclass(slots=True)
class _Block:
    index: int
    type: str
    pieces: list[str] = field(default_factory=list[str])
    id: str = ""
    name: str = ""
    open: bool = True


class ChatReply:
    """One attempt's reply. Fed by chunks as they arrive, or by a whole completion."""

    def __init__(self, endpoint: Endpoint, model: str, stream: AttemptStream, *, known_as: str | None = None) -> None:
        self._endpoint = endpoint
        self._model = model
        self._known_as = known_as or model  # in the table of prices
        self._stream = stream
        self._blocks: list[_Block] = []
        self._saying: _Block | None = None  # the text or the thoughts that are being written
        self._calls: dict[int, _Block] = {}  # by the server's index
        self._reason: str | None = None
        self._refused = False
        self._counts: Any = None

    async def feed(self, chunk: Any) -> None:
        if chunk.usage is not None:
            self._counts = chunk.usage
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        delta = choice.delta
        if delta is not None:
            if thought := _thought(delta):
                await self._say("thinking", thought)
            if delta.content:
                await self._say("text", delta.content)
            elif delta.refusal:
                self._refused = True
                await self._say("text", delta.refusal)
            for position, call in enumerate(delta.tool_calls or ()):
                await self._call(call, position)
        if choice.finish_reason:  # some servers send an empty one until the end
            self._reason = choice.finish_reason
            await self._end_all()

    async def take(self, completion: Any) -> None:
        """A completion that did not come as a stream; shown block by block all the same."""
        self._counts = completion.usage
        if not completion.choices:
            return
        choice = completion.choices[0]
        message = choice.message
        if thought := _thought(message):
            await self._say("thinking", thought)
        if text := message.content or message.refusal:
            self._refused = not message.content
            await self._say("text", text)
        for position, call in enumerate(message.tool_calls or ()):
            block = await self._begin("tool_use", call.id or "", call.function.name)
            block.pieces.append(call.function.arguments or "")
            self._calls[position] = block
        self._reason = choice.finish_reason or "stop"
        await self._end_all()

    async def _say(self, kind: str, text: str) -> None:
        block = self._saying
        if block is None or block.type != kind:
            block = await self._begin(kind)
            self._saying = block
        block.pieces.append(text)
        await self._stream.delta(block.index, text)

    async def _call(self, call: Any, position: int) -> None:
        index = call.index if call.index is not None else position
        block = self._calls.get(index)
        function = call.function
        name = (function.name or "") if function is not None else ""
        if block is None or (call.id and block.id and call.id != block.id and name):
            block = self._calls[index] = await self._begin("tool_use", call.id or "", name)
        block.name = block.name or name  # which some servers send behind the id
        if function is not None and function.arguments:
            block.pieces.append(function.arguments)

    async def _begin(self, kind: str, call_id: str = "", name: str = "") -> _Block:
        if self._saying is not None:
            await self._end(self._saying)
            self._saying = None
        block = _Block(len(self._blocks), kind)
        if kind == "tool_use":
            block.id, block.name = call_id or f"call_{uuid.uuid4().hex}", name
        self._blocks.append(block)
        await self._stream.start(block.index, kind, name or None)
        return block

    async def _end(self, block: _Block) -> None:
        if block.open:
            block.open = False
            await self._stream.end(block.index)

    async def _end_all(self) -> None:
        self._saying = None
        for block in self._blocks:
            await self._end(block)

    def response(self) -> ChatResponse:
        """The whole reply; `StreamError` when it never came to its end."""
        if self._reason is None:
            who = self._endpoint.provider
            raise StreamError("The answer ended before it was complete", provider=who, model=self._model)
        content = [made for block in self._blocks if (made := self._content(block)) is not None]
        if self._reason == "content_filter" and not content:
            who = self._endpoint.provider
            raise ContentFilterError("The answer was filtered", provider=who, model=self._model)
        calls = [ToolCall(id=b.id, name=b.name, arguments=b.input) for b in content if isinstance(b, ToolCallBlock)]
        reason = "refusal" if self._refused and self._reason == "stop" else self._reason
        return ChatResponse(content=content, tool_calls=calls or None, usage=self._usage(), finish_reason=reason)

    def _content(self, block: _Block) -> Any:
        text = "".join(block.pieces)
        who = self._endpoint.provider
        match block.type:
            case "text":
                return TextBlock(text=text)
            case "thinking":
                return chat_thought(text, who)
            case _:
                cut_off = self._reason in _CUT_OFF and block is self._blocks[-1]
                arguments = arguments_of(text, cut_off=cut_off, provider=who, model=self._model)
                return None if arguments is None else ToolCallBlock(id=block.id, name=block.name, input=arguments)

    def _usage(self) -> Usage:
        """`input_tokens` includes what was read from the cache. Nothing but zeros from a server that does not count."""
        counts = self._counts
        if counts is None:
            return Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        into, out = counts.prompt_tokens_details, counts.completion_tokens_details
        usage = Usage(
            input_tokens=counts.prompt_tokens or 0,
            output_tokens=counts.completion_tokens or 0,
            total_tokens=counts.total_tokens or 0,
            reasoning_tokens=getattr(out, "reasoning_tokens", None),
            cache_read_tokens=getattr(into, "cached_tokens", None) or None,
            cache_write_tokens=getattr(into, "cache_write_tokens", None) or None,
        )
        if self._endpoint.vendor:
            usage.cost_usd = cost_of(self._known_as, usage)
        return usage


def _thought(message: Any) -> str:
    """What the model thought, under whichever name the server gives it; OpenAI's own sends none."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
