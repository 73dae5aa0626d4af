"""Secrets planted wherever a session takes or makes a text, and looked for wherever one is kept or shown."""

import asyncio
import io
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from sqlalchemy import select

from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.session_copies import SessionCopies
from amplifier_app_api.errors import AppError
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.observability.logs import configure_logging
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.tables import metadata
from runtime_bundles import bundle_text, from_folder

MakeSessions = Callable[..., SessionManager]

VARIABLE = "canary-variable-4711"
KEY = "canary-environment-0815"
CUT = "SNIP-"
"""How everything begins that the redactor of these sessions cuts out."""


class Canaries:
    """Texts that the redactor cuts out, each another one; `traces` are found only where one is kept or shown."""

    def __init__(self) -> None:
        self._numbers = itertools.count(100_001)
        self.last = ""

    def new(self) -> str:
        self.last = f"{CUT}{next(self._numbers)} {VARIABLE} {KEY}"
        return self.last

    @staticmethod
    def in_(text: str) -> list[str]:
        """What of them is in a text. Config texts hold the names of the variables, not their values."""
        traces = (f"{CUT}1000", VARIABLE, KEY)
        return [text[max(0, text.find(trace) - 60) : text.find(trace) + 40] for trace in traces if trace in text]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    out = io.StringIO()
    configure_logging("debug", "json", stream=out)
    yield out
    root.handlers, root.level = before, level
    logging.captureWarnings(False)


@pytest.fixture
def sessions(make_sessions: MakeSessions) -> SessionManager:
    return make_sessions(env_allow=("CANARY_KEY",), environment={"CANARY_KEY": KEY, "PATH": "/bin"})


def guarded(*, asks: bool = False) -> str:
    hooks = [from_folder("hooks-scissors")]
    if asks:
        hooks.append(from_folder("hooks-doorman", tools=["parrot"]))
    tools = [from_folder(name) for name in ("tool-parrot", "tool-gate", "tool-errand")]
    document = yaml.safe_load(
        bundle_text(tools=tools, hooks=hooks, scripted={"label": "${CANARY_TOKEN}", "note": "${CANARY_KEY}"})
    )
    document["agents"] = {"scout": {"description": "Looks around.", "instruction": "You are the scout."}}
    return yaml.safe_dump(document, sort_keys=False)


class Seen:
    """Everything anybody was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, value: Any) -> Any:
        self.told.append(value if isinstance(value, str) else orjson.dumps(value, default=str).decode())
        return value

    async def of(self, work: Any) -> Any:
        try:
            return self(await work)
        except AppError as refusal:
            return self(f"{refusal} {refusal.facts} {refusal.items}")


def files_with_traces(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if Canaries.in_(path.read_bytes().decode(errors="replace"))]


async def rows_of(db: Database) -> str:
    def read(conn: Any) -> str:
        return "\n".join(str(tuple(row)) for table in metadata.sorted_tables for row in conn.execute(select(table)))

    return await db.read(read)


async def everything_of(sessions: SessionManager, session_id: str, seen: Seen) -> None:
    session = await sessions.get_session(session_id)
    assert session is not None
    seen(session.model_dump(mode="json"))
    for message in await sessions.transcript(session_id):
        seen(message.model_dump(mode="json"))
    follower = await sessions.follow(session_id, after=0)
    try:
        last = 0
        while last < session.last_seq:
            for item in await follower.next_batch(5):
                seen(item.payload())
                last = item.seq or last
    finally:
        await follower.close()
    for turn in (await sessions.page_turns(session_id, PageRequest(limit=200))).items:
        seen(turn.model_dump(mode="json"))


async def test_no_secret_comes_out_of_a_session(
    open_chat: Any,
    sessions: SessionManager,
    make_sessions: MakeSessions,
    db: Database,
    configs: ConfigManager,
    tmp_path: Path,
    log: io.StringIO,
) -> None:
    bird, seen = Canaries(), Seen()
    chat = await open_chat(guarded(), variables={"CANARY_TOKEN": VARIABLE})
    said = bird.new()

    # What the user says, the model thinks and says, what a tool is given, gives back, shows and raises.
    call = f'[[tool: parrot {{"say": "{said}", "password": "{said}"}}]]'
    told = f"[[think: {said}]] [[say: {said}]] {call} [[then: so {said}]]"
    answer = await seen.of(sessions.send_message(chat.session_id, told, {"beside": said}))
    assert answer["response"] == "so [redacted:snip] *** ***"
    events = seen(await chat.stream(f"[[chunk: chars=3]] [[text: {bird.new()} end]]"))
    assert (
        "".join(event["text"] for event in events if event["type"] == "message.delta") == "[redacted:snip] *** *** end"
    )
    await seen.of(
        sessions.send_message(chat.session_id, f'[[tool: parrot {{"say": "{said}", "raise": true}}]] [[then: {said}]]')
    )
    await seen.of(sessions.send_message(chat.session_id, f'[[error: status=400 message="{said}"]]'))
    blocks = [{"type": "text", "text": said}]
    await seen.of(sessions.send_message(chat.session_id, blocks))

    # What waits, is handed to a turn that runs, and is cancelled.
    import amplifier_module_tool_gate as gate

    gate.reset()
    turn = asyncio.create_task(chat.say("[[tool: gate {}]] [[then: heard]]"))
    await asyncio.wait_for(gate.entered.wait(), 10)
    later = f"[[text: {bird.new()}]]"
    queued = await sessions.create_turn(chat.session_id, later, {"a": said}, when_busy="queue")
    dropped = await sessions.create_turn(chat.session_id, later, {"a": said}, when_busy="queue")
    seen([queued.model_dump(mode="json"), dropped.model_dump(mode="json")])
    seen(await sessions.cancel_turn(chat.session_id, dropped.turn_id))
    seen(await sessions.send_message(chat.session_id, f"steered {said}", {"b": said}, when_busy="steer"))
    assert Canaries.in_(await rows_of(db)) == []
    gate.release.set()
    seen(await turn)
    outcome = await sessions._runtime.turns.outcome_of(chat.session_id, queued.turn_id, within="default")
    assert outcome is not None and outcome.response == "[redacted:snip] *** ***"

    # What a child is told and tells.
    seen(await chat.say(f'[[tool: errand {{"agent": "scout", "instruction": "{said}"}}]] [[then: done]]'))

    for session in (await sessions.page_sessions(PageRequest(limit=50))).items:
        await everything_of(sessions, session.session_id, seen)
    exported = await SessionCopies(db, sessions._runtime, configs).export(chat.session_id)
    assert exported is not None
    seen(b"".join([line async for line in exported]).decode())

    assert [trace for text in seen.told for trace in Canaries.in_(text)] == []
    assert Canaries.in_(await rows_of(db)) == []
    assert Canaries.in_(log.getvalue()) == []
    assert await asyncio.to_thread(files_with_traces, tmp_path) == []

    # The model is given all of it, now and when the session is opened again.
    again = await chat.reopened(
        make_sessions(env_allow=("CANARY_KEY",), environment={"CANARY_KEY": KEY, "PATH": "/bin"})
    )
    await sessions._runtime.close()
    assert await again.say("[[text: there]]") == "there"
    live = again.sessions._runtime._live.get(chat.session_id, within="default")
    context = await live.opened.kernel.session.coordinator.get("context").get_messages()
    known = str(context)
    assert all(part in known for part in (said, f"steered {said}", bird.last, "so " + said, f"cannot say {said}"))
