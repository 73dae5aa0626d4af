"""`tool-filesystem`: files below the session's folder.

The folder is the host's capability `session.working_dir`; `allowed_read_paths` and `allowed_write_paths` add further
ones (what may be written may be read), within what the host's capability `host.file_limits` lets any session use
(`{"readable": […], "writable": […]}`; a host without it sets no limits). Tools answer with failures, they do not
raise.
"""

from __future__ import annotations

import asyncio
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from amplifier_app_api.modules.kernel import ARTIFACT_READ, ARTIFACT_WRITE, ConfigurationError, ToolResult
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.sandbox import FileRefused, Sandbox
from amplifier_app_api.modules.tools.text_files import decode, excerpt, replace

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-filesystem"
MAX_LISTED = 1_000
MAX_VISITED = 50_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FilesOptions:
    """Sizes in bytes; `max_output_bytes` is what one read may show."""

    read_paths: list[str]
    write_paths: list[str]
    max_file_bytes: int
    max_output_bytes: int

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> FilesOptions:
        options = Options(MODULE_ID, values)
        return cls(
            read_paths=options.texts("allowed_read_paths"),
            write_paths=options.texts("allowed_write_paths"),
            max_file_bytes=options.integer("max_file_bytes", 10_000_000, minimum=1),
            max_output_bytes=options.integer("max_output_bytes", 256_000, minimum=1),
        )


class Files:
    """What the tools of one session share. Writes take turns, so that two edits of one file are both kept."""

    def __init__(self, coordinator: Any, options: FilesOptions) -> None:
        self._coordinator = coordinator
        self.options = options
        self.writing = asyncio.Lock()

    def readable(self) -> Sandbox:
        return self._sandbox([*self.options.write_paths, *self.options.read_paths])

    def writable(self) -> Sandbox:
        return self._sandbox(self.options.write_paths)

    def _sandbox(self, further: list[str]) -> Sandbox:
        folder = self._coordinator.get_capability("session.working_dir")
        if not folder:
            return Sandbox([])
        return Sandbox([folder, *(Path(folder) / path for path in further)])

    def check_limits(self) -> None:
        """Refuse further folders that lie outside what the host lets any session use."""
        limits: Mapping[str, list[str]] | None = self._coordinator.get_capability("host.file_limits")
        if limits is None or not (self.options.read_paths or self.options.write_paths):
            return
        for option, paths, allowed in (
            ("allowed_write_paths", self.options.write_paths, limits["writable"]),
            ("allowed_read_paths", self.options.read_paths, limits["readable"]),
        ):
            sandbox = Sandbox(allowed)
            for path in paths:
                folder = Path(self._coordinator.get_capability("session.working_dir") or "/") / path
                try:
                    sandbox.locate(str(folder))
                except FileRefused:
                    problem = f"{MODULE_ID}: option {option!r} names {path}, outside the folders this server allows"
                    raise ConfigurationError(problem, provider=MODULE_ID) from None

    async def announce(self, event: str, shown: str, size: int) -> None:
        await self._coordinator.hooks.emit(event, {"path": shown, "bytes": size})


class _FileTool(ABC):
    """`execute` turns refusals into failed results."""

    name: str
    description: str
    input_schema: ClassVar[dict[str, Any]]
    read_only: bool
    idempotent: bool

    def __init__(self, files: Files) -> None:
        self._files = files

    async def execute(self, input: dict[str, Any]) -> ToolResult:  # noqa: A002 - the kernel's name for it
        try:
            return ToolResult(output=await self._run(_Arguments(input)))
        except FileRefused as refusal:
            return ToolResult(success=False, error={"message": str(refusal), "type": type(refusal).__name__})

    @abstractmethod
    async def _run(self, given: _Arguments) -> Any:
        """What the tool gives back; `FileRefused` when it will not."""


class _Arguments:
    """What the model gave; unknown keys are nobody's business."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def path(self, default: str | None = None) -> str:
        value = self._values.get("file_path", self._values.get("path", default))
        if not isinstance(value, str) or not value:
            raise FileRefused("file_path is missing: the path of a file below the session's folder")
        return value

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str):
            raise FileRefused(f"{name} is missing: it must be a text")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) and value else None

    def count(self, name: str) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FileRefused(f"{name} must be a whole number from 1 on")
        return value

    def flag(self, name: str) -> bool:
        return self._values.get(name) is True


class ReadFile(_FileTool):
    name = "read_file"
    description = "Read a text file. Long files are shown in parts: say from which line (offset) and how many (limit)."
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "file_path": {"type": "string", "description": "Path of the file, relative to the session's folder"},
            "offset": {"type": "integer", "description": "First line to show, counted from 1"},
            "limit": {"type": "integer", "description": "How many lines to show"},
        },
        "required": ["file_path"],
    }
    read_only = True
    idempotent = True

    async def _run(self, given: _Arguments) -> str:
        path, offset, limit = given.path(), given.count("offset") or 1, given.count("limit")
        options = self._files.options

        def work() -> tuple[str, int, str]:
            sandbox = self._files.readable()
            place = sandbox.locate(path)
            content = sandbox.read(place, options.max_file_bytes)
            text = decode(content, place.shown)
            shown = excerpt(text, offset=offset, limit=limit, most_bytes=options.max_output_bytes)
            return place.shown, len(content), shown

        name, size, shown = await _in_thread(work)
        await self._files.announce(ARTIFACT_READ, name, size)
        return shown


class WriteFile(_FileTool):
    name = "write_file"
    description = "Write a text file, replacing what it held. Missing folders are made."
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "file_path": {"type": "string", "description": "Path of the file, relative to the session's folder"},
            "content": {"type": "string", "description": "The whole new text of the file"},
        },
        "required": ["file_path", "content"],
    }
    read_only = False
    idempotent = True

    async def _run(self, given: _Arguments) -> str:
        path, content = given.path(), given.text("content").encode("utf-8", "replace")
        most = self._files.options.max_file_bytes
        if len(content) > most:
            raise FileRefused(f"The content is larger than {most:,} bytes")

        def work() -> str:
            sandbox = self._files.writable()
            place = sandbox.locate(path)
            sandbox.write(place, content)
            return place.shown

        async with self._files.writing:
            name = await _in_thread(work)
        await self._files.announce(ARTIFACT_WRITE, name, len(content))
        return f"Wrote {len(content):,} bytes to {name}"


class EditFile(_FileTool):
    name = "edit_file"
    description = "Replace an exact piece of a text file. The piece must occur once, unless replace_all is true."
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "file_path": {"type": "string", "description": "Path of the file, relative to the session's folder"},
            "old_string": {"type": "string", "description": "The text to replace, exactly as it stands in the file"},
            "new_string": {"type": "string", "description": "The text to put there"},
            "replace_all": {"type": "boolean", "description": "Replace every occurrence"},
        },
        "required": ["file_path", "old_string", "new_string"],
    }
    read_only = False
    idempotent = False

    async def _run(self, given: _Arguments) -> str:
        path, old, new = given.path(), given.text("old_string"), given.text("new_string")
        every = given.flag("replace_all")
        most = self._files.options.max_file_bytes

        def work() -> tuple[str, int, int]:
            sandbox = self._files.writable()
            place = sandbox.locate(path)
            before = decode(sandbox.read(place, most), place.shown)
            after, count = replace(before, old, new, every=every, shown=place.shown)
            content = after.encode("utf-8", "replace")
            if len(content) > most:
                raise FileRefused(f"{place.shown} would be larger than {most:,} bytes")
            sandbox.write(place, content)
            return place.shown, len(content), count

        async with self._files.writing:
            name, size, count = await _in_thread(work)
        await self._files.announce(ARTIFACT_WRITE, name, size)
        return f"Replaced {count} occurrence{'s' if count > 1 else ''} in {name}"


class ListDirectory(_FileTool):
    name = "list_directory"
    description = (
        "List files and folders (these end in /). With a glob pattern, everything below is searched: "
        "without a slash the pattern is matched with names, with one it is matched with whole paths."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "A folder, relative to the session's; that one when left out"},
            "pattern": {"type": "string", "description": "Such as *.py or src/**/*.md"},
        },
    }
    read_only = True
    idempotent = True

    async def _run(self, given: _Arguments) -> str:
        path, pattern = given.path("."), given.optional_text("pattern")

        def work() -> list[str]:
            sandbox = self._files.readable()
            found = sandbox.entries(sandbox.locate(path), most=MAX_VISITED)
            return [f"{name}/" if folder else name for name, folder in found if _wanted(name, pattern)]

        names = await _in_thread(work)
        if len(names) > MAX_LISTED:
            names = [*names[:MAX_LISTED], f"[{len(names) - MAX_LISTED} more]"]
        return "\n".join(names) or "[nothing found]"


def _wanted(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return "/" not in name
    if "/" not in pattern:
        return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern.replace("**/", ""))


async def _in_thread(work: Callable[[], _T]) -> _T:
    return await asyncio.to_thread(work)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    files = Files(coordinator, FilesOptions.read(config))
    files.check_limits()
    for tool in (ReadFile(files), WriteFile(files), EditFile(files), ListDirectory(files)):
        await coordinator.mount("tools", tool, name=tool.name)
