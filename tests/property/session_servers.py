"""Sessions of a real server that is killed with -9, against the same model."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from amplifier_app_api.models.principal import DEFAULT_TENANT
from amplifier_app_api.models.session import WhenBusy
from amplifier_app_api.runtime.sending import Sent
from amplifier_app_api.storage import Database
from live_server import LiveServer, payloads
from property.puppets import INPUT_TOKENS, OUTPUT_TOKENS
from property.session_audit import Known, Rows, Said, audit_the_end, story
from runtime_bundles import MODULES, bundle_text, from_folder

SOME = st.integers(0, 3)
TOOLS = st.lists(st.lists(st.sampled_from(["count", "look"]), min_size=1, max_size=3), max_size=2)
ENDS = {"turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted"}
SESSIONS = 2
LOOKS_AT_THE_END = 300


class ServerMachine(RuleBasedStateMachine):
    """One example: a server on a data folder, or on the database at an address."""

    def __init__(self, address: str | None) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        home = Path(self.folder.name)
        self.ledger = home / "ledger"
        self.ledger.touch()
        self.address = address or home / "data" / "app.db"
        arguments = () if address is None else ("--database-url", address)
        settings = {
            "AMPLIFIER_SOURCE_ROOTS": str(MODULES),
            "AMPLIFIER_HEARTBEAT": "200ms",
            "AMPLIFIER_NODE_DEAD_AFTER": "1s",
        }
        self.server = LiveServer(home / "data", *arguments, **settings)
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.known = Known()
        self.sessions: list[str] = []
        self.clock = 0
        self.labels = 0

    @initialize()
    def begin(self) -> None:
        self.server.start()
        config = self.server.config(bundle_text(tools=[from_folder("tool-tally", path=str(self.ledger))]))
        self.sessions = [self.server.session(config) for _ in range(SESSIONS)]

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    # People send and cancel.

    @rule(where=SOME, policy=st.sampled_from(WhenBusy), tools=TOOLS, words=st.integers(1, 40), keyed=st.booleans())
    def send(self, where: int, policy: WhenBusy, tools: list[list[str]], words: int, keyed: bool) -> None:
        said = self._new(where, policy, tools, words, keyed=keyed)
        self._heard(said, self._post(said))

    @rule(which=SOME)
    def send_again(self, which: int) -> None:
        keyed = [said for said in self.known.said if said.key]
        if not keyed:
            return
        said = keyed[which % len(keyed)]
        before = said.sent
        self._heard(said, self._post(said))
        assert before is None or (said.sent is not None and said.sent.turn_id == before.turn_id)

    @rule(where=SOME, policy=st.sampled_from(WhenBusy), tools=TOOLS, keyed=st.booleans())
    def kill_while_somebody_sends(self, where: int, policy: WhenBusy, tools: list[list[str]], keyed: bool) -> None:
        said = self._new(where, policy, tools, 5, keyed=keyed)
        answer = self.pool.submit(self._post, said)
        self.server.kill()
        try:
            self._heard(said, answer.result())
        except httpx2.HTTPError:
            said.answered = self._tick()
        self.server.start()

    @rule(where=SOME, immediate=st.booleans())
    def cancel(self, where: int, immediate: bool) -> None:
        self.server.post(f"/sessions/{self._session(where)}/cancel", {"immediate": immediate})

    def _session(self, where: int) -> str:
        return self.sessions[where % len(self.sessions)]

    def _new(self, where: int, policy: WhenBusy, tools: list[list[str]], words: int, *, keyed: bool) -> Said:
        label = f"m{len(self.known.said)}"
        rounds = [f"[[tools: {' | '.join(self._call(tool) for tool in round_)}]]" for round_ in tools]
        text = (
            f"{label} [[usage: input={INPUT_TOKENS} output={OUTPUT_TOKENS}]] {' '.join(rounds)} [[pace: ms=3]] "
            f"[[then: {' '.join(f'w{n}' for n in range(words))}]]"
        )
        said = Said(label, text, self._session(where), policy, self._tick(), key=f"key-of-{label}" if keyed else None)
        self.known.said.append(said)
        return said

    def _call(self, tool: str) -> str:
        self.labels += 1
        return f"{tool} {orjson.dumps({'label': f'l{self.labels}', 'seconds': 0.02}).decode()}"

    def _post(self, said: Said) -> httpx2.Response:
        headers = {} if said.key is None else {"Idempotency-Key": said.key}
        body = {"message": said.text, "when_busy": said.policy.value}
        return self.server.client.post(f"/sessions/{said.session_id}/turns", json=body, headers=headers)

    def _heard(self, said: Said, answer: httpx2.Response) -> None:
        said.answered = self._tick()
        told: dict[str, Any] = answer.json()
        if answer.status_code == 202:
            if said.sent is None:
                status = told["status"]
                said.sent = Sent(said.session_id, told["turn_id"], told["message_id"], status)
                said.refused = False
            assert (told["turn_id"], told["message_id"]) == (said.sent.turn_id, said.sent.message_id)
            return
        assert (answer.status_code, told["code"], said.policy) == (409, "session_busy", WhenBusy.REJECT), told
        said.refused = said.sent is None

    # The server suffers.

    @rule(where=SOME, items=st.integers(1, 40))
    def kill_when_so_much_was_heard(self, where: int, items: int) -> None:
        session = self.server.get(f"/sessions/{self._session(where)}")
        if session["activity"] != "idle":
            path, after = f"/sessions/{session['session_id']}/events", {"after": session["last_seq"]}
            with self.server.client.stream("GET", path, params=after) as answer:
                for count, event in enumerate(payloads(answer.iter_lines()), 1):
                    if count >= items or event["type"] in ENDS:
                        break
        self.server.kill()
        self.server.start()

    @rule()
    def restart(self) -> None:
        self.server.terminate()
        self.server.start()

    # In the end.

    def teardown(self) -> None:
        try:
            if self.sessions:
                self._come_to_the_end()
        finally:
            self.server.__exit__()
            self.pool.shutdown()
            self.folder.cleanup()

    def _come_to_the_end(self) -> None:
        for session_id in self.sessions:
            for _ in range(LOOKS_AT_THE_END):
                if not self._unfinished(session_id):
                    break
                # It says itself when something has happened; a second is how long the server lets a reader wait.
                self._hear_of_something(session_id)
        self.server.terminate()
        rows = asyncio.run(self._rows())
        self.known.runs = Counter[tuple[str, str]](
            (tool, label) for tool, label in map(str.split, self.ledger.read_text().splitlines())
        )
        try:
            audit_the_end(rows, self.known)
        except AssertionError as error:
            error.add_note("\n".join(story(rows)))
            raise

    def _unfinished(self, session_id: str) -> bool:
        turns = self.server.get(f"/sessions/{session_id}/turns", params={"limit": 200})["turns"]
        return any(turn["ended_at"] is None for turn in turns)

    def _hear_of_something(self, session_id: str) -> None:
        last = self.server.get(f"/sessions/{session_id}")["last_seq"]
        try:
            with self.server.client.stream(
                "GET", f"/sessions/{session_id}/events", params={"after": last}, timeout=1
            ) as answer:
                next(payloads(answer.iter_lines()), None)
        except httpx2.TimeoutException:
            return

    async def _rows(self) -> Rows:
        async with Database(self.address) as db:
            return await db.read(Rows, DEFAULT_TENANT)
