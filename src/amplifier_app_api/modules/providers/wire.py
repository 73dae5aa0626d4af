"""What every provider of ours tells the kernel while it works.

`CallReport` frames one `complete()`: `llm:request`, a `provider:retry` for each attempt that is given up,
`llm:response` in the end. `AttemptStream` reports one attempt's output as it comes; each attempt has a
`request_id` of its own, and a reader drops what it showed for one that is aborted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    LLM_REQUEST,
    LLM_RESPONSE,
    PROVIDER_RETRY,
    PROVIDER_TOOL_SEQUENCE_REPAIRED,
    STREAM_ABORTED,
    STREAM_BLOCK_DELTA,
    STREAM_BLOCK_END,
    STREAM_BLOCK_START,
    ChatRequest,
    ChatResponse,
    LLMError,
    Usage,
    whole_letters,
)


def wants_stream(request: ChatRequest) -> bool:
    """False for calls whose asker wants the answer as a whole, and nobody to watch it being made."""
    return (request.metadata or {}).get("stream") is not False


class AttemptStream:
    """The events of one attempt; silent when nobody is to watch. Block types: text, thinking, tool_use."""

    def __init__(self, hooks: Any, *, silent: bool = False) -> None:
        self._hooks = None if silent else hooks
        self._request_id = uuid.uuid4().hex
        self._open: dict[int, tuple[str, int]] = {}  # block index: type, deltas so far
        self.began = False

    async def start(self, index: int, block_type: str, name: str | None = None) -> None:
        self._open[index] = (block_type, 0)
        facts: dict[str, Any] = {"block_index": index, "block_type": block_type}
        if name is not None:
            facts["name"] = name
        await self._emit(STREAM_BLOCK_START, facts)

    async def delta(self, index: int, text: str) -> None:
        """`text` may end in half a letter, which is shown as a mark in its place."""
        block_type, sequence = self._open[index]
        self._open[index] = (block_type, sequence + 1)
        facts = {"block_index": index, "block_type": block_type, "sequence": sequence, "text": whole_letters(text)}
        await self._emit(STREAM_BLOCK_DELTA, facts)

    async def end(self, index: int) -> None:
        block_type, _ = self._open.pop(index)
        await self._emit(STREAM_BLOCK_END, {"block_index": index, "block_type": block_type})

    async def abort(self, error: Exception) -> None:
        """Take back what was reported; nothing when nothing was."""
        if self.began:
            await self._emit(STREAM_ABORTED, {"error": {"type": type(error).__name__, "msg": str(error)}})

    async def _emit(self, event: str, facts: dict[str, Any]) -> None:
        self.began = True
        if self._hooks is not None:
            await self._hooks.emit(event, {"request_id": self._request_id, **facts})


class CallReport:
    def __init__(self, hooks: Any, provider: str, model: str) -> None:
        self._hooks = hooks
        self.who = {"provider": provider, "model": model}
        self._started = time.monotonic()

    async def of(self, work: Callable[[], Awaitable[ChatResponse]], request: ChatRequest, **facts: Any) -> ChatResponse:
        """Do one call's work and tell how it began and ended. The facts go into `llm:request`."""
        await self.requested(request, **facts)
        try:
            response = await work()
        except LLMError as error:
            await self.failed(error)
            raise
        await self.answered(cast("Usage", response.usage))
        return response

    async def repaired(self, repairs: list[dict[str, str]]) -> None:
        """Tool calls without a result got one: `tool_call_id` and `tool_name` of each. Nothing when there are none."""
        if repairs and self._hooks is not None:
            facts = {"provider": self.who["provider"], "repair_count": len(repairs), "repairs": repairs}
            await self._hooks.emit(PROVIDER_TOOL_SEQUENCE_REPAIRED, facts)

    async def requested(self, request: ChatRequest, **facts: Any) -> None:
        await self._emit(LLM_REQUEST, {"message_count": len(request.messages), **facts})

    async def retrying(self, error: LLMError, *, attempt: int, max_retries: int, delay: float) -> None:
        facts: dict[str, Any] = {"attempt": attempt, "max_retries": max_retries, "delay": delay}
        if error.retry_after is not None:
            facts["retry_after"] = error.retry_after
        await self._emit(PROVIDER_RETRY, facts | {"error_type": type(error).__name__, "error_message": str(error)})

    async def answered(self, usage: Usage) -> None:
        await self._emit(LLM_RESPONSE, {"status": "ok", "usage": usage.model_dump(exclude_none=True), **self._took()})

    async def failed(self, error: LLMError) -> None:
        facts = {"status": "error", "error": {"type": type(error).__name__, "msg": str(error)}}
        await self._emit(LLM_RESPONSE, facts | self._took())

    def _took(self) -> dict[str, Any]:
        return {"duration_ms": round((time.monotonic() - self._started) * 1000)}

    async def _emit(self, event: str, facts: dict[str, Any]) -> None:
        if self._hooks is not None:
            await self._hooks.emit(event, self.who | facts)
