"""The time a turn takes, without the time it waits for people."""

import asyncio
import time
from collections.abc import Callable


class Stopwatch:
    """Runs from when it is made; stands still while somebody holds it. It has one alarm. Times are in seconds."""

    def __init__(self) -> None:
        self._counted = 0.0
        self._since: float | None = time.monotonic()
        self._holds = 0
        self._alarm: tuple[float, Callable[[], None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def elapsed(self) -> float:
        """The seconds counted so far."""
        return self._counted + (0.0 if self._since is None else time.monotonic() - self._since)

    def hold(self) -> None:
        """Stand still until `go_on` was called as often as this."""
        self._holds += 1
        if self._since is not None:
            self._counted = self.elapsed
            self._since = None
            self._unwind()

    def go_on(self) -> None:
        """Let go. The last one to let go starts the watch again."""
        self._holds -= 1
        if not self._holds and self._since is None:
            self._since = time.monotonic()
            self._wind()

    def set_alarm(self, seconds: float, ring: Callable[[], None]) -> None:
        """Call `ring` once so many seconds have been counted, from the loop that runs now."""
        self.clear_alarm()
        self._alarm = (seconds, ring)
        self._wind()

    def clear_alarm(self) -> None:
        """Let the alarm not ring any more."""
        self._alarm = None
        self._unwind()

    def _wind(self) -> None:
        if self._alarm is not None and self._since is not None:
            left = max(0.0, self._alarm[0] - self.elapsed)
            self._timer = asyncio.get_running_loop().call_later(left, self._due)

    def _unwind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self._alarm is None:
            return
        seconds, ring = self._alarm
        if self.elapsed < seconds:  # the loop's clock is not as fine as ours
            self._wind()
            return
        self._alarm = None
        ring()
