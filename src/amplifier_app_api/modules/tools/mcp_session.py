"""The servers of one session, and what the model has of them: a tool for each of theirs, and one for the rest."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, cast

import mcp_types as types
from mcp import Client

from amplifier_app_api.modules.kernel import ToolResult
from amplifier_app_api.modules.tools.addresses import AddressBook
from amplifier_app_api.modules.tools.folders import READ_OPTION, WRITE_OPTION, SessionFolders
from amplifier_app_api.modules.tools.mcp_content import (
    MAX_DESCRIPTION,
    bounded,
    check_sendable,
    result_text,
    safe_schema,
    told,
    tool_name,
)
from amplifier_app_api.modules.tools.mcp_meter import Meter
from amplifier_app_api.modules.tools.mcp_options import MODULE_ID, McpOptions, Program, ServerOptions
from amplifier_app_api.modules.tools.mcp_process import ProgramSandbox
from amplifier_app_api.modules.tools.mcp_server import McpServer
from amplifier_app_api.modules.tools.mcp_streams import Streams, endpoint_streams, program_streams
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool
from amplifier_app_api.modules.tools.web import PRIVATE_CAPABILITY

MAX_LISTED = 200


class McpSession:
    """Connects to all servers at once; one that is away keeps nobody from the others."""

    def __init__(self, coordinator: Any, options: McpOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._folders = SessionFolders(
            coordinator, MODULE_ID, read={READ_OPTION: options.read_paths}, write={WRITE_OPTION: options.write_paths}
        )
        self._programs = ProgramSandbox(coordinator, self._folders, options)
        self._addresses = AddressBook(private_addresses=coordinator.get_capability(PRIVATE_CAPABILITY) is True)
        self._mounted: dict[str, dict[str, str]] = {}  # by server: the name here of each of its tools
        self._complained: set[str] = set()
        self.servers = {server.name: self._server(server) for server in options.servers}

    async def open(self) -> None:
        """Begin to connect, and wait a little: tools that come later are there from the next turn on."""
        self._folders.check_limits()
        await self._coordinator.mount("tools", Mcp(self.servers, self._options.max_content_size), name=Mcp.name)
        for server in self.servers.values():
            server.start()
        waiting = [asyncio.create_task(server.settled()) for server in self.servers.values()]
        if waiting:
            try:
                await asyncio.wait(waiting, timeout=self._options.startup_timeout)
            finally:
                for wait in waiting:
                    wait.cancel()

    async def close(self) -> None:
        for server in self.servers.values():
            server.leave()  # all of them, even if nobody waits for the rest
        await asyncio.gather(*(server.close() for server in self.servers.values()))
        await self._programs.close()

    def _server(self, options: ServerOptions) -> McpServer:
        largest = self._options.max_message_bytes

        def open_streams(meter: Meter) -> AbstractAsyncContextManager[Streams]:
            if isinstance(options.at, Program):
                return program_streams(self._programs, options.at, meter, largest)
            return endpoint_streams(options.at, self._addresses, meter, largest)

        return McpServer(
            options,
            open_streams,
            largest=largest,
            max_tools=self._options.max_tools,
            on_tools=self._mount,
            on_loss=self._complain,
        )

    async def _mount(self, server: McpServer, tools: Sequence[types.Tool]) -> None:
        """The server's tools as they are now, as many as the others leave room for; those it has no longer go."""
        before, now = self._mounted.get(server.name, {}), dict[str, str]()
        others = {name for other, names in self._mounted.items() if other != server.name for name in names.values()}
        known: dict[str, types.Tool] = {}
        for tool in tools:
            if tool.name not in known and len(known) < self._options.max_tools - len(others):
                known[tool.name] = tool
                now[tool.name] = tool_name(server.name, tool.name, others | set(now.values()))
        self._mounted[server.name] = now  # before anything is waited for: other servers choose names meanwhile
        for theirs, name in now.items():
            made = ServerTool(server, known[theirs], name, self._options.max_content_size)
            await self._coordinator.mount("tools", made, name=name)
        for name in set(before.values()) - set(now.values()):
            await self._coordinator.unmount("tools", name=name)

    async def _complain(self, server: McpServer, reason: str) -> None:
        """Tell people that a server is away, once; the model hears it from the tools."""
        display = self._coordinator.display_system
        if server.name in self._complained or display is None:
            return
        self._complained.add(server.name)
        shown = display.show_message(f"The MCP server {server.name} is away: {reason}", "warning", MODULE_ID)
        if inspect.isawaitable(shown):
            await shown


class ServerTool:
    """One tool of a server."""

    def __init__(self, server: McpServer, tool: types.Tool, name: str, most: int) -> None:
        self._server = server
        self._tool = tool.name
        self._most = most
        self.name = name
        self.description = bounded(tool.description or tool.title or tool.name, MAX_DESCRIPTION)
        self.input_schema = safe_schema(tool.input_schema)
        hints = tool.annotations if server.options.trust_annotations else None
        self.read_only = hints is not None and hints.read_only_hint is True
        self.idempotent = self.read_only or (hints is not None and hints.idempotent_hint is True)

    async def execute(self, input: dict[str, Any]) -> ToolResult:  # noqa: A002 - the kernel's name for it
        try:
            result = await self._server.call_tool(self._tool, input)
        except Refused as refusal:
            return ToolResult(success=False, error={"message": str(refusal), "type": type(refusal).__name__})
        text = result_text(result, self._most)
        if result.is_error:
            return ToolResult(success=False, output=text, error={"message": text or "The tool failed"})
        return ToolResult(output=text)


class Mcp(Tool):
    name = "mcp"
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["servers", "resources", "read", "prompts", "prompt"]},
            "server": {"type": "string", "description": "Which server; for all but servers"},
            "uri": {"type": "string", "description": "For read: the resource's"},
            "name": {"type": "string", "description": "For prompt: which one"},
            "arguments": {"type": "object", "description": "For prompt: its arguments, as texts"},
        },
        "required": ["action"],
    }
    read_only = True
    idempotent = True

    def __init__(self, servers: Mapping[str, McpServer], most: int) -> None:
        self._servers = servers
        self._most = most
        self.description = (
            "MCP servers: list them with their state (servers), list and read resources (resources, read), list and "
            f"fill in prompts (prompts, prompt). Servers: {', '.join(servers) or 'none'}. Their tools are called "
            "mcp_<server>_<tool>."
        )

    async def _run(self, given: Arguments) -> Any:
        action = given.choice("action", ("servers", "resources", "read", "prompts", "prompt"))
        if action == "servers":
            return [{"server": server.name, "state": server.state()} for server in self._servers.values()]
        server = self._servers.get(given.text("server"))
        if server is None:
            raise Refused(f"There is no such server. Servers: {', '.join(self._servers) or 'none'}")
        match action:
            case "resources":
                return await server.ask(_resources)
            case "prompts":
                return await server.ask(_prompts)
            case "read":
                uri = given.text("uri")
                check_sendable(uri)
                read = await server.ask(lambda client: client.read_resource(uri))
                return told(read.contents, self._most)
            case _:
                return await self._prompt(server, given)

    async def _prompt(self, server: McpServer, given: Arguments) -> str:
        name, values = given.text("name"), given.value("arguments")
        if values is not None and not isinstance(values, Mapping):
            raise Refused("arguments must be a mapping of names to texts")
        arguments = {str(key): str(value) for key, value in cast("Mapping[Any, Any]", values or {}).items()}
        check_sendable([name, arguments])
        prompt = await server.ask(lambda client: client.get_prompt(name, arguments))
        messages = (f"{message.role}: {told([message.content], self._most)}" for message in prompt.messages)
        return bounded("\n\n".join(messages), self._most)


async def _resources(client: Client) -> dict[str, Any]:
    if client.server_capabilities.resources is None:
        return {"resources": [], "templates": []}
    listed = await client.list_resources()
    templates = await client.list_resource_templates()
    return {
        "resources": [
            {"uri": str(item.uri), "name": item.name, "description": bounded(item.description or "", 300)}
            for item in listed.resources[:MAX_LISTED]
        ],
        "templates": [
            {"uri": item.uri_template, "name": item.name, "description": bounded(item.description or "", 300)}
            for item in templates.resource_templates[:MAX_LISTED]
        ],
    }


async def _prompts(client: Client) -> list[dict[str, Any]]:
    if client.server_capabilities.prompts is None:
        return []
    listed = await client.list_prompts()
    return [
        {
            "name": item.name,
            "description": bounded(item.description or "", 300),
            "arguments": [argument.name for argument in item.arguments or []][:MAX_LISTED],
        }
        for item in listed.prompts[:MAX_LISTED]
    ]
