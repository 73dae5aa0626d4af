"""How much a fetch may take, and how long."""

import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from amplifier_app_api.bundles.fetched import Unresolved

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one fetch may take at most; sizes are bytes.

    `download_bytes` is what comes over the network or lies in a repository's objects, `tree_bytes` and `files`
    what is written from it, `expansion` how many times larger than its compressed form a member of an archive
    may be. `cache_bytes` is all sources together.
    """

    timeout: timedelta = timedelta(seconds=60)
    download_bytes: int = 256 * MIB
    tree_bytes: int = 256 * MIB
    file_bytes: int = 64 * MIB
    files: int = 20_000
    expansion: int = 200
    redirects: int = 5
    concurrent: int = 8
    cache_bytes: int = 2048 * MIB


class Patience:
    """Until when a fetch is waited for, on the clock of `time.monotonic`; it can also be lost early."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._lost = threading.Event()

    def lose(self) -> None:
        """Nobody waits for this fetch any more; it ends at its next step."""
        self._lost.set()

    def left(self) -> float:
        """The seconds that are left, more than none; `Unresolved` when there are none."""
        if self._lost.is_set():
            raise Unresolved("module_fetch_failed", "The fetch was given up.")
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Unresolved("module_fetch_failed", "The fetch took longer than it may.")
        return left


def failed(detail: str) -> Unresolved:
    """The source is allowed and could not be had."""
    return Unresolved("module_fetch_failed", detail)


def refused(detail: str) -> Unresolved:
    """The operator does not allow the source."""
    return Unresolved("source_not_allowed", detail)
