"""The system prompt: the instruction, then one block for each context file and each file that it mentions.

Built again for every request to the model, so that an edited file counts at once. Equal content stands once,
where it came first, with every name it has. Mentions are followed in the instruction, not in context files.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .builtin import BUILTIN_FOLDER
from .bundle import Bundle
from .folders import AllowedFolders
from .mentions import Block, Collector, Mentioned, MentionScope, mentions_in

_SEPARATOR = "\n\n---\n\n"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A name that led to a block of the prompt: the key of a context file, or a mention."""

    mention: str
    path: Path
    content_hash: str

    @property
    def source_type(self) -> str:
        return "bundle_namespace" if ":" in self.mention else "relative_path"


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """A prompt, and what went into it. `text` is nothing when there is neither an instruction nor a file."""

    text: str | None
    resolutions: tuple[Resolution, ...] = ()
    failed: tuple[Mentioned, ...] = ()

    def event(self, seen: set[str], *, turn: int) -> dict[str, Any] | None:
        """The facts of `mentions:resolved`, or nothing when there is nothing new to tell.

        `seen` holds the hashes of what the session's earlier prompts had, and is brought up to date.
        """
        hashes = dict.fromkeys(resolution.content_hash for resolution in self.resolutions)
        new = [resolution for resolution in self.resolutions if resolution.content_hash not in seen]
        repeated = sum(1 for content_hash in hashes if content_hash in seen)
        seen.update(hashes)
        if not new and not self.failed:
            return None
        return {
            "source": "system_prompt",
            "resolutions": [
                {
                    "mention": resolution.mention,
                    "resolved_path": str(resolution.path),
                    "source_type": resolution.source_type,
                    "content_hash": resolution.content_hash,
                    "is_new": True,
                }
                for resolution in new
            ],
            "failed": [{"mention": failed.mention, "reason": failed.failure} for failed in self.failed],
            "deduplicated_count": repeated,
            "turn": turn,
        }


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """What a prompt is built from. `scope` has no working directory yet; `folder` stands in for a missing one."""

    instruction: str | None
    context: Mapping[str, Path]
    scope: MentionScope
    folder: Path | None = None
    mentions: tuple[str, ...] = field(init=False)
    _lasting: list[BuiltPrompt] = field(init=False, default_factory=list[BuiltPrompt], repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mentions", mentions_in(self.instruction or ""))

    @classmethod
    def of(cls, bundle: Bundle, folders: AllowedFolders, max_file_bytes: int) -> "SystemPrompt":
        """The prompt of a composed bundle, from files below some folders."""
        own = bundle.folder_of(bundle.name)
        scope = MentionScope(
            folders=folders,
            namespaces={**bundle.namespaces, **({bundle.name: own} if own else {})},
            context={key if ":" in key else f"{bundle.name}:{key}": path for key, path in bundle.context.items()},
            max_file_bytes=max_file_bytes,
        )
        return cls(bundle.instruction, bundle.context, scope, bundle.folder)

    async def build(self, working_dir: Path | None = None) -> BuiltPrompt:
        """The prompt as the files are now. Without any, or with none but those of this package, it costs nothing."""
        if not self.context and not self.mentions:
            return BuiltPrompt(self.instruction)
        if self._lasting:
            return self._lasting[0]
        return await asyncio.to_thread(self.build_now, working_dir)

    def build_now(self, working_dir: Path | None = None) -> BuiltPrompt:
        """`build` in the calling thread. Reads files."""
        collector = Collector(self.scope_in(working_dir))
        for key, path in self.context.items():
            collector.add_file(key, path)
        mentioned = collector.add_mentions(self.instruction or "")
        blocks = collector.blocks
        text = self.instruction
        if blocks:
            text = (self.instruction or "") + _SEPARATOR + "\n\n".join(map(str, blocks))
        failed = tuple(mention for mention in mentioned if mention.failure)
        built = BuiltPrompt(text, tuple(_resolutions(blocks)), failed)
        if not failed and self._lasts(blocks):
            self._lasting[:] = [built]
        return built

    def _lasts(self, blocks: tuple[Block, ...]) -> bool:
        """Whether nothing but files of this package, which stay as they are, is in the prompt or could come into it."""
        texts = (self.instruction or "", *(block.content for block in blocks))
        paths = (*self.context.values(), *(path for block in blocks for path in block.names))
        return all(":" in mention for text in texts for mention in mentions_in(text)) and all(
            path.is_relative_to(BUILTIN_FOLDER) for path in paths
        )

    def scope_in(self, working_dir: Path | None) -> MentionScope:
        """What mentions may lead to in a session with this working directory."""
        return replace(self.scope, working_dir=working_dir or self.folder)

    def missing(self) -> Iterator[str]:
        """The keys of context files that cannot be read now. Reads files."""
        for key, path in self.context.items():
            if not Collector(self.scope).add_file(key, path):
                yield key

    def lost(self) -> Iterator[str]:
        """The mentions of files of bundles that are not there now. Those of a working directory may still come."""
        yield from (mention for mention in self.mentions if ":" in mention and self.scope.resolve(mention) is None)


def _resolutions(blocks: tuple[Block, ...]) -> Iterator[Resolution]:
    for block in blocks:
        for path, names in block.names.items():
            yield from (Resolution(name, path, block.digest) for name in names or [str(path)])
