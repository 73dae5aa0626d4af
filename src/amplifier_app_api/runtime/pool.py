"""The runtime of a process: sessions are opened, given messages, stopped, closed; drained at shutdown."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.stream import TurnFollower
from amplifier_app_api.models.session import Session
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.approvals import ApprovalBoard
from amplifier_app_api.runtime.budget import Budgets
from amplifier_app_api.runtime.children import Children
from amplifier_app_api.runtime.delegation_limits import DelegationLimits
from amplifier_app_api.runtime.dispatch import Dispatcher, Work
from amplifier_app_api.runtime.following import Following
from amplifier_app_api.runtime.lineage import Lineage
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.outcome import OPEN_CALL_ANSWERS, Outcome
from amplifier_app_api.runtime.recovery import Recovery
from amplifier_app_api.runtime.refusals import SessionClosed, SessionNotFound, ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.restoring import Restorer, Vault
from amplifier_app_api.runtime.running import RunningTurns
from amplifier_app_api.runtime.sending import Sender, Sent
from amplifier_app_api.runtime.session_facts import SessionFacts
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.runtime.upgrading import Upgrader
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.bundle_names import names_of
from amplifier_app_api.storage.children import delete_with_children, descendants
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.idempotency import RequestKey
from amplifier_app_api.storage.lifecycle import create_session, mark_resumed
from amplifier_app_api.storage.queue import QueueLimits
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.stopping import stop_turn, wish_to_stop
from amplifier_app_api.storage.turns import next_unfinished

__all__ = ["SessionClosed", "SessionNotFound", "SessionRuntime", "ShuttingDown", "TooManyTurns", "Vault"]


class SessionRuntime:
    """Opens sessions, runs their turns, stops and closes them. One per process.

    What changes a session runs to its end even when the caller leaves in the middle: half of it is never left.
    """

    def __init__(self, db: Database, options: RuntimeOptions, *, vault: Vault, hub: EventHub | None = None) -> None:
        self.db = db
        self.options = options
        self.hub = hub or EventHub()
        self.hub.delta_log = self.delta_log = DeltaLog(db)
        self.vault = vault
        self.approvals = ApprovalBoard(db, limit=options.approval_timeout)
        self.budgets = Budgets(options.turn_budget, options.session_budget, options.tenant_budget)
        one_process = db.dialect == "sqlite"
        self.following = Following(db, self.hub, None if one_process else self._runs_here)
        self.opener = SessionOpener(options, names_of=self._names_of)
        self.workspaces = Workspaces(options.data_dir)
        self._live = LiveSessions(size=options.live_sessions, idle_close=options.idle_close)
        self._restorer = Restorer(db, self._live, self.opener, self.workspaces, vault)
        self.turns = RunningTurns(
            db,
            self.hub,
            self._live,
            self._restorer,
            board=self.approvals,
            budgets=self.budgets,
            limit=options.max_running_turns,
            turn_seconds=options.turn_timeout.total_seconds(),
            on_end=self._turn_ended,
        )
        work = Work(room=lambda: self.turns.room, serve=self._serve, queue_left_over=self._queue_left_over)
        self.dispatcher = Dispatcher(db, work)
        self.sender = Sender(
            db,
            self.hub,
            self._live,
            self._restorer,
            self.turns,
            self.budgets,
            node_id=options.node_id,
            limits=QueueLimits(options.max_queued_turns, options.max_queued_turns_per_session),
            stop_elsewhere=self._stop_elsewhere,
            on_waiting=self.dispatcher.look,
        )
        self.recovery = Recovery(
            db,
            self._live,
            self._restorer,
            self.turns,
            node_id=options.node_id,
            publish=self.publish,
            on_end=self.dispatcher.look,
        )
        # Collaborators of a turn (what it asks people, whom it delegates to) are made here, after what they use.
        limits = DelegationLimits(
            depth=options.delegation_depth, self_depth=options.self_delegation_depth, tasks=options.delegation_tasks
        )
        self.upgrader = Upgrader(
            db,
            self._live,
            self._restorer,
            node_id=options.node_id,
            refuse_while_running=self.sender.refuse_while_running,
            publish=self.publish,
        )
        self.children = Children(self, self._live, limits)
        self._facts = SessionFacts(db, options.node_id)
        self._restorer.offers = self._offered
        self.turns.child_outcome = self.children.outcome_of_call

    def _offered(
        self, live: LiveSession, record: SessionRecord, variables: Mapping[str, str], lineage: Lineage
    ) -> dict[str, Any]:
        delegation = self.children.capabilities(live, record, variables, lineage)
        return {**self._facts.capabilities(live), **delegation}

    async def _names_of(self, tenant: str) -> Mapping[str, str]:
        return await self.db.read(names_of, within=tenant)

    @property
    def live_count(self) -> int:
        """How many sessions are in memory."""
        return len(self._live)

    @property
    def running_count(self) -> int:
        """How many turns have not ended."""
        return self.turns.count

    # Opening.

    async def create(
        self, record: SessionRecord, text: str, variables: Mapping[str, str], *, key: RequestKey | None = None
    ) -> Session:
        """Open a new session and store it, with the key of the request. A refusal stores nothing."""
        self.turns.refuse_when_draining()
        return await self._live.whole(self._create(record, text, variables, key), "create a session")

    async def _create(
        self, record: SessionRecord, text: str, variables: Mapping[str, str], key: RequestKey | None
    ) -> Session:
        session_id = record.session.session_id
        async with self._live.entry(session_id, within=record.tenant_id) as live:
            try:
                opened = await self._restorer.open_new(live, record, text, variables)
                session = record.session.model_copy(update={"degraded": list(opened.degraded)})
                notices = live.take_notices(opened.mask)
                record = replace(record, sources=dict(opened.pins))
                stored = await self.db.write(create_session, record, session=session, notices=notices, key=key)
            except BaseException:
                await self._live.shut(live)
                await self.workspaces.remove(record.tenant_id, session_id)
                raise
            self.publish(session_id, stored)
            self._live.idle(live)
        return session.model_copy(update={"last_seq": stored[-1].seq})

    async def resume(self, session_id: str, *, within: str) -> Session | None:
        """Open a session now. One that was closed or failed takes messages again."""
        self.turns.refuse_when_draining()
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

    async def upgrade(self, session_id: str, revision: int, text: str, *, within: str) -> Session | None:
        """Run a session on another revision of its Config, which has this text. A refusal changes nothing."""
        self.turns.refuse_when_draining()
        work = self.upgrader.upgrade(session_id, revision, text, within=within)
        return await self._live.whole(work, "upgrade a session")

    def seal(self, session_id: str, variables: Mapping[str, str] | None) -> str | None:
        """The variables of a new session as its row holds them."""
        return self._restorer.seal(session_id, variables)

    def seal_json(self, session_id: str, value: Any) -> str:
        """A JSON value as a row of the session may hold it."""
        return self._restorer.seal_json(session_id, value)

    # Turns.

    async def accept(self, session_id: str, incoming: Incoming, *, within: str, follow: bool = False) -> Sent:
        """Take a message: its turn runs or waits, or it is handed to the turn that runs."""
        work = self.sender.send(session_id, incoming, within=within, follow=follow)
        return await self._live.whole(work, "accept a message")

    async def stream(self, session_id: str, incoming: Incoming, *, within: str) -> tuple[Sent, TurnFollower | None]:
        """Take a message and follow its turn; no follower when it was handed to a turn that runs."""
        sent = await self.accept(session_id, incoming, within=within, follow=True)
        if sent.subscription is None:
            return sent, None
        return sent, self.following.turn(session_id, sent.turn_id, sent.subscription, within=within)

    async def begin(self, session_id: str, incoming: Incoming, *, within: str) -> Turn:
        """Accept a message and start its turn now; a session that is busy refuses it."""
        sent = await self.accept(session_id, incoming, within=within)
        if sent.turn is None:
            raise LookupError("a message that may not wait has a turn that runs")
        return sent.turn

    def running(self, turn_id: str) -> Turn | None:
        """A turn that runs in this process."""
        return self.turns.get(turn_id)

    async def outcome_of(self, session_id: str, turn_id: str, *, within: str) -> Outcome | None:
        """How a turn ends, whoever runs it; waits for that. None: it waits for a person."""
        return await self.turns.outcome_of(session_id, turn_id, within=within)

    async def cancel(self, session_id: str, *, within: str, immediate: bool = True) -> tuple[str, str] | None:
        """Stop the turn that runs, or the one that comes next. None: there is none. Else it, and its status now."""
        while True:
            live = self._live.get(session_id, within=within)
            turn = None if live is None else live.running
            turn_id = turn.turn_id if turn is not None else await self._next_unfinished(session_id, within)
            if turn_id is None:
                return None
            status = await self.cancel_turn(session_id, turn_id, within=within, immediate=immediate)
            if status is not None:
                return turn_id, status

    async def _next_unfinished(self, session_id: str, within: str) -> str | None:
        return await self.db.read(next_unfinished, session_id, within=within)

    async def cancel_turn(self, session_id: str, turn_id: str, *, within: str, immediate: bool = True) -> str | None:
        """Stop a turn wherever it is: here, on another node, or waiting. None: it has ended. Else its status now."""
        work = self._cancel_turn(session_id, turn_id, within, immediate=immediate)
        return await self._live.whole(work, "cancel a turn")

    async def _cancel_turn(self, session_id: str, turn_id: str, within: str, *, immediate: bool) -> str | None:
        turn = self.turns.get(turn_id)
        if turn is not None and not turn.gone.done():
            if not immediate:
                turn.ask_to_stop()
                # As a row, too: then it also holds when this process dies, or has lost the turn and does not know yet.
                await self.db.write(wish_to_stop, session_id, turn_id, within=within)
                return TurnStatus.RUNNING
            await turn.stop(TurnStatus.CANCELLED, StopReason.USER_CANCEL)
            if turn.outcome.done():
                return turn.outcome.result().status
        if await self.sender.end_queued(session_id, turn_id, within=within):
            self.dispatcher.look()
            return TurnStatus.CANCELLED
        if immediate:
            return await self._stop_elsewhere(session_id, turn_id, within)
        asked = await self.db.write(wish_to_stop, session_id, turn_id, within=within)
        return TurnStatus.RUNNING if asked else None

    async def _stop_elsewhere(self, session_id: str, turn_id: str, within: str) -> str | None:
        """End a turn that no task here runs; its owner is fenced by the new epoch."""
        said = OPEN_CALL_ANSWERS[TurnStatus.CANCELLED]
        stored = await self.db.write(stop_turn, session_id, turn_id, within=within, said=said)
        if stored is None:
            return None
        self.publish(session_id, stored)
        self.turns.tell(turn_id)
        self.dispatcher.look()
        return TurnStatus.CANCELLED

    async def after_look(self) -> None:
        """Rows may have changed by what other processes did: whoever waits for such a change here hears of it."""
        self.dispatcher.look()
        await self.turns.look_for_steering()
        await self.children.stop_orphans()

    def dispatch(self) -> None:
        """Begin the turns that wait: at the start of the server, and whenever another process may have left some."""
        self.dispatcher.look()

    def _turn_ended(self, live: LiveSession, steered: bool) -> None:
        if steered:
            self.dispatcher.look()  # something may be left over
        else:
            self.dispatcher.turn_ended()

    async def _queue_left_over(self, session_id: str, within: str) -> None:
        await self._live.whole(self.sender.queue_left_over(session_id, within), "queue what is left over")

    async def _serve(self, session_id: str, within: str) -> bool:
        return await self._live.whole(self.sender.serve(session_id, within), "begin a turn that waited")

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
        """Delete a session and its children; a running turn is cancelled first."""
        return await self._live.whole(self._delete(session_id, within), "delete a session")

    async def _delete(self, session_id: str, within: str) -> bool:
        # Under the lock: a message that comes now waits, and finds no session any more.
        try:
            async with self._live.entry(session_id, within=within) as live:
                await self._stop(live)
                await self.release(await self.db.read(descendants, session_id, within=within), within=within)
                await self._live.shut(live)
                deleted = await self.db.write(delete_with_children, session_id, within=within)
        except SessionNotFound:
            return False
        await self.forget_deleted([other for other in deleted if other != session_id], within=within)
        if deleted:
            await self._remove_traces(session_id, within)
        return bool(deleted)

    async def forget_deleted(self, session_ids: Sequence[str], *, within: str) -> None:
        """Let go of sessions whose rows are gone: what runs, who follows, and their folders."""
        await self.release(list(session_ids), within=within)
        for session_id in session_ids:
            await self._remove_traces(session_id, within)

    async def _remove_traces(self, session_id: str, within: str) -> None:
        self.hub.end_session(session_id)
        await self.workspaces.remove(within, session_id)

    def refuse(self) -> None:
        """Take no more messages, and begin none that wait."""
        self.turns.draining = True
        self.dispatcher.stop()
        self.turns.tell_all()

    async def drain(self, grace: timedelta) -> None:
        """Take no more messages, give running turns a moment, then leave them to the next process."""
        self.refuse()
        await self.dispatcher.close()
        outcomes = [turn.outcome for turn in self.turns.all()]
        if outcomes:
            await asyncio.wait(outcomes, timeout=grace.total_seconds())
        await self.turns.leave()

    async def close(self) -> None:
        """End everything: turns are left, kernel sessions closed, tasks awaited or cancelled."""
        await self.drain(timedelta(0))
        await self._live.close_all()
        await self.opener.close()
        await self._live.end_tasks()
        await self.approvals.close()
        await self.delta_log.close()
        self.hub.close()

    def _runs_here(self, session_id: str) -> bool:
        return self.turns.of_session(session_id) is not None

    def publish(self, session_id: str, stored: Sequence[StoredEvent]) -> None:
        """Hand committed events to whoever follows, in their place among those of a running turn."""
        self.hub.tell(session_id, stored)
