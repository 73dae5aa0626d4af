"""Sessions against a plain model of what their users know: any interleaving of what people do and processes suffer.

People send messages, again and at once, cancel, answer questions, follow and leave; models and tools go on a step at a
time; processes die, at once or at one of their next writes, and are started again. After every step the rows are
audited, and in the end everything must have come to an end that its user can rely on. On PostgreSQL two processes run
at a time.

A handful of examples each time; `AMPLIFIER_TEST_LONG=1` makes it many, and others every time. A failure is told as it
was found; `AMPLIFIER_TEST_SHRINK=1` looks for the fewest steps that lead to it.
"""

import asyncio
import os
import secrets
import shutil
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from amplifier_app_api.core.approvals import AlreadyAnswered
from amplifier_app_api.core.idempotency import KeyInProgress, KeyReused, RequestKey
from amplifier_app_api.core.session_manager import SessionBusy
from amplifier_app_api.models.session import ForkRequest, WhenBusy
from amplifier_app_api.runtime.pool import TooManyTurns
from amplifier_app_api.runtime.refusals import TurnNotFound
from amplifier_app_api.runtime.sending import PENDING, Sent
from amplifier_app_api.storage import Database
from property import puppets
from property.puppets import Plan, Stage, message_text
from property.session_audit import ENDED, OPEN, Known, Row, Rows, Said, audit, audit_the_end, shown, story
from property.session_readers import Reader, TurnReader
from property.session_servers import ServerMachine
from property.session_world import PATIENCE_SECONDS, Process, Unanswered, World
from runtime_bundles import bundle_text, from_folder
from services import fresh_postgres_database

T = TypeVar("T")

# A kill may strike while the kernel is between its two languages: then it never awaits what it was given to await.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*run_orchestrator:pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine 'run_orchestrator':RuntimeWarning",
)

LONG = os.environ.get("AMPLIFIER_TEST_LONG") == "1"
SHRINK = os.environ.get("AMPLIFIER_TEST_SHRINK") == "1"
RUNS = 50 if LONG else 1
EXAMPLES = int(os.environ.get("AMPLIFIER_TEST_EXAMPLES") or (10 if LONG else 12))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50 if LONG else 30,
    deadline=None,
    derandomize=not LONG,
    database=None,
    print_blob=True,
    # To look for fewer steps takes longer than a test may.
    phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain) or SHRINK],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

SERVER_SETTINGS = settings(SETTINGS, max_examples=2, stateful_step_count=8 if LONG else 6)

BUNDLE = bundle_text(
    provider=from_folder("provider-puppet"),
    tools=[from_folder("tool-puppet")],
    hooks=[from_folder("hooks-doorman", tools=["ask"], options=["allow", "deny"])],
)
SESSIONS = 2
READERS = 4
MESSAGES = 4
ROUNDS_TO_THE_END = 60

TEXTS = st.lists(st.text("aé😀", min_size=1, max_size=3), min_size=1, max_size=3)
TOOLS = st.lists(st.sampled_from(puppets.TOOLS), min_size=1, max_size=3)
PLANS: st.SearchStrategy[Plan] = st.builds(
    lambda rounds, last: [*rounds, (last, [])],
    st.lists(st.tuples(TEXTS | st.just([]), TOOLS), max_size=2),
    TEXTS,
)
SOME = st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5])
"""Chooses one of those that are there."""


class SessionMachine(RuleBasedStateMachine):
    """One example. `many` processes run at a time, or one."""

    def __init__(self, address: Callable[[Path], Path | str], *, many: bool) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.runner = asyncio.Runner()
        path = Path(self.folder.name)
        self.db = Database(address(path))
        self.many = many
        self.tenant = f"t-{secrets.token_hex(6)}"
        self.stage = Stage()
        self.known = Known(runs=self.stage.runs)
        self.readers: list[Reader] = []
        self.streams: list[TurnReader] = []
        self.sessions: list[str] = []
        self.clock = 0
        self.steps: list[str] = []
        self.limited = False
        self.failed = False
        puppets.raise_curtain(self.stage)
        self.run(self.db.connect())

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        try:
            return self.runner.run(awaited())
        except BaseException as error:
            if not self.failed:
                self.failed = True
                # Printed, too: what fails only now and then is told by Hypothesis without the error.
                error.add_note("\n".join([*self.steps, *self._story()]))
                traceback.print_exception(error, file=sys.stdout)
            raise

    def _story(self) -> list[str]:
        try:
            return story(self.runner.run(self._rows()))
        except Exception as error:
            return [f"the rows cannot be read: {error}"]

    @initialize(limited=st.booleans())
    def begin(self, limited: bool) -> None:
        self.limited = limited
        self.run(self._begin({"max_running_turns": 1, "live_sessions": 1} if limited else {}))

    async def _begin(self, limits: dict[str, Any]) -> None:
        self.world = World(self.db, Path(self.folder.name), self.tenant, self.stage, **limits)
        process = await self.world.start()
        config = await process.ask(process.configs.create_config("puppets", BUNDLE))
        for _ in range(SESSIONS):
            session = await process.ask(process.sessions.create_session(config.config_id))
            self.sessions.append(session.session_id)

    def teardown(self) -> None:
        try:
            if self.sessions and not self.failed:
                self.run(self._come_to_the_end())
        finally:
            self.run(self._clean_up())
            self.runner.close()
            self.folder.cleanup()

    async def _clean_up(self) -> None:
        self.stage.set_free()
        if self.sessions:
            for process in list(self.world.processes):
                process.die()
            for process in self.world.graves:
                await process.rot()
        await self.db.disconnect()

    # What there is to choose from.

    def _one_of(self, things: Sequence[T], index: int) -> T:
        return things[index % len(things)]

    def _process(self, index: int) -> Process:
        while not self.world.processes:  # somebody starts the server again
            self.run(self._quietly(self.world.start()))
            self.run(self.world.settle())
        return self._one_of(self.world.processes, index)

    def _session(self, index: int) -> str:
        return self._one_of(self.sessions, index)

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    async def _rows(self) -> Rows:
        return await self.db.read(Rows, self.tenant)

    def _waiting(self) -> list[puppets.Wait]:
        return [one for one in self.stage.waiting if one.actor in self.world.processes and not one.go.done()]

    # People send.

    @rule(
        where=SOME,
        who=SOME,
        policy=st.sampled_from(WhenBusy),
        plan=PLANS,
        keyed=st.booleans(),
        streamed=st.booleans(),
    )
    def send(self, where: int, who: int, policy: WhenBusy, plan: Plan, keyed: bool, streamed: bool) -> None:
        said = self._new(self._session(where), policy, plan, keyed=keyed)
        self.run(self._send(said, self._process(who), streamed=streamed))

    @rule(where=SOME, who=SOME, what=st.lists(st.tuples(st.sampled_from(WhenBusy), PLANS | st.just([])), min_size=2))
    def send_some(self, where: int, who: int, what: list[tuple[WhenBusy, Plan]]) -> None:
        """One message after the other, through one server after the other; some of them remarks."""
        session_id = self._session(where)
        for index, (policy, plan) in enumerate(what[:MESSAGES]):
            said = self._new(session_id, policy, plan, keyed=False)
            self.run(self._send(said, self._process(who + index), streamed=False))
            self.run(self.world.settle())

    def _new(self, session_id: str, policy: WhenBusy, plan: Plan, *, keyed: bool) -> Said:
        number = len(self.known.said)
        label = f"m{number}"
        said = Said(label, message_text(label, plan), session_id, policy, self._tick())
        said.key = f"key of {label}" if keyed else None
        self.known.said.append(said)
        return said

    async def _send(self, said: Said, process: Process, *, streamed: bool, expected: bool = True) -> None:
        before = await self._rows()
        try:
            said.sent = await process.ask(self._sending(said, process, streamed=streamed))
        except Unanswered:
            return
        except (SessionBusy, TooManyTurns) as refusal:
            said.refused = True
            if expected:
                self._was_rightly_refused(said, before, refusal)
            return
        finally:
            said.answered = self._tick()
            self.steps.append(f"sent {said.label} {said.policy} {said.text} to {said.session_id[:4]}: {told(said)}")
        if expected:
            self._was_rightly_taken(said, said.sent, before, await self._rows())

    async def _sending(self, said: Said, process: Process, *, streamed: bool) -> Sent:
        key = self._key(said)
        sessions = process.sessions
        kwargs: dict[str, Any] = {"when_busy": said.policy, "key": key}
        if not streamed:
            sent, _ = await process.keys.once(
                key,
                make=lambda: sessions.accept_message(said.session_id, said.text, **kwargs),
                replay=lambda kept: sessions.sent_before(said.session_id, kept),
            )
            return sent
        opened, _ = await process.keys.once(
            key,
            make=lambda: sessions.accept_stream(said.session_id, said.text, **kwargs),
            replay=lambda kept: sessions.join_stream(said.session_id, kept),
        )
        if opened.follower is not None:
            self.streams.append(TurnReader(said.session_id, opened.sent.turn_id, process, opened.follower))
        return opened.sent

    def _key(self, said: Said, text: str | None = None) -> RequestKey | None:
        if said.key is None:
            return None
        return RequestKey(self.tenant, f"POST {said.session_id}", said.key, text or said.text)

    def _was_rightly_refused(self, said: Said, before: Rows, refusal: Exception) -> None:
        if isinstance(refusal, TooManyTurns):
            assert self.limited
            return
        assert isinstance(refusal, SessionBusy)
        assert said.policy is WhenBusy.REJECT, f"{said.policy} was refused"
        unfinished = [*before.queued(said.session_id), before.open_turn(said.session_id)]
        assert refusal.turn_id in [turn["turn_id"] for turn in unfinished if turn is not None]

    def _was_rightly_taken(self, said: Said, sent: Sent, before: Rows, after: Rows) -> None:
        running = before.open_turn(said.session_id)
        left_over = [row for row in before.of_session(before.steering, said.session_id) if row["status"] == PENDING]
        queued = [*before.queued(said.session_id), *([] if running else left_over)]
        match said.policy:
            case WhenBusy.REJECT:
                assert (running, queued, sent.status) == (None, [], "running")
            case WhenBusy.QUEUE:
                assert sent.status == "queued" or not (running or queued)
                assert sent.status == "running" or running or queued or self.limited
            case WhenBusy.INTERRUPT:
                assert sent.status == "running"
                assert running is None or after.turn(running["turn_id"])["status"] in ENDED
            case WhenBusy.STEER if running is not None:
                assert (sent.status, sent.turn_id) == (PENDING, running["turn_id"])
            case _:
                # What waits may begin at this very moment.
                assert sent.status in (("queued", PENDING) if queued else ("running",))

    @rule(which=SOME, who=SOME, streamed=st.booleans())
    def send_again(self, which: int, who: int, streamed: bool) -> None:
        keyed = [one for one in self.known.said if one.key]
        if not keyed:
            return
        said, process = self._one_of(keyed, which), self._process(who)
        self.run(self._send_again(said, process, streamed=streamed))
        if said.sent is not None:
            self.run(self._misuse(said, self._process(who)))

    async def _send_again(self, said: Said, process: Process, *, streamed: bool) -> None:
        again = Said(said.label, said.text, said.session_id, said.policy, said.asked, key=said.key)
        try:
            again.sent = await process.ask(self._sending(again, process, streamed=streamed))
        except Unanswered:
            return
        except (SessionBusy, TooManyTurns):
            assert said.sent is None, f"{said.label} was taken before"
            return
        if said.sent is None:  # a new answer to an old question
            said.sent, said.refused, said.answered = again.sent, False, self._tick()
        assert (again.sent.turn_id, again.sent.message_id) == (said.sent.turn_id, said.sent.message_id)

    async def _misuse(self, said: Said, process: Process) -> None:
        key = self._key(said, "something else")
        try:
            await process.ask(
                process.keys.once(
                    key,
                    make=lambda: process.sessions.accept_message(said.session_id, "something else", key=key),
                    replay=lambda kept: process.sessions.sent_before(said.session_id, kept),
                )
            )
        except (Unanswered, KeyReused):
            return
        raise AssertionError("a key was used for two requests")

    @rule(
        where=SOME,
        whos=st.tuples(SOME, SOME, SOME),
        what=st.sampled_from(["keyed", "others", "cancel", "graceful", "interrupt", "let go"]),
        plan=PLANS,
        policy=st.sampled_from(WhenBusy),
    )
    def all_at_once(self, where: int, whos: tuple[int, int, int], what: str, plan: Plan, policy: WhenBusy) -> None:
        self.run(self._all_at_once(self._session(where), [self._process(who) for who in whos], what, plan, policy))

    async def _all_at_once(
        self, session_id: str, processes: list[Process], what: str, plan: Plan, policy: WhenBusy
    ) -> None:
        one, other, third = processes
        said = self._new(session_id, policy, plan, keyed=what == "keyed")
        work: list[Coroutine[Any, Any, object]] = []
        match what:
            case "keyed":
                work += [self._send_keyed(said, process) for process in processes]
            case "others":
                more = [self._new(session_id, one_policy, plan, keyed=False) for one_policy in WhenBusy]
                work += [self._send(one_said, other, streamed=False, expected=False) for one_said in more]
            case "cancel" | "graceful":
                work.append(self._cancel(session_id, third, immediate=what == "cancel", expected=False))
            case "interrupt":
                interrupting = self._new(session_id, WhenBusy.INTERRUPT, plan, keyed=False)
                work.append(self._send(interrupting, other, streamed=True, expected=False))
            case _:
                self._let_go_of(0)
        if what != "keyed":
            work.append(self._send(said, one, streamed=False, expected=False))
        await asyncio.gather(*work)

    async def _send_keyed(self, said: Said, process: Process) -> None:
        try:
            sent = await process.ask(self._sending(said, process, streamed=False))
        except (Unanswered, KeyInProgress, SessionBusy, TooManyTurns):
            return
        finally:
            said.answered = self._tick()
        assert said.sent is None or said.sent.message_id == sent.message_id
        said.sent = said.sent or sent

    # Models and tools go on.

    @rule(which=SOME, steps=st.integers(1, 6))
    def go_on(self, which: int, steps: int) -> None:
        for _ in range(steps):
            self._let_go_of(which)
            self.run(self.world.settle())

    @rule(steps=st.integers(5, 30))
    def go_on_for_long(self, steps: int) -> None:
        for _ in range(steps):
            self._let_go_of(0)
            self.run(self.world.settle())

    def _let_go_of(self, which: int) -> None:
        if waiting := self._waiting():
            chosen = self._one_of(waiting, which)
            self.steps.append(f"let go of a {chosen.what}")
            chosen.go.set_result(None)

    # People cancel and decide.

    @rule(where=SOME, who=SOME, which=st.none() | SOME, immediate=st.booleans())
    def cancel(self, where: int, who: int, which: int | None, immediate: bool) -> None:
        session_id, process = self._session(where), self._process(who)
        if which is None:
            self.run(self._cancel(session_id, process, immediate=immediate))
        else:
            self.run(self._cancel_one(session_id, process, which, immediate=immediate))

    async def _cancel(self, session_id: str, process: Process, *, immediate: bool, expected: bool = True) -> None:
        self.steps.append(f"cancel in {session_id[:4]} {immediate=}")
        before = await self._rows()
        try:
            answer = await process.ask(process.sessions.cancel(session_id, immediate=immediate))
        except Unanswered:
            return
        if not expected:
            return
        running, queued = before.open_turn(session_id), before.queued(session_id)
        turn_id = answer["turn_id"]
        if running is None and not queued:
            assert (turn_id, answer["message"]) == (None, "Nothing to cancel")
            return
        first = running or next(turn for turn in queued if turn["turn_id"] == turn_id)
        assert turn_id == first["turn_id"]
        if immediate:  # else it may have begun at this very moment, and stops when it can
            ended = (await self._rows()).turn(turn_id)
            assert (ended["status"], answer["status"]) == ("cancelled", "cancelled")

    async def _cancel_one(self, session_id: str, process: Process, which: int, *, immediate: bool) -> None:
        before = await self._rows()
        turns = before.of_session(before.turns, session_id)[::-1]
        if not turns:
            return
        turn = self._one_of(turns, which)
        self.steps.append(f"cancel turn {turn['turn_id'][:4]} ({turn['status']}) {immediate=}")
        try:
            answer = await process.ask(process.sessions.cancel_turn(session_id, turn["turn_id"], immediate=immediate))
        except Unanswered:
            return
        after = (await self._rows()).turn(turn["turn_id"])
        if turn["status"] in ENDED:
            assert (after["status"], answer["message"]) == (turn["status"], "Nothing to cancel")
        elif immediate:
            assert after["status"] == answer["status"] == "cancelled"

    @rule(which=SOME, who=SOME, allow=st.booleans(), twice=st.booleans())
    def decide(self, which: int, who: int, allow: bool, twice: bool) -> None:
        processes = [self._process(who), self._process(who + 1)]
        self.run(self._decide(which, processes, allow=allow, twice=twice))

    async def _decide(self, which: int, processes: list[Process], *, allow: bool, twice: bool) -> None:
        rows = await self._rows()
        asked = [row for row in rows.approvals if row["status"] == "pending"] or rows.approvals
        if not asked:
            return
        row = self._one_of(asked, which)
        decisions = ["allow", "deny"] if allow else ["deny", "allow"]
        self.steps.append(f"{decisions[: 1 + twice]} of {row['approval_id'][:4]}")
        chosen = zip(processes, decisions[: 1 + twice], strict=False)
        answers = [self._answer(row, decision, process) for process, decision in chosen]
        taken = [decision for decision in await asyncio.gather(*answers) if decision is not None]
        if row["status"] == "pending":
            assert len(taken) <= 1
            for decision in taken:
                self.known.decisions[row["approval_id"]] = decision
        else:
            assert taken == []

    async def _answer(self, row: Row, decision: str, process: Process) -> str | None:
        try:
            await process.ask(process.approvals.answer(row["session_id"], row["approval_id"], decision))
        except (Unanswered, AlreadyAnswered):
            return None
        return decision

    # People follow.

    @rule(where=SOME, who=SOME, which=SOME, what=st.sampled_from(["follow", "follow from now", "read", "leave"]))
    def listen(self, where: int, who: int, which: int, what: str) -> None:
        process = self._process(who)
        if what.startswith("follow") and len(self.readers) < READERS:
            self.run(self._follow(self._session(where), process, from_now=what != "follow"))
        elif self.readers:
            reader = self._one_of(self.readers, which)
            if what == "leave":
                self.run(self._quietly(reader.disconnect()))
            else:
                self.run(self._quietly(reader.read() if reader.connected else reader.connect(process)))

    async def _follow(self, session_id: str, process: Process, *, from_now: bool) -> None:
        rows = await self._rows()
        last = next(row["last_seq"] for row in rows.sessions if row["session_id"] == session_id)
        reader = Reader(session_id, last if from_now else 0)
        self.readers.append(reader)
        await self._quietly(reader.connect(process))

    async def _quietly(self, work: Awaitable[object]) -> None:
        try:
            await work
        except Unanswered:
            return

    # Sessions are copied.

    @rule(where=SOME, who=SOME, which=SOME, whole=st.booleans())
    def fork(self, where: int, who: int, which: int, whole: bool) -> None:
        if len(self.sessions) < 2 * SESSIONS:
            self.run(self._fork(self._session(where), self._process(who), which, whole=whole))

    async def _fork(self, session_id: str, process: Process, which: int, *, whole: bool) -> None:
        rows = await self._rows()
        turns = rows.of_session(rows.turns, session_id)
        turn_id = None if whole or not turns else self._one_of(turns, which)["turn_id"]
        try:
            made = await process.ask(process.copies.fork(session_id, ForkRequest(turn_id=turn_id)))
        except (Unanswered, TurnNotFound, SessionBusy):
            return
        assert made is not None
        self.sessions.append(made.session_id)
        after = await self._rows()
        copied = after.of_session(after.messages, made.session_id)
        source = after.of_session(after.messages, session_id)
        assert shown(copied) == shown(source[: len(copied)])
        last = source[len(copied) - 1]["turn_id"] if copied else None
        assert turn_id is None or last == turn_id

    # Processes suffer.

    @rule(who=SOME, how=st.sampled_from(["kill", "stop", "before", "after"]), writes=st.integers(0, 6))
    def end(self, who: int, how: str, writes: int) -> None:
        """A process is killed, or told to stop, or doomed to die right before or after a write to come."""
        process = self._process(who)
        self.steps.append(f"end {how} {writes}")
        match how:
            case "kill":
                process.die()
            case "stop":
                self.run(self._quietly(process.stop()))
            case _:
                process.doom(writes, after_commit=how == "after")

    @rule(who=SOME, what=st.sampled_from(["start", "look around", "write pieces"]))
    def move(self, who: int, what: str) -> None:
        """Time passes: another process starts, all look around, answers that are being made become rows."""
        process = self._process(who)
        self.steps.append(what)
        match what:
            case "start" if len(self.world.processes) < (2 if self.many else 1):
                self.run(self._quietly(self.world.start()))
            case "write pieces":
                self.run(self._quietly(process.ask(process.runtime.delta_log.flush())))
            case _:
                self.run(self._look_around())

    async def _look_around(self) -> None:
        for process in list(self.world.processes):
            await self._quietly(process.look())

    # What holds.

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        self.run(self._checked())

    async def _checked(self) -> None:
        await self.world.settle()
        rows = await self._rows()
        audit(rows, self.known)
        assert self.stage.problems == []
        async with asyncio.timeout(PATIENCE_SECONDS):  # a session may still be being opened
            while self._astray(rows):
                await asyncio.sleep(0.01)
                rows = await self._rows()

    def _astray(self, rows: Rows) -> list[str]:
        """Turns whose owner is there and does not run them."""
        nodes = {process.node_id: process for process in self.world.processes}
        owners = {session["session_id"]: nodes.get(session["owner"]) for session in rows.sessions}
        return [
            turn["turn_id"]
            for turn in rows.turns
            if turn["status"] in OPEN and not self.limited
            if (owner := owners[turn["session_id"]]) is not None and owner.runtime.running(turn["turn_id"]) is None
        ]

    async def _come_to_the_end(self) -> None:
        self.stage.set_free()
        for process in self.world.processes:
            process.writes_left = None
        if not self.world.processes:
            await self.world.start()
        rows = await self._rows()
        for round_ in range(ROUNDS_TO_THE_END):
            await self._look_around()
            await self.world.settle()
            rows = await self._rows()
            for row in rows.approvals:
                if row["status"] == "pending":
                    decision = "allow" if round_ % 2 else "deny"
                    if await self._answer(row, decision, self.world.processes[0]) is not None:
                        self.known.decisions[row["approval_id"]] = decision
            if not rows.unfinished:
                break
            if round_ > 10:
                await asyncio.sleep(0.1)  # a dispatcher that found no room looks again after a second
        rows = await self._rows()
        audit_the_end(rows, self.known)
        assert self.stage.problems == []
        await self._everybody_has_seen_it(rows)
        await self.world.close()

    async def _everybody_has_seen_it(self, rows: Rows) -> None:
        process = self.world.processes[0]
        for reader in self.readers:
            if not reader.connected:
                await reader.connect(process)
            await reader.read()
            log = rows.of_session(rows.events, reader.session_id)
            assert reader.seq == log[-1]["seq"], "a reader did not see the end of the log"
            reader.check(log)
            await reader.disconnect()
        for stream in self.streams:
            lives = not stream.process.dead and stream.process in self.world.processes
            if lives:
                await stream.read()
            stream.check(rows.of_session(rows.events, stream.session_id), to_the_end=lives)
            if lives:
                await stream.process.ask(stream.follower.close())


def told(said: Said) -> str:
    """What the sender was told."""
    if said.sent is None:
        return "refused" if said.refused else "no answer"
    return f"{said.sent.status} {said.sent.turn_id[:4]}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database file of today's schema, to copy: making one takes longer than most examples."""

    async def make() -> None:
        async with Database(path):
            pass

    path = tmp_path_factory.mktemp("template") / "app.db"
    asyncio.run(make())
    return path


@pytest.mark.parametrize("run", range(RUNS))
def test_any_interleaving_on_sqlite(template: Path, run: int) -> None:
    def address(folder: Path) -> Path:
        return Path(shutil.copy(template, folder / "app.db"))

    run_state_machine_as_test(partial(SessionMachine, address, many=False), settings=SETTINGS)


@pytest.mark.parametrize("run", range(RUNS))
def test_any_interleaving_of_two_processes_on_postgresql(postgres_url: str, run: int) -> None:
    run_state_machine_as_test(partial(SessionMachine, lambda _: postgres_url, many=True), settings=SETTINGS)


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("engine", ["sqlite", *[pytest.param("postgresql", marks=pytest.mark.postgres)] * LONG])
def test_any_interleaving_with_a_server_that_is_killed(request: pytest.FixtureRequest, engine: str, run: int) -> None:
    def machine() -> ServerMachine:
        if engine == "sqlite":
            return ServerMachine(None)
        return ServerMachine(databases.enter_context(fresh_postgres_database()))

    if engine == "postgresql":
        request.getfixturevalue("postgres_server")
    with ExitStack() as databases:
        run_state_machine_as_test(machine, settings=SERVER_SETTINGS)
