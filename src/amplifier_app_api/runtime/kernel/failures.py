"""What a failed turn is called: from the kernel's error classes to our codes."""

from dataclasses import dataclass

from amplifier_core import llm_errors

from amplifier_app_api.errors import AppError


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a turn failed: one of our error codes, its HTTP status, and a sentence."""

    code: str
    status: int
    detail: str
    retry_after: float | None = None


# In this order: a subclass stands before its base.
_CODES: tuple[tuple[type[Exception], str, int], ...] = (
    (llm_errors.RateLimitError, "provider_rate_limited", 429),
    (llm_errors.LLMTimeoutError, "provider_timeout", 504),
    (llm_errors.AuthenticationError, "provider_authentication", 502),
    (llm_errors.AccessDeniedError, "provider_authentication", 502),
    (llm_errors.ContextLengthError, "context_too_long", 422),
    (llm_errors.ContentFilterError, "content_filtered", 422),
    (llm_errors.NotFoundError, "provider_rejected", 422),
    (llm_errors.InvalidRequestError, "provider_rejected", 422),
    (llm_errors.ProviderUnavailableError, "provider_unavailable", 503),
    (llm_errors.NetworkError, "provider_unavailable", 503),
    (llm_errors.ConfigurationError, "config_not_runnable", 422),
    (llm_errors.StreamError, "provider_error", 502),
    (llm_errors.InvalidToolCallError, "provider_error", 502),
    (llm_errors.AbortError, "provider_error", 502),
    (llm_errors.LLMError, "provider_error", 502),
)
_TIMEOUT = ("turn_timeout", 504)


def status_of(code: str) -> int:
    """The HTTP status of a failure that is only known by its code, as a row has it."""
    statuses = {name: status for _, name, status in _CODES} | dict([_TIMEOUT])
    return statuses.get(code) or _status_of_refusal(code) or 502


def _status_of_refusal(code: str) -> int | None:
    kinds: list[type[AppError]] = [AppError]
    while kinds:
        kind = kinds.pop()
        if kind.code == code:
            return kind.status
        kinds += kind.__subclasses__()
    return None


def failure_of(error: Exception) -> Failure:
    """The failure that an exception of a provider, a loop or a module stands for."""
    if isinstance(error, AppError):
        return Failure(error.code, error.status, error.detail)
    for kind, code, status in _CODES:
        if isinstance(error, kind):
            return Failure(code, status, str(error), getattr(error, "retry_after", None))
    return Failure("module_failed", 502, str(error) or type(error).__name__)
