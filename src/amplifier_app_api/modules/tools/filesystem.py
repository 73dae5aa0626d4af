"""`tool-filesystem`: files below the session's folder.

`allowed_read_paths` and `allowed_write_paths` add further folders, within what the host allows (`folders.py`).
Tools answer with failures, they do not raise.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from amplifier_app_api.modules.kernel import ARTIFACT_READ, ARTIFACT_WRITE
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.folders import READ_OPTION, WRITE_OPTION, SessionFolders
from amplifier_app_api.modules.tools.patterns import Pattern
from amplifier_app_api.modules.tools.sandbox import FileRefused, Place, Sandbox
from amplifier_app_api.modules.tools.search_glob import (
    AT_ONCE,
    MAX_VISITED,
    Glob,
    GlobOptions,
    Matches,
    line_of,
    matching,
)
from amplifier_app_api.modules.tools.text_files import decode, excerpt, replace
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-filesystem"
MAX_LISTED = 1_000


@dataclass(frozen=True, slots=True)
class FilesOptions:
    """Sizes in bytes; `max_output_bytes` is what one read may show."""

    read_paths: list[str]
    write_paths: list[str]
    denied_write_paths: list[str]
    max_file_bytes: int
    max_output_bytes: int

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> FilesOptions:
        options = Options(MODULE_ID, values)
        return cls(
            read_paths=options.texts(READ_OPTION),
            write_paths=options.texts(WRITE_OPTION),
            denied_write_paths=options.texts("denied_write_paths"),
            max_file_bytes=options.integer("max_file_bytes", 10_000_000, minimum=1),
            max_output_bytes=options.integer("max_output_bytes", 256_000, minimum=1),
        )


class Files:
    """What the tools of one session share. Writes take turns, so that two edits of one file are both kept."""

    def __init__(self, coordinator: Any, options: FilesOptions) -> None:
        self._coordinator = coordinator
        self.options = options
        self.folders = SessionFolders(
            coordinator,
            MODULE_ID,
            read={READ_OPTION: options.read_paths},
            write={WRITE_OPTION: options.write_paths},
        )
        self.writing = asyncio.Lock()

    def to_write(self, path: str) -> tuple[Sandbox, Place]:
        """Where a file may be written; `FileRefused` when it lies in a denied folder, or outside."""
        sandbox = self.folders.writable()
        place = sandbox.locate(path)
        for denied in self.options.denied_write_paths:
            if place.path.is_relative_to(os.path.realpath(self.folders.working_dir / denied)):
                raise FileRefused(f"{place.shown} may not be written")
        return sandbox, place

    async def announce(self, event: str, shown: str, size: int) -> None:
        await self._coordinator.hooks.emit(event, {"path": shown, "bytes": size})


class _FileTool(Tool):
    def __init__(self, files: Files) -> None:
        self._files = files


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

    async def _run(self, given: Arguments) -> str:
        path, offset, limit = given.path(), given.count("offset") or 1, given.count("limit")
        options = self._files.options

        def work() -> tuple[str, int, str]:
            sandbox = self._files.folders.readable()
            place = sandbox.locate(path)
            content = sandbox.read(place, options.max_file_bytes)
            text = decode(content, place.shown)
            shown = excerpt(text, offset=offset, limit=limit, most_bytes=options.max_output_bytes)
            return place.shown, len(content), shown

        name, size, shown = await asyncio.to_thread(work)
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

    async def _run(self, given: Arguments) -> str:
        path, content = given.path(), given.text("content").encode("utf-8", "replace")
        most = self._files.options.max_file_bytes
        if len(content) > most:
            raise FileRefused(f"The content is larger than {most:,} bytes")

        def work() -> str:
            sandbox, place = self._files.to_write(path)
            sandbox.write(place, content)
            return place.shown

        async with self._files.writing:
            name = await asyncio.to_thread(work)
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

    async def _run(self, given: Arguments) -> str:
        path, old, new = given.path(), given.text("old_string"), given.text("new_string")
        every = given.flag("replace_all")
        most = self._files.options.max_file_bytes

        def work() -> tuple[str, int, int]:
            sandbox, place = self._files.to_write(path)
            before = decode(sandbox.read(place, most), place.shown)
            after, count = replace(before, old, new, every=every, shown=place.shown)
            content = after.encode("utf-8", "replace")
            if len(content) > most:
                raise FileRefused(f"{place.shown} would be larger than {most:,} bytes")
            sandbox.write(place, content)
            return place.shown, len(content), count

        async with self._files.writing:
            name, size, count = await asyncio.to_thread(work)
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

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def _run(self, given: Arguments) -> str:
        path, pattern = given.path("."), given.optional_text("pattern")

        def work() -> list[str]:
            sandbox = self._files.folders.readable()
            place = sandbox.locate(path)
            matches = _searched(sandbox, place, Pattern(pattern)) if pattern else _listed(sandbox, place)
            names = [line_of(entry) for entry in matches.found]
            more = [f"[{len(names) - MAX_LISTED} more]"] if len(names) > MAX_LISTED else []
            return [*names[:MAX_LISTED], *more, *matches.notes]

        async with self._turns:
            lines = await asyncio.to_thread(work)
        return "\n".join(lines) or "[nothing found]"


def _searched(sandbox: Sandbox, place: Place, pattern: Pattern) -> Matches:
    return matching(sandbox, place, lambda entry: pattern.matches(entry.name))


def _listed(sandbox: Sandbox, place: Place) -> Matches:
    """What lies in the folder itself, which is walked first: nothing below it is looked at."""
    walked = sandbox.walk(place, most=MAX_VISITED)
    return Matches(list(itertools.takewhile(lambda entry: "/" not in entry.name, walked)))


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    files = Files(coordinator, FilesOptions.read(config))
    files.folders.check_limits()
    globbing = Glob(files.folders, GlobOptions())
    for tool in (ReadFile(files), WriteFile(files), EditFile(files), ListDirectory(files), globbing):
        await coordinator.mount("tools", tool, name=tool.name)
