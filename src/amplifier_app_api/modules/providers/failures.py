"""A model API's error as the kernel's error class.

The status decides; in the middle of a stream there is none but the 200 already sent, and the error's type
stands in for it.
"""

from __future__ import annotations

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

_STATUS_OF_TYPE = {
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
}
_TOO_LONG = ("prompt is too long", "context window", "context length", "maximum context", "too many tokens")
_FILTERED = ("content filter", "content_filter", "content filtering", "safety filter")
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
    """The HTTP status an error type is normally sent with."""
    return _STATUS_OF_TYPE.get(error_type or "")


def failure(
    status: int | None,
    message: str,
    *,
    error_type: str | None = None,
    retry_after: float | None = None,
    provider: str,
    model: str | None,
) -> LLMError:
    """The kernel's error for an answer with `status`, or for one of `error_type` where there is no status.

    An error of a kind that nobody knows, in the middle of a stream, is a broken stream.
    """
    if status is None or status < 400:
        status = status_of(error_type)
    made = StreamError if status is None else _class_of(status, error_type, message.lower())
    error = made(message, provider=provider, model=model, status_code=status)
    error.retry_after = retry_after
    return error


def _class_of(status: int, error_type: str | None, text: str) -> type[LLMError]:
    if status in (400, 422) and any(sign in text for sign in _TOO_LONG):
        return ContextLengthError
    if status in (400, 422) and any(sign in text for sign in _FILTERED):
        return ContentFilterError
    if status == 429 and error_type == "billing_error":
        return QuotaExceededError
    known = _CLASSES.get(status)
    if known is not None:
        return known
    return ProviderUnavailableError if status >= 500 or status == 409 else InvalidRequestError
