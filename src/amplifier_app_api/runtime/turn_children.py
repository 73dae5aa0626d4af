"""The children that a turn waits for: they stop when it stops, and its log says how each ended."""

from dataclasses import dataclass
from typing import Protocol

from amplifier_app_api.models.event import ChildEnded, ChildStarted, Event
from amplifier_app_api.models.turn import TurnStatus


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
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, child: ChildInTurn) -> None:
        """A child begins to work for the turn."""
        self._open[id(child)] = child

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
        told: list[Event] = [child.ended(status_of_left(status)) for child in self._open.values()]
        self._open.clear()
        return told


def status_of_left(parent: TurnStatus) -> TurnStatus:
    """How the turn of a child ends when the turn it works for has ended before it."""
    return TurnStatus.INTERRUPTED if parent is TurnStatus.INTERRUPTED else TurnStatus.CANCELLED
