"""The SDK's exceptions as the kernel's, without the key and without the connection's inner workings."""

from __future__ import annotations

import json

import anthropic
import httpx2

from amplifier_app_api.modules.kernel import LLMError, LLMTimeoutError, NetworkError, StreamError
from amplifier_app_api.modules.providers.failures import failure

PROVIDER = "anthropic"

GARBLED = (json.JSONDecodeError, UnicodeDecodeError)
RAISED = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, *GARBLED)
"""What a call can raise."""


def kernel_error(error: Exception, *, model: str, key: str, began: bool) -> LLMError:
    """`began`: output had already arrived, so that a broken connection is a broken stream."""
    if isinstance(error, anthropic.APIStatusError):
        message = (error.api_message or f"The API answered {error.status_code}").replace(key, "[api_key]")
        status = error.status_code if error.status_code >= 400 else None
        after = _seconds(error.response.headers.get("retry-after"))
        return failure(status, message, error_type=error.type, retry_after=after, provider=PROVIDER, model=model)
    if isinstance(error, (anthropic.APITimeoutError, httpx2.TimeoutException)):
        return LLMTimeoutError("The API did not answer in time", provider=PROVIDER, model=model)
    if isinstance(error, (anthropic.APIConnectionError, httpx2.HTTPError)) and not began:
        return NetworkError("The API cannot be reached", provider=PROVIDER, model=model)
    if isinstance(error, (httpx2.HTTPError, httpx2.StreamError, *GARBLED)):
        return StreamError("The connection broke while the answer was coming", provider=PROVIDER, model=model)
    return LLMError(f"The SDK failed: {type(error).__name__}", provider=PROVIDER, model=model)


def _seconds(header: str | None) -> float | None:
    try:
        seconds = float(header) if header is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None
