"""Messages for a turn that runs: handed to its loop, and seen when the loop uses them.

A loop that can be steered offers the capability `session.steer`: called with a text, it keeps it and adds it to its
context as a message of the user before it asks the model again. That is how we see that it was used. A loop without
the capability, or one that ends before it looked, leaves the message pending: it becomes the next turn.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.event import MessageUser
from amplifier_app_api.runtime.journal import Seals, said_by_user
from amplifier_app_api.runtime.units import TurnKey, Unit
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.messages import NewMessage
from amplifier_app_api.storage.steering import SteeringMessage, mark_used

logger = logging.getLogger(__name__)

Steer = Callable[[str], Any]
"""What a loop offers as `session.steer`; it may be a coroutine function."""


class Handover:
    """The steering of one turn. `steer` is None where the loop cannot be steered.

    Nothing is handed over before the loop has begun: a loop may forget what it was told before that.
    """

    def __init__(self, steer: Steer | None, seals: Seals) -> None:
        self._steer = steer
        self._seals = seals
        self._begun = False
        self._known: set[str] = set()
        self._waiting: deque[SteeringMessage] = deque()
        self._handed: list[SteeringMessage] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def known(self) -> bool:
        """Whether the turn was ever steered."""
        return bool(self._known)

    @property
    def unused(self) -> bool:
        """Whether the loop holds a message that it has not used."""
        return bool(self._handed)

    def offer(self, messages: Iterable[SteeringMessage]) -> None:
        """Take messages that wait for this turn; one that is known already is not taken twice."""
        for message in messages:
            if message.message_id not in self._known:
                self._known.add(message.message_id)
                self._waiting.append(message)
        self._hand_over()

    def loop_began(self) -> None:
        """The loop asks its model: it hears what it is told from now on."""
        self._begun = True
        self._hand_over()

    def recorded(self, message: dict[str, Any]) -> Unit | None:
        """What is written when the loop adds this message to its context. None: it is not one that was handed over."""
        for handed in self._handed:
            if self._prompt_of(handed) == message.get("content"):
                self._handed.remove(handed)
                return _used(handed, self._seals.kept_message(message))
        return None

    def _prompt_of(self, message: SteeringMessage) -> str:
        return said_by_user(message.content, message.context, message.kernel, self._seals)[0]

    def _hand_over(self) -> None:
        while self._begun and self._waiting and self._steer is not None:
            message = self._waiting[0]
            self._handed.append(message)
            try:
                answer = self._steer(self._prompt_of(message))
            except Exception:
                # A module's refusal, say because it holds as many as it can. What is not taken stays pending.
                self._handed.remove(message)
                logger.warning("a loop did not take a message", exc_info=True, extra={"turn_id": message.turn_id})
                return
            self._waiting.popleft()
            if inspect.isawaitable(answer):
                task = asyncio.ensure_future(answer)
                self._tasks.add(task)
                task.add_done_callback(self._heard)

    def _heard(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("a loop did not take a message", exc_info=task.exception())

    def close(self) -> None:
        """The turn is over."""
        self._begun = False
        for task in self._tasks:
            task.cancel()


def _used(message: SteeringMessage, kernel: dict[str, Any]) -> Unit:
    row = NewMessage(
        message_id=message.message_id,
        turn_id=message.turn_id,
        role="user",
        content=message.content,
        context=message.context,
        created_at=utc_now(),
        kernel=kernel,
    )
    told = MessageUser(message_id=message.message_id, content=message.content)
    return Unit(messages=[row], events=[told], effects=[partial(_mark_used, message.message_id)])


def _mark_used(message_id: str, conn: Connection, key: TurnKey) -> None:
    mark_used(conn, message_id)
