"""`@mentions` for modules: two capabilities of a session whose bundle has an instruction or context files.

Modules that read files let people name them by mention, and ask `mention_resolver` for the path; those that gather
context share `mention_deduplicator`, so that one content is sent once. Both come after everything is mounted.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.mentions import MentionScope

MENTIONS_RESOLVED = "mentions:resolved"


@dataclass(frozen=True, slots=True)
class MentionResolver:
    """The capability `mention_resolver`. It leads nowhere the system prompt may not read."""

    scope: MentionScope

    def resolve(self, mention: str) -> Path | None:
        """The file or folder a mention names, its `@` included, or nothing."""
        return self.scope.resolve(mention)


@dataclass(frozen=True, slots=True)
class ContextFile:
    """One content, its hash, and every path it was found at."""

    content: str
    content_hash: str
    paths: list[Path] = field(default_factory=list[Path])


class ContentDeduplicator:
    """The capability `mention_deduplicator`: contents that modules have gathered, each once."""

    def __init__(self) -> None:
        self._files: dict[str, ContextFile] = {}

    def add_file(self, path: Path, content: str) -> bool:
        """Note a file; whether its content is new."""
        digest = _sha256(content)
        is_new = digest not in self._files
        known = self._files.setdefault(digest, ContextFile(content, digest))
        if path not in known.paths:
            known.paths.append(path)
        return is_new

    def is_seen(self, content: str) -> bool:
        """Whether some file had this content."""
        return _sha256(content) in self._files

    def get_unique_files(self) -> list[ContextFile]:
        """Every content, in the order it was first met."""
        return list(self._files.values())

    def get_known_hashes(self) -> set[str]:
        """The hash of every content."""
        return set(self._files)


def offer_mentions(coordinator: Any, scope: MentionScope) -> None:
    """Register the capabilities, and tell those who subscribe by name of the event that prompts emit."""
    coordinator.register_capability("mention_resolver", MentionResolver(scope))
    coordinator.register_capability("mention_deduplicator", ContentDeduplicator())
    coordinator.register_contributor("observability.events", "host:mentions", lambda: [MENTIONS_RESOLVED])


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
