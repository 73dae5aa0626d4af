"""The system prompt: the instruction, then one block for each context file.

Built again for every request to the model, so that an edited file counts at once. Equal content stands once,
where it came first, with every name it has. `@mentions` in the instruction are not followed yet; they become
further files between the instruction and the blocks that exist today.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .folders import AllowedFolders, NotAllowed, read_file

logger = logging.getLogger(__name__)

_SEPARATOR = "\n\n---\n\n"


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """What a prompt is built from. Files are read only when they lie below one of `folders`."""

    instruction: str | None
    context: Mapping[str, Path]
    folders: AllowedFolders
    max_file_bytes: int = 1 << 20

    async def build(self) -> str | None:
        """The prompt as the files are now, or nothing when there is neither an instruction nor a file."""
        if not self.context:
            return self.instruction
        return await asyncio.to_thread(self.build_now)

    def build_now(self) -> str | None:
        """`build` in the calling thread. Reads files."""
        blocks = "\n\n".join(self._blocks())
        if not blocks:
            return self.instruction
        return (self.instruction or "") + _SEPARATOR + blocks

    def missing(self) -> Iterator[str]:
        """The keys of context files that cannot be read now. Reads files."""
        for key, path in self.context.items():
            if self._read(path) is None:
                yield key

    def _blocks(self) -> Iterator[str]:
        names: dict[str, list[str]] = {}
        contents: dict[str, str] = {}
        for key, path in self.context.items():
            content = self._read(path)
            if content is None:
                continue
            digest = hashlib.sha256(content.encode()).hexdigest()
            contents.setdefault(digest, content)
            names.setdefault(digest, []).append(f"{key} → {path}")
        for digest, content in contents.items():
            yield f'<context_file paths="{", ".join(names[digest])}">\n{content}\n</context_file>'

    def _read(self, path: Path) -> str | None:
        try:
            content, _ = read_file(self.folders.resolve(path), self.max_file_bytes)
            return content.decode().replace("\r\n", "\n")
        except (OSError, NotAllowed, ValueError):
            logger.debug("context file not read", extra={"path": str(path)})
            return None
