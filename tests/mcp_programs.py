"""MCP servers for tests: a real one written with the SDK, and ones that do not keep to anything.

Run as a program, this file is the server named by its first argument.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve())


def program(kind: str, *arguments: str, **options: Any) -> dict[str, Any]:
    """The options of a server that is this file."""
    command = {"command": sys.executable, "args": ["-B", HERE, kind, *arguments]}
    return {**command, "env": {"PYTHONDONTWRITEBYTECODE": "1"}, **options}


def readable() -> list[str]:
    """What a sandbox has to show for this file to run: Python, the packages, and the file."""
    return list(dict.fromkeys([sys.base_prefix, sys.prefix, str(Path(HERE).parent)]))


def demo() -> Any:
    """A server with a bit of everything."""
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.types import ToolAnnotations

    server = MCPServer("demo")
    count = 0

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def look(what: str) -> str:
        return f"saw {what}"

    @server.tool()
    def environment() -> str:
        return json.dumps(dict(os.environ))

    @server.tool()
    def fail() -> str:
        raise ValueError("it went wrong")

    @server.tool()
    def say(letters: int) -> str:
        return "x" * letters

    @server.tool()
    def counted() -> int:
        nonlocal count
        count += 1
        return count

    @server.tool()
    def leave() -> str:
        os._exit(7)

    @server.tool()
    def write(path: str) -> str:
        Path(path).write_text("written")
        return "done"

    @server.tool()
    def sleep(mark: str) -> str:
        """Start a program that sleeps, and sleep."""
        subprocess.run([sys.executable, "-c", f"import time; time.sleep(1000) # {mark}"], check=False)
        return "slept"

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Have one more tool from now on."""

        def grown() -> str:
            return "new"

        server.add_tool(grown)
        await ctx.notify_tools_changed()
        return "grown"

    @server.resource("demo://greeting")
    def greeting() -> str:
        """How to greet."""
        return "hello"

    @server.prompt()
    def ask(name: str) -> str:
        """Ask somebody."""
        return f"Ask {name}"

    return server


def talk(tools: list[dict[str, Any]], call: Any) -> None:
    """Speak just enough MCP, by hand."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        method = message["method"]
        if method == "initialize":
            result: Any = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "by hand", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": tools}
        elif method == "tools/call":
            result = call(message)
        else:
            tell({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "unknown"}})
            continue
        tell({"jsonrpc": "2.0", "id": message["id"], "result": result})


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": name, "inputSchema": {"type": "object"}, **fields}


def text(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}]}


def main(kind: str, *arguments: str) -> None:
    match kind:
        case "demo":
            demo().run("stdio")
        case "hangs":
            time.sleep(1_000)
        case "deaf":  # to signals, and to its input ending
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(1_000)
        case "dies":
            sys.exit("the database is not there")
        case "chatters":
            while True:
                print("starting up, one moment please", flush=True)
        case "floods":

            def flood(message: Any) -> Any:
                while True:
                    tell({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})

            talk([tool("flood")], flood)
        case "huge":
            talk([tool("huge")], lambda message: text("x" * 100_000_000))
        case "endless":

            def endless(message: Any) -> Any:
                while True:
                    sys.stdout.write("x" * 65_536)

            talk([tool("endless")], endless)
        case "dies-in-call":
            talk([tool("die")], lambda message: sys.exit("out of memory"))
        case "stuck":
            talk([tool("stick")], lambda message: time.sleep(1_000))
        case "lies":
            deep: Any = {}
            for _ in range(30):
                deep = {"properties": {"a": deep}}
            trap = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
            talk(
                [
                    tool("deep", inputSchema={"type": "object", **deep}),
                    tool("large", inputSchema={"type": "object", "description": "x" * 200_000}),
                    tool("trap", outputSchema=trap),
                    tool("trap"),
                    tool("näme/with everything" * 10),
                    tool("same.name"),
                    tool("same/name"),
                    tool("told", description="y" * 50_000),
                ],
                lambda message: {**text("fine"), "structuredContent": {"a": "a" * 60 + "!"}},
            )
        case "unreadable":

            def unreadable(message: Any) -> Any:
                tell({"jsonrpc": "2.0", "id": message["id"], "result": json.loads("[" * 900 + "]" * 900)})

            talk([tool("unreadable")], unreadable)
        case "nonsense":
            talk([tool("nonsense")], lambda message: {"content": "not a list"})
        case "wrong-list":
            talk([tool("list", inputSchema={"type": "array"})], lambda message: text(""))
        case "many":
            talk([tool(f"tool-{number}") for number in range(500)], lambda message: text(""))
        case _:
            sys.exit(f"no server {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
