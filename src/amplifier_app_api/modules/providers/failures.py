"""A model API's error as the kernel's error class.

What the API itself calls the error decides first: a code such as `insufficient_quota` says more than the 429
it comes with. Then the status; in the middle of a stream there is none but the 200 already sent, and the
status that the error's type is normally sent with stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from amplifier_app_api.modules.kernel import (
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

MESSAGE_CHARS = 2_000  # of a vendor's text; a gateway may answer with a whole page

_STATUS_OF_TYPE = {
    # Anthropic
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # OpenAI: types and codes
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "string_above_max_length": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "invalid_prompt": 400,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "tokens": 429,
    "requests": 429,
    "server_error": 500,
    "service_unavailable_error": 503,
    "vector_store_timeout": 504,
    # Google
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "API_KEY_INVALID": 401,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_CLASS_OF_CODE: dict[str, type[LLMError]] = {
    "billing_error": QuotaExceededError,
    "insufficient_quota": QuotaExceededError,
    "billing_hard_limit_reached": QuotaExceededError,
    "billing_not_active": QuotaExceededError,
    "context_length_exceeded": ContextLengthError,
    "request_too_large": ContextLengthError,
    "content_filter": ContentFilterError,
    "content_policy_violation": ContentFilterError,
    "invalid_prompt": ContentFilterError,
    "invalid_api_key": AuthenticationError,
    "API_KEY_INVALID": AuthenticationError,
    "model_not_found": NotFoundError,
}
_TOO_LONG = (
    "prompt is too long",
    "context window",
    "context length",
    "maximum context",
    "too many tokens",
    "input token count",
)
_FILTERED = ("content filter", "content_filter", "content filtering", "content management policy", "safety filter")
_CLASSES: dict[int, type[LLMError]] = {
    401: AuthenticationError,
    402: QuotaExceededError,
    403: AccessDeniedError,
    404: NotFoundError,
    408: LLMTimeoutError,
    413: ContextLengthError,
    429: RateLimitError,
    504: LLMTimeoutError,
}


def status_of(error_type: str | None) -> int | None:
    """The HTTP status an error type or code is normally sent with."""
    return _STATUS_OF_TYPE.get(error_type or "")


def failure(
    status: int | None,
    message: str,
    *,
    error_type: str | None = None,
    error_code: str | None = None,
    retry_after: float | None = None,
    provider: str,
    model: str | None,
) -> LLMError:
    """The kernel's error for an answer with `status`, or for one of `error_code` or `error_type` without a status.

    An error of a kind that nobody knows, in the middle of a stream, is a broken stream. `retry_after` in seconds.
    """
    if status is None or status < 400:
        status = status_of(error_code) or status_of(error_type)
    made = _CLASS_OF_CODE.get(error_code or "") or _CLASS_OF_CODE.get(error_type or "")
    if made is None:
        made = StreamError if status is None else _class_of(status, message.lower())
    error = made(_bounded(message), provider=provider, model=model, status_code=status)
    error.retry_after = retry_after
    return error


def _class_of(status: int, text: str) -> type[LLMError]:
    if status in (400, 422) and any(sign in text for sign in _TOO_LONG):
        return ContextLengthError
    if status in (400, 422) and any(sign in text for sign in _FILTERED):
        return ContentFilterError
    known = _CLASSES.get(status)
    if known is not None:
        return known
    return ProviderUnavailableError if status >= 500 or status == 409 else InvalidRequestError


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as `Retry-After` (seconds or a date) or `retry-after-ms` say; None when they say nothing."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _number(said)
    if seconds is not None or said is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def without_key(text: str, key: str | None) -> str:
    """A vendor's text without the key, which some of them repeat."""
    return text.replace(key, "[api_key]") if key else text


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def _bounded(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARS else f"{message[:MESSAGE_CHARS]}…"
