"""Delegation: `session.spawn` and `session.resume`, which modules find at every session.

A child is a session like any other: a row, messages, events, turns that survive whatever a turn survives. What makes
it a child is that a tool call of its parent waits for its turn, and that its plan is its parent's with an agent laid
over it (`Lineage`). It works in its parent's folder, with its parent's variables, on its parent's revision.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.bundles.delegation import child_session_id
from amplifier_app_api.bundles.mentions import expand_mentions
from amplifier_app_api.models.fields import MAX_MESSAGE, made_storable
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.runtime import delegated
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.delegated import DelegatedTask, DelegationFailed, answer_of
from amplifier_app_api.runtime.delegation_limits import DelegationLimits, DelegationRefused
from amplifier_app_api.runtime.kernel.proxies import current_call
from amplifier_app_api.runtime.kernel.tap import Recalled
from amplifier_app_api.runtime.layering import Delegated, layer_of
from amplifier_app_api.runtime.lineage import Layer, Lineage
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import OpenedSession, SessionOpener
from amplifier_app_api.runtime.turn import Turn
from amplifier_app_api.runtime.turn_children import ChildInTurn
from amplifier_app_api.runtime.units import Effect, TurnKey
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.children import ChildTurn, bind_to_call, child_of, orphaned_turns, turns_of_call
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import get_revision
from amplifier_app_api.storage.lifecycle import ParentGone
from amplifier_app_api.storage.sessions import SessionRecord

T = TypeVar("T")

MAX_EXTERNAL_ID = 512


class UnknownChild(FileNotFoundError):
    """The session has no child with this id. The sentence is for the model that wants to go on with it."""

    def __str__(self) -> str:
        return str(self.args[0])


class Runtime(delegated.Runtime, Protocol):
    """What delegation needs of the runtime it is part of."""

    @property
    def opener(self) -> SessionOpener:
        """Prepares what sessions are opened from."""
        ...

    @property
    def workspaces(self) -> Workspaces:
        """Where sessions work."""
        ...

    async def create(self, record: SessionRecord, text: str, variables: Mapping[str, str]) -> Session:
        """Open a new session and store it."""
        ...

    async def begin(self, session_id: str, incoming: Incoming, *, within: str) -> Turn:
        """Accept a message and start its turn now; a session that is busy refuses it."""
        ...

    async def cancel(self, session_id: str, *, within: str, immediate: bool = True) -> tuple[str, str] | None:
        """Stop the running turn."""
        ...

    def seal_json(self, session_id: str, value: Any) -> str:
        """A JSON value as a row of the session may hold it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Incoming):
    """What a child is told to do, for a tool call of its parent. `expanded` has the files it mentions in front."""

    expanded: str
    for_turn: Turn
    call_id: str | None

    @property
    def prompt(self) -> str:
        """What the loop is given."""
        return self.expanded

    @property
    def parent(self) -> Turn:
        """The turn that this one works for."""
        return self.for_turn

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The turn says which call waits for it: that is how its outcome is found again after a restart."""
        parent, call_id = self.for_turn.turn_id, self.call_id

        def bind(conn: Connection, key: TurnKey) -> None:
            bind_to_call(conn, key.turn_id, parent_turn_id=parent, parent_call_id=call_id)

        return (bind,)


class Children:
    """Delegation for every session of a process."""

    def __init__(self, runtime: Runtime, live: LiveSessions, limits: DelegationLimits) -> None:
        self.runtime = runtime
        self.live = live
        self.limits = limits

    def capabilities(
        self, live: LiveSession, record: SessionRecord, variables: Mapping[str, str], lineage: Lineage
    ) -> dict[str, Any]:
        """What modules of a session find at their coordinator."""
        delegation = Delegation(self, live, record, variables)
        offered: dict[str, Any] = {"session.spawn": delegation.spawn, "session.resume": delegation.resume}
        return {**offered, "self_delegation_depth": lineage.self_depth} if lineage.layers else offered

    async def outcome_of_call(self, turn: Turn, call_id: str, *, within: str) -> Recalled | None:
        """What a call came to that was delegating when its process ended. None: it had not begun to.

        Waits for the child's turn, which is recovered as any turn is.
        """
        found = await self.runtime.db.read(turns_of_call, turn.turn_id, call_id, within=within)
        if not found:
            return None
        if len(found) == 1:
            return await self._recalled(turn, found[0])
        said = [await self._recalled(turn, one) for one in found]
        answers = "\n\n".join(f"{child.agent}: {one.text}" for child, one in zip(found, said, strict=True))
        return Recalled.failure(
            "The server stopped while this call was delegating several tasks; whether it was done is not known. What "
            f"its agents said:\n\n{answers}"
        )

    async def _recalled(self, parent: Turn, found: ChildTurn) -> Recalled:
        child = ChildInTurn(found.session_id, found.external_id, found.agent)
        task = DelegatedTask(parent, child, self.runtime, self.live)
        work = self.live.own(task.adopt(found), f"wait for {found.turn_id}")
        try:
            outcome = await self.carried_out(parent, task, work)
            answer = answer_of(child, outcome, {})
        except DelegationFailed as failed:
            return Recalled.failure(str(failed))
        output = {
            "response": answer["output"],
            "session_id": child.external_id,
            "agent": child.agent,
            "turn_count": answer["turn_count"],
            "status": answer["status"],
            "metadata": answer["metadata"],
        }
        return Recalled({"result": {"success": True, "output": output}})

    async def carried_out(self, parent: Turn, task: DelegatedTask, work: "asyncio.Task[T]") -> T:
        """Wait for a task; whoever leaves, and a parent that ends, leaves it to be stopped."""
        work.add_done_callback(_looked_at)
        parent.outcome.add_done_callback(task.leave)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            task.leave()
            raise
        finally:
            if work.done():
                parent.outcome.remove_done_callback(task.leave)

    async def stop_orphans(self) -> None:
        """Stop the turns of children that nobody waits for: the turn that asked for them has ended."""
        for turn in await self.runtime.db.read(orphaned_turns):
            await self.runtime.cancel(turn.session_id, within=turn.tenant_id)


def _looked_at(work: "asyncio.Task[Any]") -> None:
    if not work.cancelled():
        work.exception()


class Delegation:
    """What the modules of one session may ask for. `variables` are those given with it."""

    def __init__(
        self, children: Children, live: LiveSession, record: SessionRecord, variables: Mapping[str, str]
    ) -> None:
        self._children = children
        self._live = live
        self._record = record
        self._variables = variables

    async def spawn(
        self,
        agent_name: str,
        instruction: str,
        parent_session: Any = None,
        agent_configs: Mapping[str, Any] | None = None,
        sub_session_id: str | None = None,
        tool_inheritance: Mapping[str, Any] | None = None,
        hook_inheritance: Mapping[str, Any] | None = None,
        orchestrator_config: Mapping[str, Any] | None = None,
        provider_preferences: Any = None,
        self_delegation_depth: int = 0,
        session_metadata: Mapping[str, Any] | None = None,
        **further: Any,
    ) -> dict[str, Any]:
        """Give a task to a new child: `{output, session_id, status, turn_count, metadata}`.

        `UnknownAgent` and `DelegationRefused` before anything has happened, `DelegationFailed` when the child's turn
        fails. The parent is this session, whatever `parent_session` is; what else modules say is not understood.
        """
        parent, opened = self._at_work()
        asked = Delegated(
            agent=agent_name,
            agents=agent_configs,
            tools=tool_inheritance or {},
            hooks=hook_inheritance or {},
            orchestrator=orchestrator_config or {},
            preferences=tuple(provider_preferences or ()),
            self_depth=self_delegation_depth,
            metadata=session_metadata or {},
        )
        lineage = opened.lineage.below(await self._layer(asked, opened))
        self._children.limits.refuse_too_deep(self._record.depth + 1, lineage.self_depth)
        external_id = _identifier(sub_session_id) or child_session_id(
            agent_name, parent_session_id=self._record.session.external_id or ""
        )
        child = ChildInTurn(str(uuid.uuid4()), external_id, made_storable(agent_name))
        task = await self._task(parent, opened, instruction, lineage)

        async def create() -> None:
            await self._create(child, parent, lineage, task.call_id)

        return await self._delegated(parent, child, task, create)

    async def resume(self, sub_session_id: str, instruction: str, **further: Any) -> dict[str, Any]:
        """Give a further task to a child of this session: what `spawn` gives. `UnknownChild` when it has none such."""
        parent, opened = self._at_work()
        record = await self._children.runtime.db.read(
            child_of, self._record.session.session_id, _identifier(sub_session_id), within=self._record.tenant_id
        )
        if record is None:
            raise UnknownChild(f"There is no agent session {sub_session_id!r} of this session.")
        session = record.session
        child = ChildInTurn(session.session_id, session.external_id or "", session.agent or "")
        task = await self._task(parent, opened, instruction, opened.lineage)
        return await self._delegated(parent, child, task, None)

    def _at_work(self) -> tuple[Turn, OpenedSession]:
        """The turn that delegates."""
        turn, opened = self._live.running, self._live.opened
        if turn is None or opened is None or turn.recorder.sealed:
            raise DelegationRefused("A task can be delegated only while a turn runs.")
        if turn.tap.stopping:
            raise DelegationRefused("The turn is being stopped.")
        return turn, opened

    async def _layer(self, asked: Delegated, opened: OpenedSession) -> Layer:
        opener = self._children.runtime.opener
        sources = await opener.sources_of(self._record.tenant_id, opened.pins)
        return await layer_of(asked, opened, opener.scope(self._variables), sources)

    async def _task(self, parent: Turn, opened: OpenedSession, instruction: str, lineage: Lineage) -> Task:
        text = made_storable(str(instruction))
        if not text.strip() or len(text) > MAX_MESSAGE:
            raise DelegationRefused(f"A task has between 1 and {MAX_MESSAGE} characters.")
        prompt = lineage.prompt(opened.prepared.prompt)
        folder = await self._children.runtime.workspaces.make(self._record.tenant_id, self._working_dir)
        expanded = await asyncio.to_thread(expand_mentions, text, prompt.scope_in(Path(folder)))
        call = current_call.get()
        call_id = None if call is None else call.call_id
        return Task(content=text, expanded=made_storable(expanded.text), for_turn=parent, call_id=call_id)

    @property
    def _working_dir(self) -> str:
        return self._record.working_dir or self._record.session.session_id

    async def _create(self, child: ChildInTurn, parent: Turn, lineage: Lineage, call_id: str | None) -> None:
        runtime, above = self._children.runtime, self._record
        now = utc_now()
        session = Session(
            session_id=child.child_id,
            config_id=above.session.config_id,
            revision=above.session.revision,
            status=SessionStatus.ACTIVE,
            parent_id=above.session.session_id,
            external_id=child.external_id,
            agent=child.agent,
            created_at=now,
            updated_at=now,
        )
        record = SessionRecord(
            session=session,
            tenant_id=above.tenant_id,
            variables=runtime.seal_json(child.child_id, self._variables) if self._variables else None,
            working_dir=self._working_dir,
            allow_missing=above.allow_missing,
            epoch=1,
            depth=above.depth + 1,
            spawn=runtime.seal_json(child.child_id, lineage.as_json()),
            parent_turn_id=parent.turn_id,
            parent_call_id=call_id,
            sources=dict(self._live.opened.pins if self._live.opened is not None else above.sources),
        )
        revision = await runtime.db.read(get_revision, session.config_id, session.revision, within=above.tenant_id)
        if revision is None:
            raise DelegationRefused("The config of this session is gone.")
        try:
            await runtime.create(record, revision.yaml_content, self._variables)
        except ParentGone:
            raise DelegationRefused("The session that delegates is gone.") from None
        except IntegrityError:
            raise DelegationRefused(f"This session has an agent session {child.external_id!r} already.") from None

    async def _delegated(
        self, parent: Turn, child: ChildInTurn, task: Task, create: Callable[[], Awaitable[None]] | None
    ) -> dict[str, Any]:
        children = self._children
        children.limits.take(parent)

        async def start() -> Turn:
            turn = await children.runtime.begin(child.child_id, task, within=self._record.tenant_id)
            children.limits.begin(parent, turn)
            return turn

        delegated = DelegatedTask(parent, child, children.runtime, children.live)
        work = children.live.own(delegated.run(start, announce=create), f"delegation to {child.child_id}")
        return await children.carried_out(parent, delegated, work)


def _identifier(given: Any) -> str:
    return made_storable(str(given or ""))[:MAX_EXTERNAL_ID]
