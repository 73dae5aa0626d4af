"""Trying again: one way for every provider.

Only errors that the kernel calls retryable are worth another attempt. Each attempt has a stream of its own;
what a failed one had already shown is taken back (`llm:stream_aborted`) before the next begins. An answer of a
shape that nobody foresaw is a broken one: whoever fails over it failed to read what the server sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.kernel import ChatResponse, LLMError, StreamError
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.settled import settled
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport

logger = logging.getLogger(__name__)

UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises where a field is missing, null or of another kind than it was promised to be."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays in seconds."""

    max_retries: int = 5
    min_delay: float = 1
    max_delay: float = 60
    jitter: bool = True

    @classmethod
    def read(cls, options: Options) -> RetryPolicy:
        return cls(
            max_retries=options.integer("max_retries", 5, minimum=0),
            min_delay=options.number("min_retry_delay", 1, minimum=0),
            max_delay=options.number("max_retry_delay", 60, minimum=0),
            jitter=options.flag("retry_jitter", True),
        )

    def delay(self, error: LLMError, attempt: int) -> float | None:
        """Seconds until the next attempt after `attempt` failed ones; None when there is none.

        No wait is longer than `max_delay`. An API that wants more patience gets no further attempt: whoever
        asked learns of `retry_after` now and can decide better than we can while holding the turn. One that asks
        for none, or for a moment that has passed, gets the usual wait: its clock may go wrong.
        """
        if not error.retryable or attempt > self.max_retries:
            return None
        if error.retry_after:
            return self._asked(error.retry_after)
        backoff = min(self.max_delay, self.min_delay * 2.0 ** (attempt - 1))
        return backoff * random.uniform(0.75, 1.0) if self.jitter else backoff

    def _asked(self, seconds: float) -> float | None:
        """Never sooner than asked for, and not all at the same moment."""
        if seconds > self.max_delay:
            return None
        return min(self.max_delay, seconds * random.uniform(1.0, 1.1)) if self.jitter else seconds


async def retrying(
    attempt: Callable[[AttemptStream], Awaitable[ChatResponse]],
    *,
    policy: RetryPolicy,
    report: CallReport,
    hooks: Any,
    silent: bool = False,
) -> ChatResponse:
    """The response of the first attempt that succeeds; the last one's error when none does.

    `attempt(stream)` raises `LLMError` or one of `UNREADABLE` for what the API does. `silent`: show no deltas.
    """
    failed = 0
    while True:
        stream = AttemptStream(hooks, silent=silent)
        try:
            return await _read(attempt, stream, report)
        except LLMError as error:
            await stream.abort(error)
            failed += 1
            delay = policy.delay(error, failed)
            if delay is None:
                raise
            await report.retrying(error, attempt=failed, max_retries=policy.max_retries, delay=delay)
        await asyncio.sleep(delay)


async def _read(
    attempt: Callable[[AttemptStream], Awaitable[ChatResponse]], stream: AttemptStream, report: CallReport
) -> ChatResponse:
    try:
        return settled(await attempt(stream))
    except UNREADABLE as error:
        raise unreadable(error, provider=report.who["provider"], model=report.who["model"]) from error


def unreadable(error: Exception, *, provider: str, model: str | None) -> StreamError:
    """What to raise for one of `UNREADABLE`."""
    logger.warning("an answer cannot be read", extra={"provider": provider, "error": type(error).__name__})
    return StreamError("The answer cannot be read", provider=provider, model=model)
