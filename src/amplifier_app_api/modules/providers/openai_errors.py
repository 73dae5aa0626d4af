"""The SDK's exceptions as the kernel's, without the key and without the connection's inner workings."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx2
import openai

from amplifier_app_api.modules.kernel import LLMError, LLMTimeoutError, NetworkError, StreamError
from amplifier_app_api.modules.providers.failures import failure, retry_after_of, without_key

GARBLED = (json.JSONDecodeError, UnicodeDecodeError)
RAISED = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError, *GARBLED)
"""What a call can raise."""


def kernel_error(error: Exception, *, provider: str, model: str | None, key: str, began: bool) -> LLMError:
    """`began`: output had already arrived, so that a broken connection is a broken stream."""
    if isinstance(error, openai.APIStatusError):
        message = without_key(_message(error) or f"The API answered {error.status_code}", key)
        return failure(
            error.status_code,
            message,
            error_type=error.type,
            error_code=error.code,
            retry_after=retry_after_of(error.response.headers),
            provider=provider,
            model=model,
        )
    if isinstance(error, (openai.APITimeoutError, httpx2.TimeoutException)):
        return LLMTimeoutError("The API did not answer in time", provider=provider, model=model)
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)) and not began:
        return NetworkError("The API cannot be reached", provider=provider, model=model)
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError, *GARBLED)):
        return StreamError("The connection broke while the answer was coming", provider=provider, model=model)
    if isinstance(error, openai.APIError):  # in the middle of a stream, where there is no status
        message = without_key(error.message, key)
        return failure(None, message, error_type=error.type, error_code=error.code, provider=provider, model=model)
    return LLMError(f"The SDK failed: {type(error).__name__}", provider=provider, model=model)


def refuses_thoughts(error: LLMError) -> bool:
    """Whether the API could not open what it sealed: after a change of key or address it may be another's."""
    text = str(error).lower()
    return "encrypted" in text or "reasoning" in text


def _message(error: openai.APIStatusError) -> str:
    """The API's own sentence; the SDK's repeats the whole body."""
    body = error.body
    said = cast("dict[str, Any]", body).get("message") if isinstance(body, dict) else body
    return said if isinstance(said, str) else ""
