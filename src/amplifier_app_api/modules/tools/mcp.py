"""`tool-mcp`: the tools, resources and prompts of MCP servers, through the official SDK.

A server is a program that is started for the session, in the sandbox of commands, or an address on the web. Each
session has connections of its own. The SDK is imported when the module is mounted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from amplifier_app_api.modules.providers.clients import load_implementation
from amplifier_app_api.modules.tools.mcp_options import MODULE_ID, McpOptions

__amplifier_module_type__ = "tool"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    options = McpOptions.read(config)
    await load_implementation(MODULE_ID, f"{__name__}_session")
    from amplifier_app_api.modules.tools.mcp_session import McpSession

    session = McpSession(coordinator, options)
    try:
        await session.open()
    except BaseException:
        await session.close()
        raise
    return session.close
