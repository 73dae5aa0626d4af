"""How far delegation may go: how deep, and how much of it one turn may do."""

from dataclasses import dataclass

from amplifier_app_api.runtime.turn import Turn


class DelegationRefused(RuntimeError):
    """The task is not taken on. The sentence is for the model that wanted to delegate."""


@dataclass(slots=True)
class _Count:
    """The tasks that a turn, its children and theirs have delegated."""

    tasks: int = 0


class DelegationLimits:
    """Counts what is delegated. One per process; a turn that is gone on with begins to count anew."""

    def __init__(self, *, depth: int, self_depth: int, tasks: int) -> None:
        self._depth = depth
        self._self_depth = self_depth
        self._tasks = tasks
        self._counts: dict[str, _Count] = {}

    def refuse_too_deep(self, depth: int, self_depth: int) -> None:
        """Raise when a child may not be so far below its root, or the same agent so often below itself."""
        if depth > self._depth:
            raise DelegationRefused(
                f"Agents of this server delegate at most {self._depth} levels deep, and this one is on the last of "
                "them: do the task yourself."
            )
        if self_depth > self._self_depth:
            raise DelegationRefused(
                f"An agent may delegate to itself at most {self._self_depth} times in a row: do the task yourself, or "
                "give it to a named agent."
            )

    def take(self, turn: Turn) -> None:
        """Count one more task of a turn; raise when the turn and all its children have had as many as they may."""
        count = self._counts.get(turn.turn_id)
        if count is None:
            count = self._share(turn, _Count())
        if count.tasks >= self._tasks:
            raise DelegationRefused(
                f"This turn and its agents have delegated {self._tasks} tasks, as many as they may: do the rest "
                "yourself."
            )
        count.tasks += 1

    def begin(self, parent: Turn, child: Turn) -> None:
        """What the child delegates counts with what its parent does."""
        count = self._counts.get(parent.turn_id)
        if count is not None:
            self._share(child, count)

    def _share(self, turn: Turn, count: _Count) -> _Count:
        self._counts[turn.turn_id] = count
        turn.outcome.add_done_callback(lambda _: self._counts.pop(turn.turn_id, None))
        return count
