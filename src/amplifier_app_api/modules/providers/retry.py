"""Trying again: one way for every provider.

Only errors that the kernel calls retryable are worth another attempt. Each attempt has a stream of its own;
what a failed one had already shown is taken back (`llm:stream_aborted`) before the next begins.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.modules.kernel import ChatResponse, LLMError
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport


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
        asked learns of `retry_after` now and can decide better than we can while holding the turn.
        """
        if not error.retryable or attempt > self.max_retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_delay else None
        backoff = min(self.max_delay, self.min_delay * 2.0 ** (attempt - 1))
        return backoff * random.uniform(0.75, 1.0) if self.jitter else backoff


async def retrying(
    attempt: Callable[[AttemptStream], Awaitable[ChatResponse]],
    *,
    policy: RetryPolicy,
    report: CallReport,
    hooks: Any,
    silent: bool = False,
) -> ChatResponse:
    """The response of the first attempt that succeeds; the last one's error when none does.

    `attempt(stream)` raises `LLMError` alone for what the API does. `silent`: show no deltas.
    """
    failed = 0
    while True:
        stream = AttemptStream(hooks, silent=silent)
        try:
            return await attempt(stream)
        except LLMError as error:
            await stream.abort(error)
            failed += 1
            delay = policy.delay(error, failed)
            if delay is None:
                raise
            await report.retrying(error, attempt=failed, max_retries=policy.max_retries, delay=delay)
        await asyncio.sleep(delay)
