"""The two ways to a server, as the SDK's client takes them: a stream of messages in and one out.

Both bound what comes in, by message and altogether (`mcp_meter.py`); what goes to the web goes to checked addresses
only (`addresses.py`), without the proxies of the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpcore2
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from amplifier_app_api.modules.tools.addresses import AddressBook
from amplifier_app_api.modules.tools.mcp_meter import Meter
from amplifier_app_api.modules.tools.mcp_options import Endpoint, Program
from amplifier_app_api.modules.tools.mcp_process import ProgramSandbox, RunningProgram
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_client import CheckedNetwork

Message = SessionMessage | Exception
Streams = tuple[Any, Any]
"""Messages from the server, messages to it: the SDK names no type that all its transports have."""

_QUEUED = 256
"""Messages that wait for a program to read them; one that lets more wait is given up."""
_CONNECTING = 10.0
_READING = 300.0
_GONE = "it ended"
_EVENT_STREAM = "text/event-stream"


@asynccontextmanager
async def program_streams(
    sandbox: ProgramSandbox, program: Program, meter: Meter, largest: int
) -> AsyncGenerator[Streams]:
    running = await sandbox.start(program)
    incoming, received = anyio.create_memory_object_stream[Message](0)
    sent, outgoing = anyio.create_memory_object_stream[SessionMessage](_QUEUED)
    users = (
        asyncio.create_task(_read(running, incoming, meter, largest), name="mcp program's messages"),
        asyncio.create_task(_write(running, outgoing, meter), name="mcp program's input"),
    )
    try:
        yield received, QueueingStream(sent, meter)
    finally:
        known = ""
        with anyio.CancelScope(shield=True):
            known = await running.stop(*users)
        if meter.reason == _GONE and known:
            meter.reason = f"{_GONE} ({known})"
        for stream in (incoming, received, sent, outgoing):
            stream.close()


async def _read(running: RunningProgram, incoming: MemoryObjectSendStream[Message], meter: Meter, largest: int) -> None:
    with incoming:
        while True:
            try:
                line = await running.output.readline()
            except ValueError:
                meter.end(_too_large(largest))
                return
            if not line:
                meter.end(_GONE)
                return
            if not meter.take(messages=1, size=len(line)):
                return
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                if b'"jsonrpc"' in line:  # somebody waits for it
                    meter.end("it sent a message that cannot be read")
                    return
                continue  # programs print all kinds of things where only messages belong
            try:
                await incoming.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


async def _write(running: RunningProgram, outgoing: MemoryObjectReceiveStream[SessionMessage], meter: Meter) -> None:
    with outgoing:
        async for message in outgoing:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
            try:
                await running.write(line + b"\n")
            except OSError:
                meter.end(_GONE)
                return


@asynccontextmanager
async def endpoint_streams(
    endpoint: Endpoint, addresses: AddressBook, meter: Meter, largest: int
) -> AsyncGenerator[Streams]:
    async with (
        httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **endpoint.headers},
            timeout=httpx2.Timeout(_CONNECTING, read=_READING),
            transport=CheckedTransport(addresses, meter, largest),
            trust_env=False,
        ) as client,
        streamable_http_client(endpoint.address.url, http_client=client, max_sse_event_size=largest) as (
            received,
            sent,
        ),
    ):
        yield MeteredStream(received, meter), sent


class QueueingStream:
    """Messages to a program. Nobody waits for it to read them: giving up a call is a message too."""

    def __init__(self, inner: MemoryObjectSendStream[SessionMessage], meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    async def send(self, item: SessionMessage, /) -> None:
        await anyio.lowlevel.checkpoint()
        try:
            self._inner.send_nowait(item)
        except anyio.WouldBlock:
            self._meter.end("it does not read what it is sent")
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> QueueingStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class MeteredStream:
    """Messages from a server, for as long as they are not too many."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    @property
    def last_context(self) -> Any:
        return self._inner.last_context

    async def receive(self) -> Message:
        message: Message = await self._inner.receive()
        if not self._meter.take(messages=1):
            raise anyio.EndOfStream
        return message

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> MeteredStream:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            self._meter.end("it ended the connection")
            raise StopAsyncIteration from None

    async def __aenter__(self) -> MeteredStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class CheckedTransport(httpx2.AsyncBaseTransport):
    """HTTP to checked addresses, with a bound on each answer that is no stream of events."""

    def __init__(self, addresses: AddressBook, meter: Meter, largest: int) -> None:
        self._meter = meter
        self._largest = largest
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_tls(),
            network_backend=CheckedNetwork(addresses, cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_transport_errors():
            answer = await self._pool.handle_async_request(asked)
        response = httpx2.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=(body := _BoundedBody(answer.stream, self._meter)),
            extensions=dict[str, Any](answer.extensions),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - the library leaves it half typed
        )
        if not response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM):
            body.most = self._largest
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await body.aclose()
            raise httpx2.DecodingError("it encodes its answers in a way that was not asked for")
        return response

    async def aclose(self) -> None:
        await self._pool.aclose()


class _BoundedBody(httpx2.AsyncByteStream):
    most: int | None = None

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        with _as_transport_errors():
            async for chunk in self._inner:
                size += len(chunk)
                if self.most is not None and size > self.most:
                    self._meter.end(_too_large(self.most))
                if not self._meter.take(size=len(chunk)):
                    raise httpx2.ReadError(self._meter.reason)
                yield chunk

    async def aclose(self) -> None:
        with _as_transport_errors():
            await self._inner.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


def _too_large(most: int) -> str:
    return f"it sent more than {most:,} bytes in one message"


@contextlib.contextmanager
def _as_transport_errors() -> Generator[None]:
    """The errors of connections as those that the SDK knows."""
    try:
        yield
    except Refused as refusal:
        raise httpx2.ConnectError(str(refusal)) from None
    except httpcore2.TimeoutException:
        raise httpx2.ReadTimeout("it did not answer in time") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        raise httpx2.NetworkError(str(error) or type(error).__name__) from None
