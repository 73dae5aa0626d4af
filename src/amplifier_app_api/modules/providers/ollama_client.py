"""Ollama's SDK, used so that nothing is lost on its way.

Its `chat` would squeeze a tool's parameters into a form without nested objects, take a picture's text for the
path of a file of ours and read that, and drop the ids of calls and the headers of an error. So the body is
written here and sent through the SDK's client, which knows the protocol.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
import ollama

from amplifier_app_api.modules.providers.clients import certificates
from amplifier_app_api.modules.providers.failures import retry_after_of

Part = dict[str, Any]


TIMEOUT, CONNECT_TIMEOUT = 300.0, 10.0  # seconds; of calls that say nothing else

_Client: Any = ollama.AsyncClient  # whose keyword arguments are without types


class Refused(Exception):
    """The server answered with an error. `retry_after` in seconds."""

    def __init__(self, status: int, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class OllamaClient(_Client):
    """Of the server's environment only OLLAMA_HOST counts: its key is not for any address a config may name."""

    def __init__(self, host: str | None, api_key: str | None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else None
        _Client.__init__(
            self,
            host,
            headers=headers,
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
            verify=certificates(),
            event_hooks={"response": [_refuse]},
        )
        if api_key is None:
            self._client.headers.pop("authorization", None)

    async def chat_parts(self, body: Part, limits: httpx.Timeout) -> AsyncGenerator[Part]:
        """The answer's parts as they arrive; closing the iterator closes the connection."""
        parts: Any = await self._request(dict, "POST", "/api/chat", json=body, timeout=limits, stream=True)
        return cast("AsyncGenerator[Part]", parts)

    async def chat_whole(self, body: Part, limits: httpx.Timeout) -> Part:
        whole: Any = await self._request(dict, "POST", "/api/chat", json=body, timeout=limits)
        return cast("Part", whole)


async def _refuse(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    await response.aread()
    try:
        said: Any = json.loads(response.text)
        message = said["error"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    text = message if isinstance(message, str) and message.strip() else f"The server answered {response.status_code}"
    raise Refused(response.status_code, text, retry_after_of(response.headers))
