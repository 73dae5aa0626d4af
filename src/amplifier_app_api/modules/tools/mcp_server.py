"""One server of one session: its connection, kept up by a task of its own.

A connection that is lost is made again: at once after the first time, later after longer and longer pauses, and after
some failures only when somebody asks for it. Whoever asks meanwhile is told why it is away. The SDK's client has to
be left by the task that entered it, so that task is the only one that connects; calls come from any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

import anyio
import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from pydantic import TypeAdapter, ValidationError

from amplifier_app_api.modules.tools.mcp_content import check_sendable
from amplifier_app_api.modules.tools.mcp_meter import Meter
from amplifier_app_api.modules.tools.mcp_options import ServerOptions
from amplifier_app_api.modules.tools.mcp_streams import Streams
from amplifier_app_api.modules.tools.refusals import Refused

logger = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_UNASKED = 5
"""After so many failures in a row a connection is only made again for somebody who asks."""
STEADY = 60.0
"""Seconds that a connection must have held for its loss to count as the first."""
LONGEST_PAUSE = 60.0
CHANGES_PAUSE = 1.0
MAX_PAGES = 20
LETTING_GO = 1.0
CANCELS = 4
_MAX_REASON = 500
_CALLED: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)
_FAILURES = (
    MCPError,
    ValidationError,
    RuntimeError,
    ValueError,
    OSError,
    httpx2.HTTPError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
)
"""What the SDK raises when a server does not do its part."""

OpenStreams = Callable[[Meter], AbstractAsyncContextManager[Streams]]


class McpServer:
    """`on_tools` is given the server's tools whenever they may have changed, `on_loss` why it is away."""

    def __init__(
        self,
        options: ServerOptions,
        open_streams: OpenStreams,
        *,
        largest: int,
        max_tools: int,
        on_tools: Callable[[McpServer, list[types.Tool]], Awaitable[None]],
        on_loss: Callable[[McpServer, str], Awaitable[None]],
    ) -> None:
        self.options = options
        self.name = options.name
        self.reason = ""
        self._open_streams = open_streams
        self._largest = largest
        self._max_tools = max_tools
        self._on_tools = on_tools
        self._on_loss = on_loss
        self._client: Client | None = None
        self._meter = Meter(largest)
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()  # not while an attempt is made
        self._again_at = 0.0
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep(), name=f"mcp server {self.name}")

    async def settled(self) -> None:
        """Wait for the end of the attempt that is being made, whichever way it ends."""
        await self._settled.wait()

    def leave(self) -> None:
        """Begin to leave the server."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def close(self) -> None:
        """Leave the server. What does not let go is cancelled again, and then left alone."""
        for _ in range(CANCELS):
            self.leave()
            if self._keeping is None or (await asyncio.wait({self._keeping}, timeout=LETTING_GO))[0]:
                return
        logger.warning("an MCP server does not let go", extra={"server": self.name})

    def state(self) -> str:
        if self._client is not None and not self._meter.ended.is_set():
            return "connected"
        reason = self._meter.reason or self.reason
        return f"away: {reason}" if reason else "being connected"

    async def call_tool(self, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
        check_sendable(arguments)

        async def call(client: Client) -> types.CallToolResult | types.InputRequiredResult:
            # Not the SDK's `call_tool`: that checks answers against the server's own schema, whose patterns may be
            # made to take for ever.
            params = types.CallToolRequestParams(name=tool, arguments=arguments)
            return await client.session.send_request(types.CallToolRequest(params=params), _CALLED)

        result = await self.ask(call)
        if isinstance(result, types.InputRequiredResult):
            raise Refused(f"The MCP server {self.name} wants to ask a person something, which is not possible here")
        return result

    async def ask(self, asking: Callable[[Client], Awaitable[T]]) -> T:
        """What the server answers; `Refused` when it does not, or not in time."""
        client = await self._connected()
        meter = self._meter
        try:
            async with asyncio.timeout(self.options.timeout):
                return await asking(client)
        except TimeoutError:
            raise Refused(
                f"The MCP server {self.name} did not answer within {self.options.timeout:g} seconds"
            ) from None
        except _FAILURES as error:
            if isinstance(error, MCPError) and not _is_lost(error):
                raise Refused(f"The MCP server {self.name} refused: {_told(error)}") from None
            if isinstance(error, ValidationError):
                raise Refused(f"The MCP server {self.name} answered something that MCP does not know") from None
            meter.end(_told(error))
            raise Refused(f"The MCP server {self.name} was lost during the call: {meter.reason}") from None

    async def _connected(self) -> Client:
        if self._client is None and self._settled.is_set():
            left = self._again_at - asyncio.get_running_loop().time()
            if left > 0:
                raise Refused(f"The MCP server {self.name} is away: {self.reason}. It can be tried in {left:.0f} s")
            self._settled.clear()
            self._wanted.set()
        await self._settled.wait()
        if self._client is None:
            raise Refused(f"The MCP server {self.name} is away: {self.reason}")
        return self._client

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            self._settled.clear()
            self._wanted.clear()
            self._meter = Meter(self._largest)
            try:
                await self._be_connected()
                reason = self._meter.reason
            except Exception as error:  # whatever a stranger's server brought about, the session goes on
                logger.info("an MCP server was lost", extra={"server": self.name}, exc_info=True)
                reason = self._meter.reason or _reason_of(error)
                if isinstance(error, Refused):
                    failures = FAILURES_UNASKED  # the next attempt would be refused as well
            failures = 1 if self._client is not None and loop.time() - began > STEADY else failures + 1
            self._client = None
            self.reason = reason[:_MAX_REASON]
            pause = min(LONGEST_PAUSE, 2.0 ** (failures - 1)) * random.uniform(0.8, 1.2)
            self._again_at = loop.time() + pause
            await self._on_loss(self, self.reason)
            self._settled.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if failures <= FAILURES_UNASKED else None):
                    await self._wanted.wait()

    async def _be_connected(self) -> None:
        """Connect, and stay until the connection is lost."""
        meter = self._meter
        changed = asyncio.Event()

        async def heard(message: IncomingMessage) -> None:
            if isinstance(message, types.ToolListChangedNotification):
                changed.set()

        client = Client(
            self._open_streams(meter),
            client_info=types.Implementation(name="amplifier-app-api", version="1"),
            message_handler=heard,
            cache=None,
        )
        limit = asyncio.timeout(self.options.connect_timeout)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with limit:
                    await stack.enter_async_context(client)
                    tools = await self._listed(client)
            except TimeoutError:
                if limit.expired():
                    meter.end(f"it could not be connected within {self.options.connect_timeout:g} seconds")
                raise
            await self._on_tools(self, tools)
            self._client = client
            self.reason = ""
            self._settled.set()
            async with _listening(client, changed):
                await self._follow(client, meter, changed)

    async def _follow(self, client: Client, meter: Meter, changed: asyncio.Event) -> None:
        """Until the connection is over; tools that change meanwhile are listed again."""
        ended = asyncio.create_task(meter.ended.wait(), name=f"mcp server {self.name} ends")
        news: asyncio.Task[Any] | None = None
        try:
            while not meter.ended.is_set():
                news = news or asyncio.create_task(changed.wait(), name=f"mcp server {self.name} changes")
                await asyncio.wait({ended, news}, return_when=asyncio.FIRST_COMPLETED)
                if news.done():
                    news = None
                    await asyncio.wait({ended}, timeout=CHANGES_PAUSE)  # changes come in crowds
                    changed.clear()
                    async with asyncio.timeout(self.options.timeout):
                        tools = await self._listed(client)
                    await self._on_tools(self, tools)
        finally:
            ended.cancel()
            if news is not None:
                news.cancel()

    async def _listed(self, client: Client) -> list[types.Tool]:
        if client.server_capabilities.tools is None:
            return []
        tools: list[types.Tool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            wanted = self.options.allowed_tools
            tools += [tool for tool in page.tools if not wanted or tool.name in wanted]
            cursor = page.next_cursor
            if not cursor or len(tools) >= self._max_tools:
                break
        return tools[: self._max_tools]


@asynccontextmanager
async def _listening(client: Client, changed: asyncio.Event) -> AsyncGenerator[None]:
    """Hear of changes of the tools where that has to be asked for."""

    async def listen() -> None:
        # A server that will not tell of changes is a server without them.
        with contextlib.suppress(ListenNotSupportedError, SubscriptionLost, *_FAILURES):
            async with client.listen(tools_list_changed=True) as subscription:
                async for _ in subscription:
                    changed.set()

    tools = client.server_capabilities.tools
    if tools is None or not tools.list_changed:
        yield
        return
    task = asyncio.create_task(listen(), name="mcp server's changes")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _is_lost(error: MCPError) -> bool:
    return error.code == types.CONNECTION_CLOSED or error.message == "Session terminated"


def _told(error: Exception) -> str:
    text = error.message if isinstance(error, MCPError) else str(error)
    return " ".join(text.split())[:_MAX_REASON] or type(error).__name__


def _reason_of(error: BaseException) -> str:
    """The first failure in a group of them; what a library calls a validation error quotes the server at length."""
    if isinstance(error, BaseExceptionGroup):
        return _reason_of(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    if isinstance(error, ValidationError):
        return "it does not speak MCP"
    return _told(error) if isinstance(error, Exception) else type(error).__name__
