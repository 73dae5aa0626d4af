"""The tool `glob`, which `tool-filesystem` and `tool-search` both mount."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from amplifier_app_api.modules.tools.folders import SessionFolders
from amplifier_app_api.modules.tools.patterns import Pattern
from amplifier_app_api.modules.tools.sandbox import Found, printable
from amplifier_app_api.modules.tools.tool import Arguments, Tool

MAX_VISITED = 50_000

NOT_SEARCHED = (
    ".git", ".hg", ".svn", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".tox", ".nox", ".gradle", ".next", ".nuxt", "target", "dist", "build", "coverage",
)  # fmt: skip
"""Folders of tools and of what they make; searched only when the model asks for them."""


@dataclass(frozen=True, slots=True)
class GlobOptions:
    """`exclusions` are the names of folders that are not looked into unless they are asked for."""

    max_results: int = 500
    exclusions: Sequence[str] = NOT_SEARCHED


class Glob(Tool):
    name = "glob"
    description = (
        "Find files by a pattern of their path, such as *.py (by name, anywhere below), src/**/*.ts (by path) or "
        "*.{md,txt}. Answers with paths, sorted. Folders such as .git and node_modules are left out unless the "
        "pattern names them or include_ignored is true."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "description": "Such as **/*.py"},
            "path": {"type": "string", "description": "The folder to look in, relative to the session's"},
            "type": {"type": "string", "enum": ["file", "dir", "any"], "description": "What to find; files by default"},
            "exclude": {"type": "array", "items": {"type": "string"}, "description": "Patterns of what to leave out"},
            "include_ignored": {"type": "boolean", "description": "Look into all folders"},
        },
        "required": ["pattern"],
    }
    read_only = True
    idempotent = True

    def __init__(self, folders: SessionFolders, options: GlobOptions) -> None:
        self._folders = folders
        self._options = options

    async def _run(self, given: Arguments) -> str:
        path, pattern = given.path("."), Pattern(given.text("pattern"))
        kind = given.choice("type", ("file", "dir", "any"), "file")
        excluded = [Pattern(text) for text in given.texts("exclude")]
        skip: frozenset[str] = frozenset()
        if not given.flag("include_ignored"):
            skip = frozenset(self._options.exclusions) - pattern.names

        def wanted(entry: Found) -> bool:
            if kind != "any" and (kind == "dir") != entry.is_folder:
                return False
            return pattern.matches(entry.name) and not any(other.matches(entry.name) for other in excluded)

        def work() -> tuple[list[str], bool]:
            sandbox = self._folders.readable()
            place = sandbox.locate(path)
            base = "" if sandbox.told(place) == "." else f"{sandbox.told(place)}/"
            names: list[str] = []
            visited = 0
            for visited, entry in enumerate(sandbox.walk(place, most=MAX_VISITED + 1, skip=skip), start=1):
                if visited <= MAX_VISITED and wanted(entry):
                    names.append(base + printable(entry.name) + ("/" if entry.is_folder else ""))
            return sorted(names), visited > MAX_VISITED

        names, cut = await asyncio.to_thread(work)
        most = self._options.max_results
        lines = names[:most]
        if len(names) > most:
            lines.append(f"[{len(names) - most} more; give a narrower pattern or path]")
        if cut:
            lines.append(f"[only the first {MAX_VISITED:,} entries were looked at; give a narrower path]")
        return "\n".join(lines) or "[nothing found]"
