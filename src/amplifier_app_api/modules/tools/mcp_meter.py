"""How much a server may say. One that says more than that is not spoken to any longer."""

from __future__ import annotations

import asyncio

WINDOW = 10.0
MAX_MESSAGES = 2_000
"""Messages in a window of so many seconds."""
MESSAGES_OF_FULL_SIZE = 16
"""Bytes in a window: as many as so many messages of the largest size."""


class Meter:
    """One connection's; `ended` is set when it is over, and `reason` says why."""

    def __init__(self, largest: int) -> None:
        self._most_bytes = largest * MESSAGES_OF_FULL_SIZE
        self._began = float("-inf")
        self._messages = 0
        self._bytes = 0
        self.ended = asyncio.Event()
        self.reason = ""

    def take(self, *, messages: int = 0, size: int = 0) -> bool:
        """Count what a server said; false when it was too much."""
        now = asyncio.get_running_loop().time()
        if now - self._began > WINDOW:
            self._began, self._messages, self._bytes = now, 0, 0
        self._messages += messages
        self._bytes += size
        if self._messages > MAX_MESSAGES or self._bytes > self._most_bytes:
            self.end("it says more than is listened to")
        return not self.ended.is_set()

    def end(self, reason: str) -> None:
        """The first reason stays."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()
