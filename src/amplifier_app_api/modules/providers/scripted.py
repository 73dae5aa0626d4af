"""`provider-scripted`: a model whose answers are written down, for tests, demos and a server without a key.

Directives in the latest user message decide (see `directives.py`); else reply *n* of the option `replies`
answers the *n*-th thing the user says, with all its tool rounds; else, with the option `tokens`, every
answer is that long; else the user's text comes back. Progress is read off the conversation, never kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    ChatRequest,
    ChatResponse,
    InvalidRequestError,
    LLMError,
    ModelInfo,
    ProviderInfo,
    ToolCall,
    Usage,
)
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.answers import (
    Answer,
    ReadTexts,
    answer_to,
    echoing,
    pieces,
    response_of,
    stream_blocks,
    with_text,
)
from amplifier_app_api.modules.providers.conversation import Standing, standing
from amplifier_app_api.modules.providers.directives import InvalidDirective, Script, ScriptedError, parse
from amplifier_app_api.modules.providers.failures import failure
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport, wants_stream

__amplifier_module_type__ = "provider"

MODULE_ID = "provider-scripted"
NAME = "scripted"
MODEL = "scripted"
CONTEXT_WINDOW = 200_000
MAX_OUTPUT_TOKENS = 8_192
YIELD_EVERY = 16  # deltas; an unpaced answer still lets others run


@dataclass(frozen=True, slots=True)
class ScriptedOptions:
    replies: list[str]
    tokens: int | None
    pace: float  # seconds between tokens
    priority: float
    max_retries: int

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> ScriptedOptions:
        options = Options(MODULE_ID, values)
        return cls(
            replies=options.texts("replies"),
            tokens=options.integer("tokens", 0, minimum=0) if options.has("tokens") else None,
            pace=options.number("delay_ms", 0, minimum=0) / 1000,
            priority=options.number("priority", 100),
            max_retries=options.integer("max_retries", 5, minimum=0),
        )


class ScriptedProvider:
    name = NAME

    def __init__(self, options: ScriptedOptions, hooks: Any = None) -> None:
        self._options = options
        self._hooks = hooks
        self.priority = options.priority
        self._texts = ReadTexts()

    def get_info(self) -> ProviderInfo:
        return ProviderInfo(
            id=NAME,
            display_name="Scripted answers",
            capabilities=["streaming", "tools", "thinking"],
            defaults={"model": MODEL, "context_window": CONTEXT_WINDOW, "max_output_tokens": MAX_OUTPUT_TOKENS},
        )

    async def list_models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                id=MODEL,
                display_name="Scripted answers",
                context_window=CONTEXT_WINDOW,
                max_output_tokens=MAX_OUTPUT_TOKENS,
                capabilities=["streaming", "tools", "thinking"],
            )
        ]

    def parse_tool_calls(self, response: ChatResponse) -> list[ToolCall]:
        return response.tool_calls or []

    async def complete(self, request: ChatRequest, **_: Any) -> ChatResponse:
        report = CallReport(self._hooks, NAME, MODEL)
        await report.requested(request)
        try:
            where = standing(request.messages, count=bool(self._options.replies))
            script = self._script(where)
            await asyncio.sleep(script.delay)
            await self._survive(script.error, report)
            answer = answer_to(script, where, request)
            await self._play(answer, script, silent=not wants_stream(request))
        except LLMError as error:
            await report.failed(error)
            raise
        response = response_of(answer, script, self._texts.characters(request.messages))
        await report.answered(cast("Usage", response.usage))
        return response

    def _script(self, where: Standing) -> Script:
        """What answers `where`: a plain text when no directive does."""
        try:
            script, text = parse(where.prompt)
            if script is not None:
                return echoing(script, text)
            if where.number and where.number <= len(self._options.replies):
                script, text = parse(self._options.replies[where.number - 1])
                return with_text(script or Script(), text)
        except InvalidDirective as error:
            raise InvalidRequestError(str(error), provider=NAME, model=MODEL, status_code=400) from error
        if self._options.tokens is not None:
            return Script(tokens=self._options.tokens)
        return Script(text=where.prompt)

    async def _survive(self, error: ScriptedError | None, report: CallReport) -> None:
        """Go through the failing attempts; raises when they outlast the retries."""
        attempt = 0
        while error is not None and (error.times is None or attempt < error.times):
            raised = failure(
                error.status,
                error.message,
                error_type=error.type,
                retry_after=error.retry_after,
                provider=NAME,
                model=MODEL,
            )
            attempt += 1
            if not raised.retryable or attempt > self._options.max_retries:
                raise raised
            delay = error.retry_after or 0.0
            await report.retrying(raised, attempt=attempt, max_retries=self._options.max_retries, delay=delay)
            await asyncio.sleep(delay)

    async def _play(self, answer: Answer, script: Script, *, silent: bool) -> None:
        """Report the answer, delta by delta, in its time."""
        stream = AttemptStream(self._hooks, silent=silent)
        clock = _Clock(self._options.pace if script.pace is None else script.pace)
        left = script.midstream_after
        for index, (kind, text, name) in enumerate(stream_blocks(answer)):
            await stream.start(index, kind, name)
            for piece in pieces(text, script.chunk):
                if left is not None:
                    if left <= 0:
                        await self._break_off(stream, script.midstream_type)
                    left -= 1
                await clock.tick()
                await stream.delta(index, piece)
            await stream.end(index)
        if left is not None:
            await self._break_off(stream, script.midstream_type)

    async def _break_off(self, stream: AttemptStream, error_type: str) -> None:
        error = failure(None, "scripted mid-stream error", error_type=error_type, provider=NAME, model=MODEL)
        await stream.abort(error)
        raise error


class _Clock:
    """One tick every `pace` seconds on average, however long the work between ticks takes."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._ticks = 0
        self._due = asyncio.get_running_loop().time()

    async def tick(self) -> None:
        self._ticks += 1
        if self._pace:
            self._due += self._pace
            await asyncio.sleep(max(0.0, self._due - asyncio.get_running_loop().time()))
        elif self._ticks % YIELD_EVERY == 0:
            await asyncio.sleep(0)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    provider = ScriptedProvider(ScriptedOptions.read(config), coordinator.hooks)
    await coordinator.mount("providers", provider, name=NAME)
