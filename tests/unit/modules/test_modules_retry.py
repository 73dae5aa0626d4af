"""When a call is tried again, and how long that waits."""

from typing import Any

import pytest
from amplifier_core.llm_errors import (
    InvalidRequestError,
    LLMError,
    ProviderUnavailableError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import ChatResponse, TextBlock
from amplifier_core.testing import EventRecorder

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.providers.retry import RetryPolicy, retrying
from amplifier_app_api.modules.providers.wire import AttemptStream, CallReport


def test_the_wait_grows_and_stays_below_its_cap() -> None:
    policy = RetryPolicy(max_retries=4, min_delay=1, max_delay=3)
    error = ProviderUnavailableError("down")

    waits = [policy.delay(error, attempt) for attempt in range(1, 6)]

    for wait, most in zip(waits[:4], [1, 2, 3, 3], strict=True):
        assert wait is not None
        assert most * 0.75 <= wait <= most
    assert waits[4] is None


def test_waits_differ_unless_told_otherwise() -> None:
    error = ProviderUnavailableError("down")

    assert len({RetryPolicy().delay(error, 3) for _ in range(20)}) > 1
    assert {RetryPolicy(jitter=False).delay(error, 3) for _ in range(20)} == {4.0}


@pytest.mark.parametrize(("asked", "wait"), [(0.5, 0.5), (7.0, 7.0), (60.0, 60.0), (61.0, None)])
def test_what_the_api_asks_for_is_kept_to_unless_it_is_too_much(asked: float, wait: float | None) -> None:
    error = RateLimitError("later")
    error.retry_after = asked

    assert RetryPolicy(max_delay=60, jitter=False).delay(error, 1) == wait


def test_sessions_that_were_told_the_same_moment_do_not_all_come_at_it() -> None:
    error = RateLimitError("later")
    error.retry_after = 7.0

    waits = [wait for _ in range(20) if (wait := RetryPolicy(max_delay=7.5).delay(error, 1)) is not None]

    assert len(set(waits)) > 1
    assert all(7.0 <= wait <= 7.5 for wait in waits)


def test_an_api_that_asks_for_no_wait_is_not_hammered() -> None:
    error = RateLimitError("later")
    error.retry_after = 0.0

    assert [RetryPolicy(jitter=False).delay(error, attempt) for attempt in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_what_will_fail_again_is_not_tried_again() -> None:
    assert RetryPolicy().delay(InvalidRequestError("no"), 1) is None


def test_the_options_set_the_policy() -> None:
    given = {"max_retries": "2", "min_retry_delay": 0.5, "max_retry_delay": 9, "retry_jitter": "no"}

    assert RetryPolicy.read(Options("m", given)) == RetryPolicy(2, 0.5, 9, False)
    assert RetryPolicy.read(Options("m", {})) == RetryPolicy()


class Script:
    """Attempts that say something and then fail, or succeed."""

    def __init__(self, *outcomes: LLMError | str) -> None:
        self._outcomes = list(outcomes)
        self.attempts = 0

    async def __call__(self, stream: AttemptStream) -> ChatResponse:
        self.attempts += 1
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, str):
            return ChatResponse(content=[TextBlock(text=outcome)])
        if outcome.status_code != 0:  # 0: fails before it said anything
            await stream.start(0, "text")
            await stream.delta(0, "half")
        raise outcome


async def tried(script: Script, hooks: EventRecorder, **facts: Any) -> ChatResponse:
    policy = RetryPolicy(max_retries=2, min_delay=0)
    return await retrying(script, policy=policy, report=CallReport(hooks, "p", "m"), hooks=hooks, **facts)


async def test_what_an_attempt_showed_is_taken_back_before_the_next_begins() -> None:
    hooks = EventRecorder()
    script = Script(ProviderUnavailableError("down", status_code=500), "well")

    response = await tried(script, hooks)

    assert response.content == [TextBlock(text="well")]
    assert [name for name, _ in hooks.events] == [
        "llm:stream_block_start",
        "llm:stream_block_delta",
        "llm:stream_aborted",
        "provider:retry",
    ]


async def test_an_attempt_that_showed_nothing_takes_nothing_back() -> None:
    hooks = EventRecorder()

    await tried(Script(ProviderUnavailableError("down", status_code=0), "well"), hooks)

    assert [name for name, _ in hooks.events] == ["provider:retry"]


@pytest.mark.parametrize("fault", [AttributeError("x"), KeyError(0), TypeError("x"), ValueError("x"), RecursionError()])
async def test_an_answer_that_cannot_be_read_is_a_broken_one(fault: Exception) -> None:
    hooks = EventRecorder()
    attempts = 0

    async def attempt(stream: AttemptStream) -> ChatResponse:
        nonlocal attempts
        attempts += 1
        await stream.start(0, "text")
        await stream.delta(0, "half")
        raise fault

    policy = RetryPolicy(max_retries=1, min_delay=0)
    with pytest.raises(StreamError, match="cannot be read") as raised:
        await retrying(attempt, policy=policy, report=CallReport(hooks, "p", "m"), hooks=hooks)

    assert (attempts, raised.value.provider, raised.value.model) == (2, "p", "m")
    assert [name for name, _ in hooks.events].count("llm:stream_aborted") == 2


async def test_the_last_error_ends_it() -> None:
    script = Script(*(ProviderUnavailableError(f"number {n}") for n in range(1, 5)))

    with pytest.raises(ProviderUnavailableError, match="number 3"):
        await tried(script, EventRecorder())
    assert script.attempts == 3


async def test_who_is_not_to_watch_sees_no_deltas_but_retries() -> None:
    hooks = EventRecorder()

    await tried(Script(ProviderUnavailableError("down", status_code=500), "well"), hooks, silent=True)

    assert [name for name, _ in hooks.events] == ["provider:retry"]
