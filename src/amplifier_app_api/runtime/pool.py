"""The live sessions of this process: opened once, bounded, closed when idle, drained at shutdown."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from amplifier_app_api.errors import AppError, Conflict, NotFound, TooMany, Unavailable
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.stream import SessionFollower, TurnFollower
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.accept import Incoming, SessionBusy, SessionMoved, accept
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.opening import OpenedSession, OpenRequest, SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.configs import get_revision
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.lifecycle import create_session, mark_failed, mark_resumed
from amplifier_app_api.storage.messages import kernel_transcript
from amplifier_app_api.storage.sessions import SessionRecord, delete_session, get_session

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a message is offered again when the session moved under it."""


class SessionNotFound(NotFound):
    """The tenant has no such session."""

    code = "session_not_found"
    title = "Session not found"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session not found: {session_id}")


class SessionClosed(Conflict):
    """The session takes no messages until it is resumed."""

    code = "session_closed"
    title = "The session is closed"


class TooManyTurns(TooMany):
    """This server runs as many turns, or holds as many sessions, as it may."""

    code = "too_many_turns"
    title = "Too many turns"


class ShuttingDown(Unavailable):
    """The server is about to stop."""

    code = "shutting_down"
    title = "Shutting down"


class Vault(Protocol):
    """Seals the variables of a session for its row, and opens them again."""

    def seal(self, session_id: str, variables: Mapping[str, str]) -> str:
        """The text that the row holds."""
        ...

    def unseal(self, session_id: str, sealed: str) -> Mapping[str, str]:
        """The variables again. Raises an `AppError` when they cannot be read."""
        ...


class SessionRuntime:
    """Opens sessions, runs their turns, stops and closes them. One per process."""

    def __init__(self, db: Database, options: RuntimeOptions, *, vault: Vault, hub: EventHub | None = None) -> None:
        self.db = db
        self.options = options
        self.hub = hub or EventHub()
        self.opener = SessionOpener(options)
        self.workspaces = Workspaces(options.data_dir)
        self._vault = vault
        self._live: OrderedDict[str, LiveSession] = OrderedDict()
        self._running: set[Turn] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

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
        session_id = record.session.session_id
        async with self._entry(session_id, record.tenant_id) as live:
            try:
                opened = await self._open(live, record, text, variables, [])
                session = record.session.model_copy(update={"degraded": list(opened.degraded)})
                stored = await self.db.write(create_session, record, session=session, notices=live.take_notices())
            except BaseException:
                await self._close(live)
                await self.workspaces.remove(record.tenant_id, session_id)
                raise
            self.publish(session_id, stored)
            self._idle(live)
        return session.model_copy(update={"last_seq": stored[-1].seq})

    async def resume(self, session_id: str, *, within: str) -> Session | None:
        """Open a session now. One that was closed or failed takes messages again."""
        self._refuse_when_draining()
        if await self.db.read(get_session, session_id, within=within) is None:
            return None
        async with self._entry(session_id, within) as live:
            record = await self.db.read(get_session, session_id, within=within)
            if record is None:
                self._forget(live)
                return None
            if live.opened is None:
                await self._reopen(live, record)
            session, stored = await self.db.write(mark_resumed, session_id, within=within)
            self.publish(session_id, stored)
            self._idle(live)
            return session

    async def _reopen(self, live: LiveSession, record: SessionRecord) -> OpenedSession:
        """Open a stored session from its rows; the session is `failed` when that is refused."""
        session = record.session
        revision = await self.db.read(get_revision, session.config_id, session.revision, within=record.tenant_id)
        position, messages = await self.db.read(kernel_transcript, session.session_id, within=record.tenant_id)
        if revision is None:
            raise SessionNotFound(session.session_id)
        try:
            live.position = position
            return await self._open(live, record, revision.yaml_content, self._variables(record), messages)
        except AppError as refusal:
            await self._close(live)
            if refusal.status < 500 or refusal.code in ("module_failed", "prepare_timeout"):
                error = {"code": refusal.code, "detail": refusal.detail}
                await self.db.write(mark_failed, session.session_id, error, within=record.tenant_id)
            raise

    def seal(self, session_id: str, variables: Mapping[str, str] | None) -> str | None:
        """The variables of a new session as its row holds them."""
        return self._vault.seal(session_id, variables) if variables else None

    def _variables(self, record: SessionRecord) -> Mapping[str, str]:
        return {} if record.variables is None else self._vault.unseal(record.session.session_id, record.variables)

    async def _open(
        self,
        live: LiveSession,
        record: SessionRecord,
        text: str,
        variables: Mapping[str, str],
        messages: list[dict[str, Any]],
    ) -> OpenedSession:
        await self._make_room(live)
        session = record.session
        request = OpenRequest(
            tenant_id=record.tenant_id,
            session_id=session.session_id,
            text=text,
            working_dir=await self.workspaces.make(record.tenant_id, record.working_dir or session.session_id),
            variables=variables,
            messages=messages,
            parent_id=session.parent_id,
            allow_missing=record.allow_missing,
        )
        live.opened = await self.opener.open(request, live)
        for module in live.opened.degraded:
            live.notice("warning", f"{module.module} is not available: {module.detail}", "session")
        return live.opened

    async def _make_room(self, live: LiveSession) -> None:
        """Close what was used longest ago while there are too many."""
        while len(self._live) > self.options.live_sessions:
            oldest = next((other for other in self._live.values() if other is not live and other.evictable), None)
            if oldest is None:
                raise TooManyTurns("this server holds as many sessions as it may; all of them are busy")
            async with oldest.lock:
                await self._close(oldest)

    # Turns.

    async def send(self, session_id: str, incoming: Incoming, *, within: str) -> Turn:
        """Accept a message and start its turn."""
        turn, follower = await self._send(session_id, incoming, within=within, follow=False)
        del follower
        return turn

    async def stream(self, session_id: str, incoming: Incoming, *, within: str) -> TurnFollower:
        """Accept a message, start its turn and follow it."""
        _, follower = await self._send(session_id, incoming, within=within, follow=True)
        if follower is None:
            raise LookupError("a followed turn has a follower")
        return follower

    async def _send(
        self, session_id: str, incoming: Incoming, *, within: str, follow: bool
    ) -> tuple[Turn, TurnFollower | None]:
        for _ in range(ATTEMPTS):
            self._refuse_when_draining()
            async with self._entry(session_id, within) as live:
                await self._free(live)
                record = None if live.opened else await self.db.read(get_session, session_id, within=within)
                try:
                    if live.opened is None:
                        _require_open(record, session_id)
                        if record is not None:
                            await self._reopen(live, record)
                    return await self._start(live, incoming, follow=follow)
                except SessionMoved:
                    await self._close(live)
                    _require_open(await self.db.read(get_session, session_id, within=within), session_id)
                except BaseException:
                    if live.opened is None:
                        self._forget(live)
                    else:
                        self._idle(live)
                    raise
        raise SessionBusy("the session is in use elsewhere", facts={"turn_id": None})

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
        if self.running_count >= self.options.max_running_turns:
            raise TooManyTurns("this server runs as many turns as it may", headers={"Retry-After": "1"})
        live.awake()
        subscription = self.hub.subscribe(live.session_id) if follow else None
        notices = live.take_notices()
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
            live.notices[:0] = notices
            if subscription is not None:
                subscription.leave()
            raise
        limit = self.options.turn_timeout.total_seconds()
        turn = Turn(accepted, opened.kernel, self.db, self.hub, opened.mask, limit)
        live.turn = turn
        self._running.add(turn)
        turn.outcome.add_done_callback(lambda _: self._running.discard(turn))
        self.publish(live.session_id, stored)
        live.runner = self._own(self._run(live, turn, opened), f"turn {turn.turn_id}")
        follower = None if subscription is None else TurnFollower(subscription, live.session_id, turn.turn_id)
        return turn, follower

    async def _run(self, live: LiveSession, turn: Turn, opened: OpenedSession) -> None:
        await turn.run()
        if turn.clean and not live.gone and live.opened is opened:
            live.position = turn.recorder.last_position
            self._idle(live)
            return
        # Rows are the truth: what did not end in its own way is opened again from them.
        if live.opened is opened:
            live.opened = None
            live.turn = None
            if not live.lock.locked():
                self._forget(live)
        await opened.kernel.close()

    async def cancel(self, session_id: str, *, within: str, immediate: bool = True) -> tuple[str, str] | None:
        """Stop the running turn. None: nothing runs. Else the turn and the status it has now."""
        live = self._live.get(session_id)
        turn = live.running if live is not None and live.tenant_id == within else None
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
            live = self._live.get(session_id)
            if live is None or live.tenant_id != within:
                continue
            if live.running is not None:
                await live.running.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)
            async with live.lock:
                await self._close(live)

    async def delete(self, session_id: str, *, within: str) -> bool:
        """Delete a session; a running turn is cancelled first."""
        await self.release([session_id], within=within)
        deleted = await self.db.write(delete_session, session_id, within=within)
        if deleted:
            self.hub.end_session(session_id)
            await self.workspaces.remove(within, session_id)
        return deleted

    async def _close(self, live: LiveSession) -> None:
        """Let go of a session; its lock is held."""
        opened, live.opened = live.opened, None
        self._forget(live)
        if opened is not None and (live.runner is None or live.runner.done()):
            await opened.kernel.close()

    def _forget(self, live: LiveSession) -> None:
        live.awake()
        live.gone = True
        if self._live.get(live.session_id) is live:
            del self._live[live.session_id]

    def _idle(self, live: LiveSession) -> None:
        live.awake()
        if live.gone or live.opened is None:
            return
        self._live.move_to_end(live.session_id)
        delay = self.options.idle_close.total_seconds()
        live.idle_timer = asyncio.get_running_loop().call_later(delay, self._close_idle, live)

    def _close_idle(self, live: LiveSession) -> None:
        if live.evictable and not live.gone:
            self._own(self._close_when_idle(live), f"close idle session {live.session_id}")

    async def _close_when_idle(self, live: LiveSession) -> None:
        async with live.lock:
            if live.running is None and not live.gone:
                await self._close(live)

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
        for live in list(self._live.values()):
            async with live.lock:
                await self._close(live)
        await self.opener.close()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=1.0)
            for task in late:
                logger.warning("a task did not end in time", extra={"task": task.get_name()})
                task.cancel()
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

    # Plumbing.

    @asynccontextmanager
    async def _entry(self, session_id: str, tenant_id: str) -> AsyncGenerator[LiveSession]:
        """The live session, locked. One that the pool let go of in between is not used."""
        while True:
            live = self._live.get(session_id)
            if live is None:
                live = self._live[session_id] = LiveSession(session_id, tenant_id)
            elif live.tenant_id != tenant_id:
                raise SessionNotFound(session_id)
            async with live.lock:
                if live.gone:
                    continue
                try:
                    yield live
                finally:
                    if live.opened is None and live.running is None:
                        self._forget(live)
                return

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise ShuttingDown("the server is shutting down", headers={"Retry-After": "5"})


def _require_open(record: SessionRecord | None, session_id: str) -> None:
    if record is None:
        raise SessionNotFound(session_id)
    status = record.session.status
    if status is not SessionStatus.ACTIVE:
        raise SessionClosed(f"the session is {status}; resume it first", facts={"session_status": status.value})
