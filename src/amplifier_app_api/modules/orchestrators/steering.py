"""What the user says while a turn runs, until the loop takes it."""

from __future__ import annotations

from collections import deque

LIMIT = 100


class SteeringFull(RuntimeError):
    """More messages wait than a loop holds; the message was not taken."""


class Steering:
    """Messages in the order they came, at most `LIMIT`. None is dropped in silence."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def steer(self, message: str) -> None:
        """Hand the running turn another message. `ValueError`: it is empty."""
        if not message.strip():
            raise ValueError("a message that steers must not be empty")
        if len(self._waiting) >= LIMIT:
            raise SteeringFull(f"{LIMIT} messages wait for the loop already")
        self._waiting.append(message)

    def take(self) -> str | None:
        """The oldest message that waits."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> None:
        """A turn begins: what the one before did not take is not for this one."""
        self._waiting.clear()
