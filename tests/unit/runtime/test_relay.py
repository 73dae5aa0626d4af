"""From what modules report to what clients see, on a recorder that writes to a database."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.models.event import Notice
from amplifier_app_api.models.session import Session, SessionStatus
from amplifier_app_api.runtime.accept import Incoming, accept
from amplifier_app_api.runtime.recorder import Recorder
from amplifier_app_api.runtime.relay import Relay
from amplifier_app_api.runtime.units import Unit
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import insert_config
from amplifier_app_api.storage.lifecycle import create_session
from amplifier_app_api.storage.sessions import SessionRecord
from seals import PLAIN


class Stage:
    """A turn that runs, its relay, and somebody who follows."""

    def __init__(self, recorder: Recorder, subscription: Subscription) -> None:
        self.recorder = recorder
        self.relay = Relay(recorder)
        self.subscription = subscription

    def delta(self, stream: str, text: str, *, index: int = 0, kind: str = "text") -> None:
        data = {"request_id": stream, "block_index": index, "block_type": kind, "text": text}
        self.relay.on_stream_event("llm:stream_block_delta", data)

    async def seen(self) -> list[tuple[str, str | None, Any]]:
        items = await self.subscription.take(1) or []
        return [(item.type, item.id, item.payload().get("text") or item.payload().get("request")) for item in items]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Database(tmp_path / "app.db") as db:
        config_id, session_id, now = str(uuid.uuid4()), str(uuid.uuid4()), utc_now()
        await db.write(
            insert_config,
            config_id,
            name="a",
            within="default",
            yaml_content="bundle: {name: a}\n",
            description=None,
            tags={},
            by="me",
        )
        session = Session(
            session_id=session_id,
            config_id=config_id,
            revision=1,
            status=SessionStatus.ACTIVE,
            created_at=now,
            updated_at=now,
        )
        record = SessionRecord(
            session=session, tenant_id="default", variables=None, working_dir=None, allow_missing=False, epoch=1
        )
        await db.write(create_session, record, session=session, notices=[])
        turn, _ = await accept(
            db,
            Incoming("hi"),
            tenant_id="default",
            session_id=session_id,
            node_id="here",
            expected_position=0,
            notices=[],
            seals=PLAIN,
        )
        hub = EventHub()
        recorder = Recorder(
            db, hub, turn.key, epoch=turn.epoch, last_seq=turn.last_seq, last_position=turn.last_position
        )
        yield Stage(recorder, hub.subscribe(session_id))


async def test_pieces_have_a_place_behind_the_last_event(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "ab")
    stage.delta("s", "é")
    stage.delta("s", "hm", index=1, kind="thinking")

    assert await stage.seen() == [
        ("message.delta", "3.1.0.2", "ab"),
        ("message.delta", "3.1.0.3", "é"),
        ("reasoning.delta", "3.1.1.2", "hm"),
    ]


async def test_a_second_stream_in_one_call_is_a_new_request_and_the_first_is_discarded(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s1", "half")
    stage.delta("s2", "whole")
    await stage.recorder.write()

    assert await stage.seen() == [
        ("message.delta", "3.1.0.4", "half"),
        ("message.discarded", "4", 1),
        ("message.delta", "4.2.0.5", "whole"),
    ]


async def test_pieces_and_events_keep_their_order_when_events_wait_for_their_commit(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s1", "one")
    stage.recorder.defer(Unit(events=[Notice(level="info", text="a", source="t")]))
    stage.delta("s1", "two")
    stage.recorder.defer(Unit(events=[Notice(level="info", text="b", source="t")]))
    stage.delta("s1", "three")
    await stage.recorder.write()

    assert await stage.seen() == [
        ("message.delta", "3.1.0.3", "one"),
        ("notice", "4", "a"),
        ("message.delta", "4.1.0.6", "two"),
        ("notice", "5", "b"),
        ("message.delta", "5.1.0.11", "three"),
    ]


async def test_a_stream_that_was_aborted_is_discarded_once(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "half")
    aborted = {"request_id": "s", "error": {"msg": "the line is dead"}}
    stage.relay.on_stream_event("llm:stream_aborted", aborted)
    stage.relay.on_stream_event("llm:stream_aborted", aborted)
    stage.relay.call_failed()
    await stage.recorder.write()

    assert [kind for kind, _, _ in await stage.seen()] == ["message.delta", "message.discarded"]


async def test_a_message_is_whole_with_the_numbers_its_pieces_had(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "hm", index=7, kind="thinking")
    stage.delta("s", "text", index=9)
    stage.relay.call_answered()

    completed = stage.relay.complete("m", {"role": "assistant", "content": "text"})

    assert (completed.request, completed.blocks) == (1, [{"block": 1, "type": "text", "text": "text"}])
    assert stage.relay.keep_unfinished() is None


async def test_what_nobody_streamed_is_one_piece_and_messages_of_one_call_share_no_block(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.relay.call_answered()
    first = stage.relay.complete("m1", {"role": "assistant", "content": "one"})
    second = stage.relay.complete("m2", {"role": "assistant", "content": "two"})

    assert [block["block"] for completed in (first, second) for block in completed.blocks] == [0, 1]
    assert [text for _, _, text in await stage.seen()] == ["one", "two"]


async def test_pieces_told_again_after_the_message_are_not_told_twice(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.relay.on_content_delta({"block_index": 0, "text": "once"})
    stage.relay.call_answered()
    stage.relay.complete("m", {"role": "assistant", "content": "once"})
    stage.relay.on_content_delta({"block_index": 0, "text": "once"})

    assert [text for _, _, text in await stage.seen()] == ["once"]


async def test_content_deltas_beside_a_stream_are_ignored(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "text")
    stage.relay.on_content_delta({"block_index": 0, "delta": {"text": "text"}})

    assert [text for _, _, text in await stage.seen()] == ["text"]


async def test_what_was_given_up_at_the_end_is_told(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "half")

    assert [event.request for event in stage.relay.discard_unfinished("over")] == [1]
    assert stage.relay.discard_unfinished("over") == []


async def test_half_a_character_in_a_piece_does_not_break_the_stream(stage: Stage) -> None:
    stage.relay.begin_call()
    stage.delta("s", "a\ud83d")

    assert await stage.seen() == [("message.delta", "3.1.0.2", "a\ufffd")]
