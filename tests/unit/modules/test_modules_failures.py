"""A vendor's error as the kernel's class, and how long the vendor asks to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from amplifier_core.llm_errors import (
    AccessDeniedError,
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    NotFoundError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    StreamError,
)

from amplifier_app_api.modules.providers.failures import MESSAGE_CHARS, failure, retry_after_of, without_key


@pytest.mark.parametrize(
    ("status", "facts", "expected", "told"),
    [
        (400, {}, InvalidRequestError, 400),
        (400, {"message": "prompt is too long: 9 tokens"}, ContextLengthError, 400),
        (400, {"message": "Blocked by the content filter"}, ContentFilterError, 400),
        (400, {"error_code": "context_length_exceeded"}, ContextLengthError, 400),
        (400, {"error_code": "content_filter"}, ContentFilterError, 400),
        (401, {}, AuthenticationError, 401),
        (402, {}, QuotaExceededError, 402),
        (403, {}, AccessDeniedError, 403),
        (404, {"error_code": "model_not_found"}, NotFoundError, 404),
        (408, {}, LLMTimeoutError, 408),
        (409, {}, ProviderUnavailableError, 409),
        (413, {}, ContextLengthError, 413),
        (429, {"error_type": "requests", "error_code": "rate_limit_exceeded"}, RateLimitError, 429),
        (429, {"error_type": "insufficient_quota", "error_code": "insufficient_quota"}, QuotaExceededError, 429),
        (429, {"error_type": "billing_error"}, QuotaExceededError, 429),
        (500, {}, ProviderUnavailableError, 500),
        (504, {}, LLMTimeoutError, 504),
        (529, {"error_type": "overloaded_error"}, ProviderUnavailableError, 529),
        # In the middle of a stream, where the status is the 200 that was sent or none.
        (200, {"error_type": "overloaded_error"}, ProviderUnavailableError, 529),
        (None, {"error_code": "rate_limit_exceeded"}, RateLimitError, 429),
        (None, {"error_type": "server_error", "error_code": None}, ProviderUnavailableError, 500),
        (None, {"error_type": "UNAVAILABLE"}, ProviderUnavailableError, 503),
        (None, {"error_type": "of_tomorrow"}, StreamError, None),
    ],
)
def test_an_error_has_the_kernels_class(
    status: int | None, facts: dict[str, Any], expected: type[LLMError], told: int | None
) -> None:
    facts = {"message": "no", **facts}
    error = failure(status, facts.pop("message"), provider="p", model="m", retry_after=3.0, **facts)

    assert type(error) is expected
    assert (error.status_code, error.provider, error.model, error.retry_after) == (told, "p", "m", 3.0)


def test_a_quota_that_is_used_up_is_not_worth_another_attempt() -> None:
    assert not failure(429, "no", error_code="insufficient_quota", provider="p", model=None).retryable
    assert failure(429, "no", provider="p", model=None).retryable


def test_a_page_of_text_is_cut() -> None:
    assert len(str(failure(502, "x" * 100_000, provider="p", model=None))) == MESSAGE_CHARS + 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_the_wait_is_read_off_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_of(headers) == seconds


def test_the_wait_may_be_a_date() -> None:
    due = datetime.now(UTC) + timedelta(hours=1)

    seconds = retry_after_of({"retry-after": format_datetime(due, usegmt=True)})

    assert seconds is not None
    assert 3_500 < seconds <= 3_600


def test_a_key_is_taken_out_of_a_text() -> None:
    assert without_key("bad key sk-1 (sk-1)", "sk-1") == "bad key [api_key] ([api_key])"
    assert without_key("a text", "") == "a text"
