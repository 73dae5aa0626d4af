"""A session's MCP servers under test, and servers on the web for them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from amplifier_core.models import ToolResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from mcp_programs import readable

LONGEST_WAIT = 30.0


class Display:
    """What people are shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str]] = []

    def show_message(self, message: str, level: str, source: str) -> None:
        self.shown.append((message, level, source))


class Desk:
    """The tools of one session."""

    def __init__(self, folder: Path, capabilities: Mapping[str, Any]) -> None:
        self.folder = folder
        self.display = Display()
        self.coordinator = MockCoordinator()
        self.coordinator.display_system = self.display
        self.coordinator.register_capability("session.working_dir", str(folder))
        for name, value in capabilities.items():
            self.coordinator.register_capability(name, value)

    def tools(self) -> list[str]:
        return sorted(self.coordinator.get("tools"))

    async def call(self, tool: str, **arguments: Any) -> ToolResult:
        async with asyncio.timeout(LONGEST_WAIT):
            return await self.coordinator.get("tools", tool).execute(arguments)

    async def say(self, tool: str, **arguments: Any) -> Any:
        result = await self.call(tool, **arguments)
        assert result.success, result.output
        return result.output

    async def refusal(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert not result.success
        return str(result.output)

    async def state(self, server: str = "s") -> str:
        return next(entry["state"] for entry in await self.say("mcp", action="servers") if entry["server"] == server)

    async def until(self, holds: Any) -> None:
        """Wait for what happens in a task of the module's own, which tells nobody."""
        async with asyncio.timeout(LONGEST_WAIT):
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def desk(
    folder: Path, servers: Mapping[str, Any], *, capabilities: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[Desk]:
    """A session with these servers. It waits for them when it is opened, unless `startup_timeout` says otherwise."""
    made = Desk(folder, capabilities or {})
    given = {"startup_timeout": LONGEST_WAIT, "allowed_read_paths": readable(), "servers": dict(servers), **options}
    close = await load_mount("tool-mcp")(made.coordinator, given)
    assert close is not None
    try:
        yield made
    finally:
        await close()


@asynccontextmanager
async def web_server(app: Any, port: int = 0) -> AsyncIterator[int]:
    """The port on loopback where an ASGI application answers."""
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, lifespan="auto", ws="none")
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        with contextlib.suppress(OSError):
            listening.close()


class ByHand:
    """An MCP server on the web that answers calls as a test says; `on_call` is an ASGI application."""

    def __init__(self, on_call: Any) -> None:
        self.on_call = on_call
        self.headers: list[dict[str, str]] = []
        self.left = asyncio.Event()  # a client that was being answered went away

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        message = orjson.loads(body) if body else {}
        match message.get("method"):
            case "initialize":
                info = {"name": "by hand", "version": "1"}
                result: Any = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
            case "tools/list":
                result = {"tools": [{"name": "go", "inputSchema": {"type": "object"}}]}
            case "tools/call":
                await self.on_call(self, message, receive, send)
                return
            case "notifications/initialized":
                await answer(send, 202, b"")
                return
            case _:
                await answer(send, 404, b"")
                return
        await answer(send, 200, orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))


async def answer(send: Any, status: int, body: bytes, **headers: str) -> None:
    named = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
