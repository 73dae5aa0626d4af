"""What tests of the runtime break on purpose: the database at one write, and modules written on the spot."""

import asyncio
import textwrap
import uuid
from pathlib import Path
from typing import Any

from amplifier_app_api.storage import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable


class Faults:
    """Stands between the runtime and a database: refuses writes by name, or holds one until it is let go."""

    def __init__(self, db: Database, patch: Any) -> None:
        self.refused: set[str] = set()
        self.answers_lost: list[str] = []
        self.refusals = asyncio.Event()
        self.held: str | None = None
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self._write = db.write
        patch.setattr(db, "write", self.write)

    async def write(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if fn.__name__ in self.refused:
            self.refusals.set()
            raise DatabaseUnavailable("The database cannot be used now.")
        if fn.__name__ == self.held:
            self.reached.set()
            await self.go_on.wait()
        result = await self._write(fn, *args, **kwargs)
        if fn.__name__ in self.answers_lost:
            self.answers_lost.remove(fn.__name__)
            raise DatabaseUnavailable("The database cannot be used now.")
        return result


def written_module(folder: Path, kind: str, code: str, *, layout: str = "package", **config: Any) -> dict[str, Any]:
    """An entry for a module of this code, written below `folder` under an id that no other test uses."""
    module = f"{kind}-t{uuid.uuid4().hex[:10]}"
    name = f"amplifier_module_{module.replace('-', '_')}"
    home = folder / module
    match layout:
        case "folder":
            home = package = folder / name
        case "single":
            package = home / f"amplifier_module_other_{uuid.uuid4().hex[:10]}"
        case _:
            package = home / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(code), encoding="utf-8")
    entry: dict[str, Any] = {"module": module, "source": str(home)}
    return {**entry, "config": config} if config else entry


PROVIDER = """
from amplifier_core import ChatResponse, ModelInfo, ProviderInfo
from amplifier_core.message_models import TextBlock, Usage

__amplifier_module_type__ = "provider"


class Provider:
    name = "written"

    def __init__(self, coordinator):
        self.coordinator = coordinator

    def get_info(self):
        return ProviderInfo(id="w", display_name="W", defaults={{"context_window": 100000, "max_output_tokens": 1000}})

    async def list_models(self):
        return [ModelInfo(id="w", display_name="W", context_window=100000, max_output_tokens=1000)]

    async def complete(self, request, **kwargs):
        {body}

    def parse_tool_calls(self, response):
        return response.tool_calls or []


def answer(text):
    usage = Usage(input_tokens=3, output_tokens=2, total_tokens=5)
    return ChatResponse(content=[TextBlock(text=text)], usage=usage, finish_reason="end_turn")


async def mount(coordinator, config=None):
    {before}
    await coordinator.mount("providers", Provider(coordinator), name="written")
    {after}
"""


def provider(folder: Path, body: str, *, before: str = "pass", after: str = "pass", **kwargs: Any) -> dict[str, Any]:
    """A provider whose `complete` is this body."""
    return written_module(folder, "provider", PROVIDER.format(body=body, before=before, after=after), **kwargs)


TOOL = """
from amplifier_core import ToolResult

__amplifier_module_type__ = "tool"


class Tool:
    name = "written"
    description = "Written for a test."
    input_schema = {{"type": "object"}}

    async def execute(self, input):
        {body}


async def mount(coordinator, config=None):
    await coordinator.mount("tools", Tool(), name="written")
    {after}
"""


def tool(folder: Path, body: str, *, after: str = "pass", **kwargs: Any) -> dict[str, Any]:
    """A tool whose `execute` is this body."""
    return written_module(folder, "tool", TOOL.format(body=body, after=after), **kwargs)
