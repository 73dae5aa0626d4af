"""The runtime of a process: sessions are opened, given messages, stopped, closed; drained at shutdown."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.stream import SessionFollower, TurnFollower
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.accept import Incoming, SessionBusy, SessionMoved, accept
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import OpenedSession, SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.refusals import SessionClosed, SessionNotFound, ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.restoring import Restorer, Vault
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.bundle_names import names_of
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.lifecycle import create_session, mark_resumed
from amplifier_app_api.storage.sessions import SessionRecord, delete_session, get_session

__all__ = ["SessionClosed", "SessionNotFound", "SessionRuntime", "ShuttingDown", "TooManyTurns", "Vault"]

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a message is offered again when the session moved under it."""


class SessionRuntime:
    """Opens sessions, runs their turns, stops and closes them. One per process.

    What changes a session runs to its end even when the caller leaves in the middle: half of it is never left.
    """

    def __init__(self, db: Database, options: RuntimeOptions, *, vault: Vault, hub: EventHub | None = None) -> None:
        self.db = db
        self.options = options
        self.hub = hub or EventHub()
        self.opener = SessionOpener(options, names_of=self._names_of)
        self.workspaces = Workspaces(options.data_dir)
        self._live = LiveSessions(size=options.live_sessions, idle_close=options.idle_close)
        self._restorer = Restorer(db, self._live, self.opener, self.workspaces, vault)
        self._running: set[Turn] = set()
        self._starting = 0
        self._draining = False

    async def _names_of(self, tenant: str) -> Mapping[str, str]:
        return await self.db.read(names_of, within=tenant)

    @property
    def live_count(self) -> int:
        """How many sessions are in memory."""
        return len(self._live)

    @property
    def running_count(self) -> int:
        """How many turns have not ended."""
        return sum(not turn.outcome.done() for turn in self._running)

    # Opening.

    async def create(self, record: SessionRecord, text: str, variables: Mapping[str, str]) -> Session:
        """Open a new session and store it. A refusal stores nothing."""
        self._refuse_when_draining()
        return await self._live.whole(self._create(record, text, variables), "create a session")

    async def _create(self, record: SessionRecord, text: str, variables: Mapping[str, str]) -> Session:
        session_id = record.session.session_id
        async with self._live.entry(session_id, within=record.tenant_id) as live:
            try:
                opened = await self._restorer.open_new(live, record, text, variables)
                session = record.session.model_copy(update={"degraded": list(opened.degraded)})
                notices = live.take_notices(opened.mask)
                record = replace(record, sources=opened.prepared.pins())
                stored = await self.db.write(create_session, record, session=session, notices=notices)
            except BaseException:
                await self._live.shut(live)
                await self.workspaces.remove(record.tenant_id, session_id)
                raise
            self.publish(session_id, stored)
            self._live.idle(live)
        return session.model_copy(update={"last_seq": stored[-1].seq})

    async def resume(self, session_id: str, *, within: str) -> Session | None:
        """Open a session now. One that was closed or failed takes messages again."""
        self._refuse_when_draining()
        if await self.db.read(get_session, session_id, within=within) is None:
            return None
        return await self._live.whole(self._resume(session_id, within), "resume a session")

    async def _resume(self, session_id: str, within: str) -> Session | None:
        async with self._live.entry(session_id, within=within) as live:
            record = await self.db.read(get_session, session_id, within=within)
            if record is None:
                await self._live.shut(live)
                return None
            if live.opened is None:
                await self._restorer.reopen(live, record)
            session, stored = await self.db.write(mark_resumed, session_id, within=within)
            self.publish(session_id, stored)
            if live.running is None:
                self._live.idle(live)
            return session

    def seal(self, session_id: str, variables: Mapping[str, str] | None) -> str | None:
        """The variables of a new session as its row holds them."""
        return self._restorer.seal(session_id, variables)

    # Turns.

    async def send(self, session_id: str, incoming: Incoming, *, within: str) -> Turn:
        """Accept a message and start its turn."""
        work = self._send(session_id, incoming, within=within, follow=False)
        turn, _ = await self._live.whole(work, "accept a message")
        return turn

    async def stream(self, session_id: str, incoming: Incoming, *, within: str) -> TurnFollower:
        """Accept a message, start its turn and follow it."""
        work = self._send(session_id, incoming, within=within, follow=True)
        _, follower = await self._live.whole(work, "accept a message")
        if follower is None:
            raise LookupError("a followed turn has a follower")
        return follower

    async def _send(
        self, session_id: str, incoming: Incoming, *, within: str, follow: bool
    ) -> tuple[Turn, TurnFollower | None]:
        for _ in range(ATTEMPTS):
            self._refuse_when_draining()
            async with self._live.entry(session_id, within=within) as live:
                await self._free(live)
                try:
                    if live.opened is None:
                        record = await self._open_record(session_id, within)
                        await self._restorer.reopen(live, record)
                    return await self._start(live, incoming, follow=follow)
                except SessionMoved:
                    await self._live.shut(live)
                    await self._open_record(session_id, within)
                except BaseException:
                    self._live.idle(live)
                    raise
        raise SessionBusy("the session is in use elsewhere", facts={"turn_id": None})

    async def _open_record(self, session_id: str, within: str) -> SessionRecord:
        record = await self.db.read(get_session, session_id, within=within)
        if record is None:
            raise SessionNotFound(session_id)
        status = record.session.status
        if status is not SessionStatus.ACTIVE:
            raise SessionClosed(f"the session is {status}; resume it first", facts={"session_status": status.value})
        return record

    async def _free(self, live: LiveSession) -> None:
        """Refuse when a turn runs; tidy up after one that has just ended."""
        turn = live.turn
        if turn is None:
            return
        if not turn.recorder.over:
            raise SessionBusy("the session is running a turn", facts={"turn_id": turn.turn_id})
        # Its end is committed and followers know it; the rest of its bookkeeping is a moment away.
        await asyncio.wait({turn.outcome})
        if turn.clean and live.runner is not None:
            await asyncio.wait({live.runner})
        else:
            live.opened = None  # the runner closes the kernel session when its loop lets go
        live.turn = None

    async def _start(self, live: LiveSession, incoming: Incoming, *, follow: bool) -> tuple[Turn, TurnFollower | None]:
        opened = live.opened
        if opened is None:
            raise SessionMoved
        self._refuse_when_draining()
        if self.running_count + self._starting >= self.options.max_running_turns:
            raise TooManyTurns("this server runs as many turns as it may", headers={"Retry-After": "1"})
        live.awake()
        subscription = self.hub.subscribe(live.session_id) if follow else None
        notices = live.take_notices(opened.mask)
        self._starting += 1
        try:
            accepted, stored = await accept(
                self.db,
                incoming,
                tenant_id=live.tenant_id,
                session_id=live.session_id,
                expected_position=live.position,
                notices=notices,
            )
        except BaseException:
            live.notices.extendleft(reversed(notices))
            if subscription is not None:
                subscription.leave()
            raise
        finally:
            self._starting -= 1
        limit = self.options.turn_timeout.total_seconds()
        seal = partial(self._restorer.seal_json, live.session_id)
        turn = Turn(accepted, opened.kernel, self.db, self.hub, mask=opened.mask, seal=seal, limit=limit)
        live.turn = turn
        self._running.add(turn)
        turn.outcome.add_done_callback(lambda _: self._running.discard(turn))
        self.publish(live.session_id, stored)
        live.runner = self._live.own(self._run(live, turn, opened), f"turn {turn.turn_id}")
        if self._draining:  # it was accepted while the server began to stop
            await turn.stop(TurnStatus.INTERRUPTED, StopReason.SHUTDOWN)
        if subscription is None:
            return turn, None
        # Everything the turn says is there when its outcome is: nobody waits for more, whoever forgot to leave.
        turn.outcome.add_done_callback(lambda _: subscription.leave())
        return turn, TurnFollower(subscription, live.session_id, turn.turn_id)

    async def _run(self, live: LiveSession, turn: Turn, opened: OpenedSession) -> None:
        await turn.run()
        if turn.clean and not live.gone and live.opened is opened:
            live.position = turn.recorder.last_position
            live.turn = None
            self._live.idle(live)
            return
        # Rows are the truth: what did not end in its own way is opened again from them.
        if live.opened is opened:
            live.opened = None
            live.turn = None
            if not live.lock.locked():
                self._live.forget(live)
        await opened.kernel.close()

    async def cancel(self, session_id: str, *, within: str, immediate: bool = True) -> tuple[str, str] | None:
        """Stop the running turn. None: nothing runs. Else the turn and the status it has now."""
        live = self._live.get(session_id, within=within)
        turn = None if live is None else live.running
        if turn is None:
            return None
        if immediate:
            await turn.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)
            return turn.turn_id, turn.outcome.result().status
        turn.ask_to_stop()
        return turn.turn_id, TurnStatus.RUNNING

    # Letting go.

    async def release(self, session_ids: list[str], *, within: str) -> None:
        """Stop and close sessions that are about to be deleted."""
        for session_id in session_ids:
            if (live := self._live.get(session_id, within=within)) is not None:
                await self._live.whole(self._release(live), "release a session")

    async def _release(self, live: LiveSession) -> None:
        async with live.lock:
            await self._stop(live)
            await self._live.close(live)

    async def _stop(self, live: LiveSession) -> None:
        if live.running is not None:
            await live.running.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)

    async def delete(self, session_id: str, *, within: str) -> bool:
        """Delete a session; a running turn is cancelled first."""
        return await self._live.whole(self._delete(session_id, within), "delete a session")

    async def _delete(self, session_id: str, within: str) -> bool:
        # Under the lock: a message that comes now waits, and finds no session any more.
        try:
            async with self._live.entry(session_id, within=within) as live:
                await self._stop(live)
                await self._live.shut(live)
                deleted = await self.db.write(delete_session, session_id, within=within)
        except SessionNotFound:
            return False
        if deleted:
            await self._remove_traces(session_id, within)
        return deleted

    async def forget_deleted(self, session_ids: Sequence[str], *, within: str) -> None:
        """Let go of sessions whose rows are gone: what runs, who follows, and their folders."""
        await self.release(list(session_ids), within=within)
        for session_id in session_ids:
            await self._remove_traces(session_id, within)

    async def _remove_traces(self, session_id: str, within: str) -> None:
        self.hub.end_session(session_id)
        await self.workspaces.remove(within, session_id)

    def refuse(self) -> None:
        """Take no more messages."""
        self._draining = True

    async def drain(self, grace: timedelta) -> None:
        """Take no more messages, give running turns a moment, then interrupt them."""
        self.refuse()
        outcomes = [turn.outcome for turn in self._running]
        if outcomes:
            await asyncio.wait(outcomes, timeout=grace.total_seconds())
        await asyncio.gather(
            *(turn.stop(TurnStatus.INTERRUPTED, StopReason.SHUTDOWN) for turn in list(self._running)),
            return_exceptions=True,
        )

    async def close(self) -> None:
        """End everything: turns are interrupted, kernel sessions closed, tasks awaited or cancelled."""
        await self.drain(timedelta(0))
        await self._live.close_all()
        await self.opener.close()
        await self._live.end_tasks()
        self.hub.close()

    # Following.

    def follow(self, session_id: str, *, after: int, within: str) -> SessionFollower:
        """Follow a session from an event number on."""

        async def read(last: int, limit: int) -> list[StoredEvent]:
            return await self.db.read(events_after, session_id, last, limit=limit, within=within)

        return SessionFollower(self.hub, session_id, read, after=after)

    def publish(self, session_id: str, stored: Sequence[StoredEvent]) -> None:
        """Hand committed events to whoever follows."""
        self.hub.publish(session_id, (StreamItem.of_event(event) for event in stored))

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise ShuttingDown("the server is shutting down", headers={"Retry-After": "5"})
