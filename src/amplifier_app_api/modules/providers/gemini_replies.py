"""What comes back from `generateContent`: its chunks as our events, and the reply they add up to.

A chunk holds parts; parts of one kind in a row are one block. A whole answer is a single chunk.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import (
    ChatResponse,
    ContentFilterError,
    InvalidRequestError,
    LLMError,
    StreamError,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.gemini_contents import SIGNATURE
from amplifier_app_api.modules.providers.gemini_models import cost_of
from amplifier_app_api.modules.providers.gemini_options import PROVIDER
from amplifier_app_api.modules.providers.wire import AttemptStream

_FINISHED = {"STOP": "end_turn", "MAX_TOKENS": "max_tokens"}
_FILTERED = {
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
}
_BROKEN = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "OTHER"}  # by chance: try again


@dataclass(slots=True)
class _Block:
    index: int
    type: str  # as the stream names it
    pieces: list[str] = field(default_factory=list[str])
    signature: bytes | None = None
    call: ToolCall | None = None


class Reply:
    """One attempt's reply, fed by chunks as they arrive."""

    def __init__(self, model: str, stream: AttemptStream) -> None:
        self._model = model
        self._stream = stream
        self._blocks: list[_Block] = []
        self._usage: Any = None
        self._finish: str | None = None
        self._blocked: str | None = None

    async def feed(self, chunk: Any) -> None:
        if chunk.usage_metadata is not None:
            self._usage = chunk.usage_metadata  # later figures replace earlier ones: the API counts up
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            self._blocked = _name(chunk.prompt_feedback.block_reason)
        if not chunk.candidates:
            return
        candidate: Any = chunk.candidates[0]
        parts: list[Any] = (candidate.content.parts if candidate.content else None) or []
        for part in parts:
            await self._take(part)
        if candidate.finish_reason is not None:
            self._finish = _name(candidate.finish_reason)

    async def _take(self, part: Any) -> None:
        if part.function_call is not None:
            await self._open_call(part)
        elif part.text:
            block = await self._open("thinking" if part.thought else "text")
            block.signature = part.thought_signature or block.signature
            block.pieces.append(part.text)
            await self._stream.delta(block.index, part.text)
        elif part.thought_signature:
            await self._sign(part.thought_signature)

    async def _open(self, kind: str) -> _Block:
        """The block that is open, when it is of this kind; else a new one."""
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.type == kind and last.call is None:
            return last
        await self._end()
        block = _Block(len(self._blocks), kind)
        self._blocks.append(block)
        await self._stream.start(block.index, kind)
        return block

    async def _open_call(self, part: Any) -> None:
        await self._end()
        asked = part.function_call
        call = ToolCall(
            id=asked.id or f"call_{uuid.uuid4().hex[:24]}", name=asked.name or "", arguments=asked.args or {}
        )
        block = _Block(len(self._blocks), "tool_use", signature=part.thought_signature, call=call)
        self._blocks.append(block)
        await self._stream.start(block.index, "tool_use", call.name)

    async def _end(self) -> None:
        if self._blocks:
            await self._stream.end(self._blocks[-1].index)

    async def _sign(self, signature: bytes) -> None:
        """A signature that came alone belongs to the text or call before it."""
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.type == "thinking" or last.signature is not None:
            last = await self._open("text")
        last.signature = signature

    async def response(self) -> ChatResponse:
        """The whole reply; an error when it was refused or never came to its end."""
        error = self._error()
        if error is not None:
            raise error
        await self._end()
        calls = [block.call for block in self._blocks if block.call is not None]
        finish = _FINISHED.get(self._finish or "", (self._finish or "").lower())
        return ChatResponse(
            content=[_content(block) for block in self._blocks],
            tool_calls=calls or None,
            usage=self._counted(),
            finish_reason="tool_use" if calls and finish == "end_turn" else finish,
        )

    def _error(self) -> LLMError | None:
        who: dict[str, Any] = {"provider": PROVIDER, "model": self._model}
        refused = self._blocked or (self._finish if self._finish in _FILTERED else None)
        if refused is not None:
            return ContentFilterError(f"The API refused to answer: {refused}", **who)
        if self._finish is None:
            return StreamError("The answer ended before it was complete", **who)
        if self._finish in _BROKEN:
            return StreamError(f"The model's answer is broken: {self._finish}", **who)
        if self._finish == "MISSING_THOUGHT_SIGNATURE":
            return InvalidRequestError("The model misses the signature of an earlier call", **who)
        return None

    def _counted(self) -> Usage:
        """`input_tokens` includes what was read from the cache, `output_tokens` what was thought, as billed."""
        counts = self._usage
        given = _count(counts, "prompt_token_count") + _count(counts, "tool_use_prompt_token_count")
        thought = _count(counts, "thoughts_token_count")
        made = _count(counts, "candidates_token_count") + thought
        usage = Usage(
            input_tokens=given,
            output_tokens=made,
            total_tokens=given + made,
            reasoning_tokens=thought or None,
            cache_read_tokens=_count(counts, "cached_content_token_count") or None,
        )
        usage.cost_usd = cost_of(self._model, usage) if counts is not None else None
        return usage


def _content(block: _Block) -> Any:
    text = "".join(block.pieces)
    if block.type == "thinking":
        return ThinkingBlock(thinking=text)
    signature: dict[str, Any] = (
        {} if block.signature is None else {SIGNATURE: base64.b64encode(block.signature).decode()}
    )
    if block.call is not None:
        return ToolCallBlock(id=block.call.id, name=block.call.name, input=block.call.arguments, **signature)
    return TextBlock(text=text, **signature)


def _name(value: Any) -> str:
    """Of an enumeration's member, also of one the SDK does not know yet."""
    return str(getattr(value, "value", value))


def _count(counts: Any, name: str) -> int:
    return getattr(counts, name, None) or 0
