"""`context-persistent`: `context-simple` with memory files in front of every request.

The conversation itself is kept by the host, so this writes no file; a bundle that names a `transcript_path`
is told so. Memory files lie below the session's folder and are read anew for each request.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.contexts.compaction import Message
from amplifier_app_api.modules.contexts.simple import ContextOptions, SimpleContext, tools_of
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.sandbox import FileRefused, Sandbox
from amplifier_app_api.modules.tools.text_files import decode

__amplifier_module_type__ = "context"

MODULE_ID = "context-persistent"
MAX_MEMORY_BYTES = 256_000
PROTECTED_RECENT = 0.1

logger = logging.getLogger(__name__)


class PersistentContext(SimpleContext):
    def __init__(self, options: ContextOptions, memory_files: list[str], coordinator: Any) -> None:
        super().__init__(options, coordinator.hooks, tools_of(coordinator))
        self._memory_files = memory_files
        self._coordinator = coordinator
        self._noticed: set[str] = set()

    async def notice(self, text: str) -> None:
        """Tell the user something, once."""
        if text in self._noticed:
            return
        self._noticed.add(text)
        display = self._coordinator.display_system
        if display is None:
            logger.warning("notice", extra={"module_id": MODULE_ID, "notice": text})
            return
        shown = display.show_message(text, "warning", MODULE_ID)
        if inspect.isawaitable(shown):
            await shown

    async def _preamble(self) -> list[Message]:
        preamble = await super()._preamble()
        if not self._memory_files:
            return preamble
        memories, problems = await asyncio.to_thread(self._read_memories)
        for problem in problems:
            await self.notice(problem)
        return preamble + memories

    def _read_memories(self) -> tuple[list[Message], list[str]]:
        folder = self._coordinator.get_capability("session.working_dir")
        sandbox = Sandbox([folder] if folder else [])
        memories: list[Message] = []
        problems: list[str] = []
        for path in self._memory_files:
            try:
                place = sandbox.locate(path)
                text = decode(sandbox.read(place, MAX_MEMORY_BYTES), place.shown)
            except FileRefused as refusal:
                problems.append(f"Memory file left out: {refusal}")
                continue
            if text.strip():
                memories.append({"role": "system", "content": f'<memory file="{path}">\n{text}\n</memory>'})
        return memories, problems


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    options = ContextOptions.read(MODULE_ID, config, protected_recent=PROTECTED_RECENT)
    own = Options(MODULE_ID, config)
    context = PersistentContext(options, own.texts("memory_files"), coordinator)
    if own.has("transcript_path"):
        await context.notice("transcript_path is not used: the server stores the conversation itself")
    await coordinator.mount("context", context)
