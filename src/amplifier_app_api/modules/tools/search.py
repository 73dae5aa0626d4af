"""`tool-search`: `grep` and `glob` below the session's folder.

The search itself runs in a process of its own (`search_worker.py`), which is ended when it takes too long or is
given up. ripgrep makes it faster where it is installed; the answers are the same without.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.folders import READ_OPTION, SessionFolders
from amplifier_app_api.modules.tools.processes import answer_of
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.search_glob import NOT_SEARCHED, Glob, GlobOptions
from amplifier_app_api.modules.tools.tool import Arguments, Tool

if TYPE_CHECKING:
    from amplifier_app_api.modules.tools.search_worker import Answer, Search

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-search"
MODES = ("files_with_matches", "content", "count")
MAX_PATTERN = 10_000
MAX_AROUND = 100
AT_ONCE = 4
"""Searches of one session; each is a process that may take memory and all of its time."""

_PACKAGE = str(Path(__file__).parent.parent)
_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from tools.search_worker import main; main()"

_TYPES: Mapping[str, tuple[str, ...]] = {
    "c": (".c", ".h"),
    "cpp": (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx", ".h"),
    "cs": (".cs",),
    "css": (".css", ".scss"),
    "go": (".go",),
    "html": (".html", ".htm"),
    "java": (".java",),
    "js": (".js", ".jsx", ".mjs", ".cjs"),
    "json": (".json", ".jsonl"),
    "kotlin": (".kt", ".kts"),
    "lua": (".lua",),
    "md": (".md", ".markdown"),
    "php": (".php",),
    "py": (".py", ".pyi"),
    "rb": (".rb",),
    "rust": (".rs",),
    "sh": (".sh", ".bash", ".zsh"),
    "sql": (".sql",),
    "swift": (".swift",),
    "toml": (".toml",),
    "ts": (".ts", ".tsx", ".mts", ".cts"),
    "txt": (".txt",),
    "xml": (".xml",),
    "yaml": (".yaml", ".yml"),
}
_ALSO_CALLED = {
    "bash": "sh", "c++": "cpp", "c#": "cs", "csharp": "cs", "golang": "go", "javascript": "js", "jsx": "js",
    "markdown": "md", "python": "py", "rs": "rust", "ruby": "rb", "shell": "sh", "tsx": "ts", "typescript": "ts",
    "yml": "yaml",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Sizes in bytes. `exclusions` are names of folders; `max_results` bounds what one call tells."""

    allowed_paths: list[str]
    read_paths: list[str]
    max_results: int
    max_file_size: int
    max_output_bytes: int
    timeout: float
    exclusions: list[str]

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> SearchOptions:
        options = Options(MODULE_ID, values)
        return cls(
            allowed_paths=options.texts("allowed_paths"),
            read_paths=options.texts(READ_OPTION),
            max_results=options.integer("max_results", 500, minimum=1),
            max_file_size=options.integer("max_file_size", 10 * 2**20, minimum=1),
            max_output_bytes=options.integer("max_output_bytes", 100_000, minimum=100),
            timeout=options.number("timeout", 30, minimum=0.1),
            exclusions=options.texts("exclusions") if options.has("exclusions") else list(NOT_SEARCHED),
        )


class Grep(Tool):
    name = "grep"
    description = (
        "Search the contents of files with a regular expression (Python's syntax). Answers with the files that match, "
        "or with the lines (output_mode content) or with how many (count). Narrow it with path, glob or type. "
        "Folders such as .git and node_modules are left out unless include_ignored is true."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "description": "A regular expression"},
            "path": {"type": "string", "description": "A folder or file, relative to the session's folder"},
            "output_mode": {"type": "string", "enum": list(MODES)},
            "glob": {"type": "string", "description": "Only files like this, such as *.{ts,tsx} or src/**/*.py"},
            "type": {"type": "string", "description": f"Only files of this kind: {', '.join(_TYPES)}"},
            "-i": {"type": "boolean", "description": "Ignore upper and lower case"},
            "-n": {"type": "boolean", "description": "Show the numbers of lines; so it is unless false"},
            "-A": {"type": "integer", "description": "Lines to show after each match"},
            "-B": {"type": "integer", "description": "Lines to show before each match"},
            "-C": {"type": "integer", "description": "Lines to show before and after each match"},
            "multiline": {"type": "boolean", "description": "Matches may span lines, and . matches line ends"},
            "head_limit": {"type": "integer", "description": "How many results to show"},
            "offset": {"type": "integer", "description": "How many results to leave out at the beginning"},
            "include_ignored": {"type": "boolean", "description": "Search in all folders"},
        },
        "required": ["pattern"],
    }
    read_only = True
    idempotent = True

    def __init__(self, folders: SessionFolders, options: SearchOptions) -> None:
        self._folders = folders
        self._options = options
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def _run(self, given: Arguments) -> str:
        search = self._search(given)
        async with self._turns:
            answer = await answer_of(
                [sys.executable, "-I", "-S", "-c", _WORKER, _PACKAGE],
                json.dumps(search).encode(),
                seconds=self._options.timeout,
                most=4 * self._options.max_output_bytes + 100_000,
            )
        told = cast("Answer", json.loads(answer))
        if told["refused"] is not None:
            raise Refused(told["refused"])
        return told["text"] or ""

    def _search(self, given: Arguments) -> Search:
        options = self._options
        pattern = given.text("pattern")
        if not pattern or len(pattern) > MAX_PATTERN:
            raise Refused(f"pattern must have 1 to {MAX_PATTERN:,} characters")
        around = given.count("-C", minimum=0) or 0
        limit = given.count("head_limit", minimum=0)
        return {
            "roots": self._folders.readable().roots,
            "path": given.path("."),
            "pattern": pattern,
            "mode": given.choice("output_mode", MODES, "files_with_matches"),
            "ignore_case": given.flag("-i"),
            "multiline": given.flag("multiline"),
            "numbers": given.flag("-n", True),
            "before": min(given.count("-B", minimum=0) or around, MAX_AROUND),
            "after": min(given.count("-A", minimum=0) or around, MAX_AROUND),
            "glob": given.optional_text("glob"),
            "suffixes": _suffixes(given.optional_text("type")),
            "skip": [] if given.flag("include_ignored") else list(options.exclusions),
            "limit": min(limit or options.max_results, options.max_results),
            "offset": given.count("offset", minimum=0) or 0,
            "seconds": options.timeout,
            "max_file_bytes": options.max_file_size,
            "max_output_bytes": options.max_output_bytes,
            "ripgrep": shutil.which("rg"),
        }


def _suffixes(kind: str | None) -> list[str]:
    if kind is None:
        return []
    known = _TYPES.get(_ALSO_CALLED.get(kind.lower(), kind.lower()))
    if known is None:
        raise Refused(f"There is no type {kind!r}. Types: {', '.join(_TYPES)}; others are told by glob")
    return list(known)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    options = SearchOptions.read(config)
    further = {"allowed_paths": options.allowed_paths, READ_OPTION: options.read_paths}
    folders = SessionFolders(coordinator, MODULE_ID, read=further, write={})
    folders.check_limits()
    globbing = Glob(folders, GlobOptions(options.max_results, tuple(options.exclusions)))
    for tool in (Grep(folders, options), globbing):
        await coordinator.mount("tools", tool, name=tool.name)
