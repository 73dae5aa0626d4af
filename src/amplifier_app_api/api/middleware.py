"""What happens around every request, as plain ASGI, from the outside in.

`RequestLog`: the request's id, bound for every log line below; one access line; the edge where a bug becomes a 500.
`LocalOnly`: which names and which web pages may speak to a server that asks nobody who they are.
`JsonBodies`: reads the body whole, within its limit, and refuses what is not JSON by its type.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amplifier_app_api.api.errors import (
    Forbidden,
    Internal,
    TooLarge,
    UnsupportedMediaType,
    problem_response,
)
from amplifier_app_api.errors import AppError
from amplifier_app_api.observability.logs import log_context
from amplifier_app_api.settings import is_loopback

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
DRAIN_BYTES = 16 * 2**20
DRAIN_SECONDS = 5.0
REPLAYED = "replayed"
"""Set in the state of a request whose answer is that of an earlier one."""
TAKES_LINES = ("/sessions/import",)
"""Paths whose bodies are JSON lines."""

logger = logging.getLogger(__name__)


class RequestLog:
    """Names the request, logs it once, and answers 500 for a bug without telling its text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        with log_context(request_id=request_id):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        status: int | None = None
        began = time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if scope["state"].get(REPLAYED):
                    headers["Idempotency-Replayed"] = "true"
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception:
            # The HTTP edge: what no handler knew is a bug.
            logger.exception("a request failed")
            if status is not None:
                raise  # half an answer is out: the server cuts the connection, so that nobody takes it for a whole one
            await problem_response(Internal("Something went wrong here"), scope)(scope, receive, send_named)
        finally:
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round((time.perf_counter() - began) * 1000, 1),
            }
            code = scope["state"].get("code")
            logger.info("request", extra=fields if code is None else {**fields, "code": code})


class LocalOnly:
    """Keeps other web pages from driving this server through its user's browser.

    On a loopback address only loopback names are served, so that a page cannot make its own name point here
    (DNS rebinding). On any address a request that may change something must not come from another site. The
    operator's `origins` may do both, and `*` allows every page.
    """

    def __init__(self, app: ASGIApp, *, on_loopback: bool, origins: Collection[str]) -> None:
        self.app = app
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self._names = frozenset(urlsplit(origin).hostname for origin in origins)
        self._on_loopback = on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await problem_response(refusal, scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Forbidden | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        # A request without the header comes from no browser.
        if self._on_loopback and host and not self._serves(host):
            return Forbidden("This server answers to localhost only (AMPLIFIER_ALLOWED_ORIGINS names others)")
        origin = headers.get("origin", "").lower()
        if not origin or scope["method"] in SAFE_METHODS or self._any or origin in self._origins:
            return None
        if host and origin.partition("://")[2] == host:
            return None
        return Forbidden("Requests from other web pages are refused (AMPLIFIER_ALLOWED_ORIGINS names exceptions)")

    def _serves(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (is_loopback(name) or name in self._names)


class ClientLeft(Exception):
    """The client hung up while it was sending."""


class JsonBodies:
    """Hands on bodies that are whole, JSON by their type, and no larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(Headers(scope=scope), receive, lines=scope["path"] in TAKES_LINES)
        except ClientLeft:
            return
        except AppError as refusal:
            await problem_response(refusal, scope)(scope, receive, send)
            return
        handed_on = False

        async def receive_again() -> Message:
            nonlocal handed_on
            if handed_on:
                return await receive()  # the next thing that happens is the client's leaving
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)

    async def _read(self, headers: Headers, receive: Receive, *, lines: bool) -> bytes:
        """The whole body. Raises TooLarge, UnsupportedMediaType, ClientLeft."""
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            await self._refuse_size(receive, 0)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            part, more = await _next_part(receive)
            size += len(part)
            if size > self._limit:
                await self._refuse_size(receive, size)
            parts.append(part)
        if size and not _is_json(headers.get("content-type"), lines=lines):
            raise UnsupportedMediaType("Bodies are JSON: send Content-Type: application/json")
        return b"".join(parts)

    async def _refuse_size(self, receive: Receive, seen: int) -> None:
        """Read on for a moment, so that a client that sends first and reads then sees the answer; then refuse."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                more = True
                while more and seen <= self._limit + DRAIN_BYTES:
                    part, more = await _next_part(receive)
                    seen += len(part)
        except TimeoutError:
            pass
        raise TooLarge(
            f"Bodies may have up to {self._limit} bytes", facts={"limit": self._limit}, headers={"Connection": "close"}
        )


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return message.get("body", b""), message.get("more_body", False)


def _is_json(content_type: str | None, *, lines: bool) -> bool:
    """Whether a body of this type is JSON, or lines of it. One without a type is taken at its word."""
    if not content_type:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    if lines and kind in ("application/x-ndjson", "application/jsonl", "application/octet-stream"):
        return True
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
