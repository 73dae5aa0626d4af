"""Following: a session from any place, one turn to its end, and the children of a session with it."""

from collections.abc import Callable, Collection

import orjson

from amplifier_app_api.events.children import ChildrenFollower
from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import FilteredFollower, Follower, SessionFollower, TurnFollower
from amplifier_app_api.models.turn import UNFINISHED_STATUSES
from amplifier_app_api.runtime.outcome import outcome_of_row
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.log import Child, LogPart, first_event_of, read_log, running_children, turn_at
from amplifier_app_api.storage.turns import get_turn


class StoredLog:
    """The rows of one session of one tenant."""

    def __init__(self, db: Database, session_id: str, within: str) -> None:
        self._db = db
        self._session_id = session_id
        self._within = within

    async def read(self, after: int, *, limit: int, deltas: bool) -> LogPart:
        """What follows a number, at most `limit` events; with the pieces that are rows when `deltas` says so."""
        return await self._db.read(read_log, self._session_id, after, limit=limit, deltas=deltas, within=self._within)

    async def turn_at(self, seq: int) -> str | None:
        """The turn that ran when the event with this number was the last."""
        return await self._db.read(turn_at, self._session_id, seq, within=self._within)

    async def running_children(self) -> list[Child]:
        """The children of the session that do something now."""
        return await self._db.read(running_children, self._session_id, within=self._within)


class Following:
    """Makes followers. `runs_here` says of a session whether everything that happens in it is told in this process.

    `None` for it: one process has the database to itself.
    """

    def __init__(self, db: Database, hub: EventHub, runs_here: Callable[[str], bool] | None = None) -> None:
        self._db = db
        self._hub = hub
        self._runs_here = runs_here or _always

    def session(
        self,
        session_id: str,
        after: Place,
        *,
        within: str,
        types: Collection[str] | None = None,
        children: bool = False,
    ) -> Follower:
        """Follow a session from a place on; only these types, when some are named; with its children, when asked."""
        follower: Follower
        if children:
            log = StoredLog(self._db, session_id, within)
            follower = ChildrenFollower(
                self._session(session_id, after, within),
                log.running_children,
                lambda child_id, last: self._session(child_id, Place(last), within),
                types=types,
            )
        else:
            follower = self._session(session_id, after, within)
        return follower if types is None else FilteredFollower(follower, types)

    def _session(
        self, session_id: str, after: Place | None, within: str, subscription: Subscription | None = None
    ) -> SessionFollower:
        return SessionFollower(
            self._hub,
            session_id,
            StoredLog(self._db, session_id, within),
            after=after,
            runs_here=lambda: self._runs_here(session_id),
            subscription=subscription,
        )

    def turn(self, session_id: str, turn_id: str, subscription: Subscription, *, within: str) -> TurnFollower:
        """Follow a turn that was accepted after `subscription` began."""
        follower = self._session(session_id, None, within, subscription)
        return TurnFollower(follower, session_id, turn_id)

    async def join(self, session_id: str, turn_id: str, *, within: str) -> TurnFollower:
        """Follow a turn from its first event on, whatever became of it since."""
        first = await self._db.read(first_event_of, session_id, turn_id, within=within)
        follower = self._session(session_id, Place(0 if first is None else first - 1), within)
        ended = None if first is not None else await self._ended(session_id, turn_id, within)
        return TurnFollower(follower, session_id, turn_id, ended=ended)

    async def _ended(self, session_id: str, turn_id: str, within: str) -> StreamItem | None:
        """The end of a turn whose events were pruned, as its row tells it."""
        row = await self._db.read(get_turn, turn_id, session_id=session_id, within=within)
        if row is None or row.status in UNFINISHED_STATUSES:
            return None
        event = outcome_of_row(row).event()
        return StreamItem(event.type, orjson.dumps(event.model_dump(mode="json")), turn_id=turn_id)


def _always(session_id: str) -> bool:
    return True
