"""A session in this process's memory."""

import asyncio
from dataclasses import dataclass, field

from amplifier_app_api.models.event import Notice
from amplifier_app_api.runtime.opening import OpenedSession
from amplifier_app_api.runtime.turn import Turn


@dataclass(eq=False)
class LiveSession:
    """One session: opened or about to be, running a turn or idle.

    `lock` is held while the session is opened, given a message, or closed; not while a turn runs. `position` is
    where the transcript ends in memory. `gone` is set, under the lock, when the pool has let go of it.
    """

    session_id: str
    tenant_id: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: OpenedSession | None = None
    position: int = 0
    turn: Turn | None = None
    runner: asyncio.Task[None] | None = None
    notices: list[Notice] = field(default_factory=list[Notice])
    idle_timer: asyncio.TimerHandle | None = None
    gone: bool = False

    @property
    def running(self) -> Turn | None:
        """The turn that has not ended."""
        return None if self.turn is None or self.turn.outcome.done() else self.turn

    @property
    def evictable(self) -> bool:
        """Whether nothing happens in it."""
        return self.running is None and not self.lock.locked()

    def notice(self, level: str, text: str, source: str) -> None:
        """Something people should read: an event of the turn that runs, else of the next one."""
        if self.running is not None:
            self.running.tap.notice(level, text, source)
            return
        masked = text if self.opened is None else self.opened.mask.text(text)
        self.notices.append(Notice(level=level, text=masked, source=source))

    def take_notices(self) -> list[Notice]:
        """The notices that no turn has told yet."""
        taken, self.notices = self.notices, []
        return taken

    def awake(self) -> None:
        """Something happens: the session is not idle."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
