"""The tool `glob`, which `tool-filesystem` and `tool-search` both mount, and the search below it.

It runs in a thread, which nobody can interrupt and all sessions share: it is bounded in entries and in time, and a
session has few at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from amplifier_app_api.modules.tools.folders import SessionFolders
from amplifier_app_api.modules.tools.patterns import Pattern
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.sandbox import Found, Place, Sandbox, printable
from amplifier_app_api.modules.tools.tool import Arguments, Tool

MAX_VISITED = 50_000
MAX_SECONDS = 10.0
MAX_EXCLUDED = 32
AT_ONCE = 2
"""Searches of one session; each has one of the threads that all sessions share."""

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


@dataclass(frozen=True, slots=True)
class Matches:
    """What was found, and in `notes` what was not looked at."""

    found: list[Found]
    notes: list[str] = field(default_factory=list[str])


def matching(
    sandbox: Sandbox, place: Place, wanted: Callable[[Found], bool], *, skip: frozenset[str] = frozenset()
) -> Matches:
    """Everything below a folder that is wanted, as far as there is time to look. Blocks."""
    matches = Matches([])
    deadline = time.monotonic() + MAX_SECONDS
    for visited, entry in enumerate(sandbox.walk(place, most=MAX_VISITED + 1, skip=skip)):
        if visited == MAX_VISITED:
            matches.notes.append(f"[only the first {MAX_VISITED:,} entries were looked at; give a narrower path]")
            break
        if time.monotonic() > deadline:
            matches.notes.append(f"[the time was up after {visited:,} entries; give a narrower path or pattern]")
            break
        if wanted(entry):
            matches.found.append(entry)
    return matches


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
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def _run(self, given: Arguments) -> str:
        path, text = given.path("."), given.text("pattern")
        kind = given.choice("type", ("file", "dir", "any"), "file")
        excluding, everywhere = given.texts("exclude"), given.flag("include_ignored")
        if len(excluding) > MAX_EXCLUDED:
            raise Refused(f"exclude has at most {MAX_EXCLUDED} patterns")

        def work() -> list[str]:
            pattern, excluded = Pattern(text), [Pattern(other) for other in excluding]
            skip = frozenset[str]() if everywhere else frozenset(self._options.exclusions) - pattern.names

            def wanted(entry: Found) -> bool:
                if kind != "any" and (kind == "dir") != entry.is_folder:
                    return False
                return pattern.matches(entry.name) and not any(other.matches(entry.name) for other in excluded)

            sandbox = self._folders.readable()
            place = sandbox.locate(path)
            base = "" if sandbox.told(place) == "." else f"{sandbox.told(place)}/"
            matches = matching(sandbox, place, wanted, skip=skip)
            names = sorted(base + line_of(entry) for entry in matches.found)
            most = self._options.max_results
            more = [f"[{len(names) - most} more; give a narrower pattern or path]"] if len(names) > most else []
            return [*names[:most], *more, *matches.notes]

        async with self._turns:
            lines = await asyncio.to_thread(work)
        return "\n".join(lines) or "[nothing found]"


def line_of(entry: Found) -> str:
    return printable(entry.name) + ("/" if entry.is_folder else "")
