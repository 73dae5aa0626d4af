"""The SDK's exceptions as the kernel's, without the key and without the connection's inner workings."""

from __future__ import annotations

import json

import anthropic
import httpx2

from amplifier_app_api.modules.kernel import (
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    NetworkError,
    StreamError,
)
from amplifier_app_api.modules.providers.anthropic_options import PROVIDER
from amplifier_app_api.modules.providers.failures import failure, retry_after_of, without_key

GARBLED = (json.JSONDecodeError, UnicodeDecodeError)
RAISED = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, *GARBLED)
"""What a call can raise."""

_OF_THOUGHTS = ("thinking", "signature")


def kernel_error(error: Exception, *, model: str, key: str, began: bool) -> LLMError:
    """`began`: output had already arrived, so that a broken connection is a broken stream."""
    if isinstance(error, anthropic.APIStatusError):
        message = without_key(error.api_message or f"The API answered {error.status_code}", key)
        status = error.status_code if error.status_code >= 400 else None
        after = retry_after_of(error.response.headers)
        return failure(status, message, error_type=error.type, retry_after=after, provider=PROVIDER, model=model)
    if isinstance(error, (anthropic.APITimeoutError, httpx2.TimeoutException)):
        return LLMTimeoutError("The API did not answer in time", provider=PROVIDER, model=model)
    if isinstance(error, (anthropic.APIConnectionError, httpx2.HTTPError)) and not began:
        return NetworkError("The API cannot be reached", provider=PROVIDER, model=model)
    if isinstance(error, (httpx2.HTTPError, httpx2.StreamError, *GARBLED)):
        return StreamError("The connection broke while the answer was coming", provider=PROVIDER, model=model)
    return LLMError(f"The SDK failed: {type(error).__name__}", provider=PROVIDER, model=model)


def refuses_thoughts(error: InvalidRequestError) -> bool:
    """Whether the API objects to thoughts it is shown again: another model's, or of a history since shortened."""
    return error.status_code == 400 and any(sign in str(error).lower() for sign in _OF_THOUGHTS)
