"""The SDK's exceptions as the kernel's, without the key and without the connection's inner workings."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import httpx2
from google.genai import errors

from amplifier_app_api.modules.kernel import InvalidRequestError, LLMError, LLMTimeoutError, NetworkError, StreamError
from amplifier_app_api.modules.providers.failures import failure, retry_after_of, without_key
from amplifier_app_api.modules.providers.gemini_options import PROVIDER

GARBLED = (json.JSONDecodeError, UnicodeDecodeError, errors.UnknownApiResponseError)
RAISED = (errors.APIError, httpx2.HTTPError, httpx2.StreamError, ValueError, *GARBLED)
"""What a call can raise; `ValueError` for what the SDK does not send."""

_SECONDS = re.compile(r"\A(\d+(?:\.\d+)?)s\Z")


def kernel_error(error: Exception, *, model: str, key: str, began: bool, answered: bool = False) -> LLMError:
    """`began`: output had already arrived, so that a broken connection is a broken stream.

    `answered`: the API had begun to answer, so that what the SDK will not take is the answer and not the request.
    """
    who: dict[str, Any] = {"provider": PROVIDER, "model": model}
    if isinstance(error, errors.APIError):
        return _of_api(error, model=model, key=key)
    if isinstance(error, httpx2.TimeoutException):
        return LLMTimeoutError("The API did not answer in time", **who)
    if isinstance(error, ValueError) and not isinstance(error, GARBLED) and not (began or answered):
        return InvalidRequestError(f"The SDK refuses the request: {without_key(str(error), key)}", **who)
    if isinstance(error, httpx2.HTTPError) and not began:
        return NetworkError("The API cannot be reached", **who)
    return StreamError("The connection broke while the answer was coming", **who)


def _of_api(error: Any, *, model: str, key: str) -> LLMError:
    status = error.code if isinstance(error.code, int) else None
    details = _details(error.details)
    after = _delay(details)
    if after is None:
        after = retry_after_of(getattr(error.response, "headers", None) or {})
    return failure(
        status,
        without_key(str(error.message or f"The API answered {status}"), key),
        error_type=error.status,
        error_code=_code(details),
        retry_after=after,
        provider=PROVIDER,
        model=model,
    )


def _details(body: Any) -> list[dict[str, Any]]:
    """The `details` of Google's error body, each a mapping of its own kind."""
    told = _mapping(_mapping(body).get("error") or body)
    return [_mapping(detail) for detail in _list(told.get("details"))]


def _code(details: list[dict[str, Any]]) -> str | None:
    """What says more than the status: a wrong key comes as a bad request, a day's quota as a rate limit."""
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
        return "API_KEY_INVALID"
    violations = [_mapping(violation) for detail in details for violation in _list(detail.get("violations"))]
    return "insufficient_quota" if any("PerDay" in str(v.get("quotaId")) for v in violations) else None


def _delay(details: list[dict[str, Any]]) -> float | None:
    for detail in details:
        matched = _SECONDS.match(str(detail.get("retryDelay") or ""))
        if matched is not None:
            return float(matched[1])
    return None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
