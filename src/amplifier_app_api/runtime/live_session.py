"""A session in this process's memory."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from amplifier_app_api.models.event import Notice
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.opening import OpenedSession
from amplifier_app_api.runtime.turn import Turn

NOTICES = 100
"""How many notices wait for the next turn; of more the oldest are lost."""


@dataclass(eq=False)
class LiveSession:
    """One session: opened or about to be, running a turn or idle.

    `lock` is held while the session is opened, given a message, or closed; not while a turn runs. `position` is
    where the transcript ends in memory, `revision` what it was opened from. `gone` is set, under the lock, when the
    pool has let go of it.
    """

    session_id: str
    tenant_id: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: OpenedSession | None = None
    position: int = 0
    revision: int = 0
    turn: Turn | None = None
    runner: asyncio.Task[None] | None = None
    notices: deque[Notice] = field(default_factory=lambda: deque[Notice](maxlen=NOTICES))
    idle_timer: asyncio.TimerHandle | None = None
    gone: bool = False

    @property
    def running(self) -> Turn | None:
        """The turn that has not ended here."""
        return None if self.turn is None or self.turn.gone.done() else self.turn

    @property
    def evictable(self) -> bool:
        """Whether nothing happens in it."""
        return self.running is None and not self.lock.locked()

    def notice(self, level: str, text: str, source: str) -> None:
        """Something people should read: an event of the turn that runs, else of the next one."""
        if self.running is not None:
            self.running.tap.notice(level, text, source)
            return
        self.notices.append(Notice(level=str(level), text=str(text), source=str(source)))

    def take_notices(self, mask: SecretMask) -> list[Notice]:
        """The notices that no turn has told yet, fit to be told.

        They are masked only now: what a module says while it is mounted comes before its secrets are known here.
        """
        taken = [notice.model_copy(update={"text": made_storable(mask.text(notice.text))}) for notice in self.notices]
        self.notices.clear()
        return taken

    def awake(self) -> None:
        """Something happens: the session is not idle."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
