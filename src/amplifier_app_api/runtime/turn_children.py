"""The children that a turn waits for: they stop when it stops, and its log says how each ended."""

from dataclasses import dataclass
from typing import Protocol

from amplifier_app_api.models.event import ChildEnded, ChildStarted, Event
from amplifier_app_api.models.turn import TurnStatus
from amplifier_app_api.storage.children import status_of_left


class Stoppable(Protocol):
    """A turn, as far as whoever waits for it is concerned."""

    def ask_to_stop(self) -> None:
        """Let the tools that run finish, and ask no model again."""
        ...


@dataclass(eq=False, slots=True)
class ChildInTurn:
    """A child session that works for a turn. `turn` is its own turn, once that has begun."""

    child_id: str
    external_id: str
    agent: str
    turn: Stoppable | None = None

    def started(self) -> ChildStarted:
        """The event that tells of it."""
        return ChildStarted(child_id=self.child_id, external_id=self.external_id, agent=self.agent)

    def ended(self, status: str) -> ChildEnded:
        """The event that tells how its task ended."""
        return ChildEnded(child_id=self.child_id, external_id=self.external_id, agent=self.agent, status=status)


class TurnChildren:
    """The children of one turn that have not ended."""

    def __init__(self) -> None:
        self._open: dict[int, ChildInTurn] = {}
        self._found: dict[str, ChildInTurn] = {}
        self._adopted: set[str] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, child: ChildInTurn) -> None:
        """A child begins to work for the turn."""
        self._open[id(child)] = child

    def adopt(self, child: ChildInTurn) -> None:
        """A child goes on working for the turn, which another process began."""
        self._adopted.add(child.child_id)
        self._found.pop(child.child_id, None)
        self.add(child)

    def find(self, child: ChildInTurn) -> None:
        """The log says that a child works for the turn. If no call waits for it, the end of the turn tells its end."""
        if child.child_id not in self._adopted:
            self._found[child.child_id] = child

    def begin(self, child: ChildInTurn, turn: Stoppable) -> None:
        """The child's own turn has begun."""
        child.turn = turn
        if self._stopping:
            turn.ask_to_stop()

    def remove(self, child: ChildInTurn) -> bool:
        """The child is done. False: the turn has ended, and told of it before."""
        return self._open.pop(id(child), None) is not None

    def ask_to_stop(self) -> None:
        """Let their tools that run finish, and ask no model again."""
        self._stopping = True
        for child in self._open.values():
            if child.turn is not None:
                child.turn.ask_to_stop()

    def left(self, status: TurnStatus) -> list[Event]:
        """The turn ends with `status`: what becomes of the children that still work for it."""
        left = (*self._found.values(), *self._open.values())
        told: list[Event] = [child.ended(status_of_left(status)) for child in left]
        self._found.clear()
        self._open.clear()
        return told
