"""What a failed turn is called."""

import inspect

import pytest
from amplifier_core import llm_errors

from amplifier_app_api.errors import Conflict
from amplifier_app_api.runtime.kernel.failures import failure_of, status_of
from amplifier_app_api.runtime.refusals import SessionClosed
from amplifier_app_api.storage.engine import DatabaseUnavailable

EXPECTED = {
    "RateLimitError": ("provider_rate_limited", 429),
    "QuotaExceededError": ("provider_rate_limited", 429),
    "LLMTimeoutError": ("provider_timeout", 504),
    "AuthenticationError": ("provider_authentication", 502),
    "AccessDeniedError": ("provider_authentication", 502),
    "ContextLengthError": ("context_too_long", 422),
    "ContentFilterError": ("content_filtered", 422),
    "NotFoundError": ("provider_rejected", 422),
    "InvalidRequestError": ("provider_rejected", 422),
    "ProviderUnavailableError": ("provider_unavailable", 503),
    "NetworkError": ("provider_unavailable", 503),
    "ConfigurationError": ("config_not_runnable", 422),
    "StreamError": ("provider_error", 502),
    "InvalidToolCallError": ("provider_error", 502),
    "AbortError": ("provider_error", 502),
    "LLMError": ("provider_error", 502),
}


def test_every_error_of_the_kernel_has_a_code() -> None:
    classes = {
        name for name, kind in inspect.getmembers(llm_errors, inspect.isclass) if issubclass(kind, llm_errors.LLMError)
    }

    assert classes == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_error_of_the_kernel_is_called_by_its_code_and_status(name: str) -> None:
    failure = failure_of(getattr(llm_errors, name)("it broke"))

    assert (failure.code, failure.status, failure.detail) == (*EXPECTED[name], "it broke")
    assert status_of(failure.code) == failure.status


def test_what_a_module_raises_is_the_modules_failure() -> None:
    failure = failure_of(ZeroDivisionError())

    assert (failure.code, failure.status, failure.detail) == ("module_failed", 502, "ZeroDivisionError")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("turn_timeout", 504),
        ("module_failed", 502),
        ("config_not_runnable", 422),
        (DatabaseUnavailable.code, 503),
        (SessionClosed.code, 409),
        ("nobody_knows_this", 502),
    ],
)
def test_a_code_that_a_row_has_is_answered_with_its_status(code: str, status: int) -> None:
    assert status_of(code) == status
    assert failure_of(Conflict("busy")).status == 409
