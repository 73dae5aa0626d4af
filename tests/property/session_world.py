"""Processes that die, on a database that stays.

A process is a runtime with everything that a server has around it, in the loop of the test. It dies as a process does
that is killed: from one moment on none of its tasks does anything, and nothing of it reaches the database. It can be
doomed to die at a write to come, before or right after the commit.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from amplifier_app_api.cluster.node import NodeWatch
from amplifier_app_api.cluster.supervisor import Supervisor
from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.core.idempotency import IdempotencyKeys
from amplifier_app_api.core.session_copies import SessionCopies
from amplifier_app_api.core.session_manager import open_runtime
from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.nodes import NodeIdentity, SeenNode
from property.puppets import ACTOR, Stage
from runtime_bundles import MODULES

T = TypeVar("T")

NEVER = timedelta(hours=1)
QUIET_MOMENTS = 3
MOMENT_SECONDS = 0.001
PATIENCE_SECONDS = 20


class Unanswered(Exception):
    """The process died before it had answered: nobody knows what became of the request."""


class MortalDatabase(Database):
    """The database as one process reaches it."""

    def __init__(self, database: Database, process: "Process") -> None:
        self.url, self.dialect, self.path = database.url, database.dialect, database.path
        self._engine = database._engine
        self._process = process

    async def write(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        process = self._process
        process.gate()
        dies = process.writes_left == 0
        if process.writes_left is not None:
            process.writes_left -= 1
        if dies and not process.dies_after_commit:
            process.die()
        process.gate()
        result = await self._watched(super().write(fn, *args, **kwargs))
        if dies:
            process.die()
        process.gate()
        return result

    async def read(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        self._process.gate()
        result = await self._watched(super().read(fn, *args, **kwargs))
        self._process.gate()
        return result

    async def _watched(self, work: Coroutine[Any, Any, T]) -> T:
        world = self._process.world
        world.on_its_way()
        try:
            return await work
        finally:
            world.arrived()


class Watch(NodeWatch):
    """Knows who lives because the world does."""

    def __init__(self, me: NodeIdentity, world: "World") -> None:
        super().__init__(me, alone=False, dead_after=NEVER)
        self._world = world

    def lives(self, seen: SeenNode) -> bool:
        return seen.identity.node_id in self._world.nodes_alive

    def has_exited(self, other: NodeIdentity) -> bool:
        return other.node_id not in self._world.nodes_alive


class Process:
    """A server without its HTTP. `writes_left` is how many writes it lives for, once it is doomed."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.node_id = str(uuid.uuid4())
        self.dead = False
        self.died = asyncio.Event()
        self.writes_left: int | None = None
        self.dies_after_commit = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self._context = copy_context()
        self._context.run(ACTOR.set, self)
        self._context.run(self._make)

    def _make(self) -> None:
        db = MortalDatabase(self.world.db, self)
        self.runtime = open_runtime(db, self.world.options(self.node_id))
        # The test says itself when pieces of answers become rows: else the clock would choose.
        self.runtime.hub.delta_log = self.runtime.delta_log = DeltaLog(db, NEVER)
        self.sessions = SessionManager(db, runtime=self.runtime).scoped(self.world.principal)
        self.approvals = ApprovalManager(db, board=self.runtime.approvals).scoped(self.world.principal)
        self.keys = IdempotencyKeys(db)
        self.configs = ConfigManager(db).scoped(self.world.principal)
        self.copies = SessionCopies(db, self.runtime, self.configs).scoped(self.world.principal)
        me = NodeIdentity(self.node_id, "here", 1, "now")
        self.supervisor = Supervisor(
            db,
            Watch(me, self.world),
            self.runtime.recovery,
            every=NEVER,
            dead_after=3 * NEVER,
            after_look=self.runtime.after_look,
        )

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done in this process. `Unanswered`: it died meanwhile."""
        task = self._context.run(asyncio.get_running_loop().create_task, work)
        death = asyncio.create_task(self.died.wait())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
        if self.dead and (not task.done() or task.cancelled()):
            raise Unanswered
        return task.result()

    async def start(self) -> None:
        """Become known, and take over what was left."""
        await self.ask(self.supervisor.start())

    async def look(self) -> None:
        """Do what every heartbeat does."""
        await self.ask(self.supervisor._look())

    async def stop(self) -> None:
        """End as a server does that is told to stop."""
        await self.ask(self._stopped())
        self.world.gone(self)

    async def _stopped(self) -> None:
        await self.supervisor.stop()
        await self.runtime.close()
        await self.supervisor.leave()

    def doom(self, writes: int, *, after_commit: bool) -> None:
        """Let it die at a write to come: after so many others, before it or right after its commit."""
        self.writes_left, self.dies_after_commit = writes, after_commit

    def die(self) -> None:
        """kill -9."""
        if self.dead:
            return
        self.dead = True
        self.world.gone(self)
        for task in list(self.tasks):
            task.cancel()
        self.died.set()

    def gate(self) -> None:
        """Nothing passes once the process is dead."""
        if self.dead:
            raise asyncio.CancelledError

    def owns(self, task: asyncio.Task[Any]) -> None:
        """A task of this process was made."""
        self.world.stage.movements += 1
        self.tasks.add(task)
        task.add_done_callback(self._done)
        if self.dead:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self.world.stage.movements += 1

    async def rot(self) -> None:
        """What is left of a dead process lets go."""
        for _ in range(1000):
            if not self.tasks:
                return
            for task in list(self.tasks):
                task.cancel()
            await asyncio.sleep(MOMENT_SECONDS)
        raise AssertionError(f"tasks of a dead process hold on: {self.tasks}")


class World:
    """A database, and the processes that live on it. Made and used in one loop."""

    def __init__(self, db: Database, folder: Path, tenant: str, stage: Stage, **limits: Any) -> None:
        self.db = db
        self.folder = folder
        self.principal = Principal(tenant_id=tenant, subject="tester")
        self.stage = stage
        self.limits = limits
        self.processes: list[Process] = []
        self.graves: list[Process] = []
        self.in_flight = 0
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        # What is done in threads is on its way, too.
        self._run_in_executor = loop.run_in_executor
        loop.run_in_executor = self._in_thread

    def _in_thread(self, executor: Any, work: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        future = self._run_in_executor(executor, work, *args)
        self.on_its_way()
        future.add_done_callback(self.arrived)
        return future

    def on_its_way(self) -> None:
        self.in_flight += 1
        self.stage.movements += 1

    def arrived(self, _: object = None) -> None:
        self.in_flight -= 1
        self.stage.movements += 1

    @staticmethod
    def _task(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **kwargs)
        context = kwargs.get("context")
        actor = ACTOR.get() if context is None else context.get(ACTOR)
        if isinstance(actor, Process):
            actor.owns(task)
        return task

    def options(self, node_id: str) -> RuntimeOptions:
        return RuntimeOptions(
            data_dir=self.folder / "data",
            node_id=node_id,
            source_roots=(MODULES, self.folder),
            environment={},
            **self.limits,
        )

    @property
    def nodes_alive(self) -> set[str]:
        return {process.node_id for process in self.processes}

    async def start(self) -> Process:
        """A new process, which has looked around once."""
        process = Process(self)
        self.processes.append(process)
        await process.start()
        return process

    def gone(self, process: Process) -> None:
        """A process has ended, one way or the other."""
        if process in self.processes:
            self.processes.remove(process)
            self.graves.append(process)

    async def settle(self) -> None:
        """Return when nothing moves any more: whoever is on the way has arrived where it waits."""
        quiet = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while quiet < QUIET_MOMENTS:
                before = self.stage.movements
                await asyncio.sleep(MOMENT_SECONDS)
                quiet = quiet + 1 if not self.in_flight and before == self.stage.movements else 0

    async def close(self) -> None:
        """End everything; nothing of it may be left."""
        for process in list(self.processes):
            await process.stop()
            assert not process.tasks, f"a process that stopped left {process.tasks}"
        for process in self.graves:
            await process.rot()
