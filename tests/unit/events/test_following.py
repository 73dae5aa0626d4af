"""Followers of a turn that runs, on a real database: exact by place, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import items_of
from amplifier_app_api.models.event import ChildEnded, ChildStarted, Notice
from amplifier_app_api.runtime.following import Following
from amplifier_app_api.runtime.units import Unit
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.deltas import deltas_of, partial_blocks
from amplifier_app_api.storage.log import MOST_BYTES
from amplifier_app_api.storage.tables import events, sessions
from log_stage import TENANT, Reader, TurnStage, log_event, new_session, shown


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


@pytest.fixture
async def turn(db: Database) -> AsyncIterator[TurnStage]:
    stage = await TurnStage.begin(db, await new_session(db))
    yield stage
    await stage.close()


async def test_a_reader_that_comes_back_inside_a_sentence_gets_the_rest_of_it(turn: TurnStage) -> None:
    turn.say("one two ")
    turn.say("three")

    reader = turn.follow("2.1.0.6")
    await reader.read()
    turn.say(" four")
    await reader.read()

    assert shown(reader.items) == [("2.1.0.13", "o three"), ("2.1.0.18", " four")]


async def test_whoever_joins_in_the_middle_gets_the_text_so_far_and_then_goes_on_live(turn: TurnStage) -> None:
    turn.say("so ")
    turn.say("far")
    reader = turn.follow(1)
    await reader.read()
    turn.say(", so good")
    await reader.read()

    assert shown(reader.items) == [("2", "turn.started"), ("2.1.0.6", "so far"), ("2.1.0.15", ", so good")]


async def test_inside_a_block_that_was_completed_meanwhile_the_rest_comes_as_one_delta(turn: TurnStage) -> None:
    turn.say("x😀y")
    turn.say("z")
    turn.say("another", block=1)
    await turn.complete()

    reader = turn.follow("2.1.0.2")
    await reader.read()

    assert shown(reader.items) == [
        ("2.1.0.4", "yz"),
        ("2.1.1.7", "another"),
        ("3", "message.completed"),
    ]


async def test_who_had_the_whole_block_gets_no_empty_delta(turn: TurnStage) -> None:
    turn.say("whole")
    await turn.complete()

    reader = turn.follow("2.1.0.5")
    await reader.read()

    assert shown(reader.items) == [("3", "message.completed")]


async def test_who_had_seen_nothing_of_a_completed_message_gets_the_message_alone(turn: TurnStage) -> None:
    turn.say("whole")
    await turn.complete()

    reader = turn.follow(2)
    await reader.read()

    assert shown(reader.items) == [("3", "message.completed")]


async def test_inside_a_request_that_was_given_up_meanwhile_the_reader_is_told_so(turn: TurnStage) -> None:
    turn.say("half of")
    await turn.discard()
    turn.say("again", request=2)

    reader = turn.follow("2.1.0.4")
    await reader.read()

    assert shown(reader.items) == [("3", "message.discarded"), ("3.2.0.5", "again")]


async def test_after_an_event_in_the_middle_of_a_block_only_what_came_later_is_told(turn: TurnStage) -> None:
    turn.say("before ")
    await turn.notice()
    turn.say("after")

    live = turn.follow(0)
    await live.read()
    late = turn.follow(3)
    await late.read()

    assert shown(live.items)[1:] == [
        ("2", "turn.started"),
        ("2.1.0.7", "before "),
        ("3", "notice"),
        ("3.1.0.12", "after"),
    ]
    assert shown(late.items) == [("3.1.0.12", "after")]


async def test_a_place_of_another_log_hides_nothing_of_what_is_being_said(turn: TurnStage) -> None:
    elsewhere = Following(turn.db, type(turn.hub)(), runs_here=lambda _: False)
    turn.say("so far")
    await turn.delta_log.flush()

    here = turn.follow(10_000)
    there = Reader(elsewhere.session(turn.key.session_id, Place(10_000), within=TENANT))
    await here.read()
    await there.read()
    turn.say(", so good")
    await turn.delta_log.flush()
    await here.read()
    await there.read()

    await there.leave()

    said = [("2.1.0.6", "so far"), ("2.1.0.15", ", so good")]
    assert (shown(here.items), shown(there.items)) == (said, said)


async def test_pieces_of_blocks_that_take_turns_stay_in_their_order(turn: TurnStage) -> None:
    turn.say("a1")
    turn.say("b1", request=2)
    turn.say("a2")
    turn.say("b2", request=2)

    reader = turn.follow("2.2.0.1")
    await reader.read()

    assert shown(reader.items) == [("2.2.0.2", "1"), ("2.1.0.4", "a2"), ("2.2.0.4", "b2")]


async def test_rows_of_an_answer_are_made_in_batches_and_go_with_its_message(turn: TurnStage) -> None:
    turn.say("one ")
    turn.say("two ")
    await turn.delta_log.flush()
    turn.say("three")
    await turn.delta_log.flush()
    await turn.delta_log.flush()

    rows = await turn.db.read(deltas_of, turn.key.session_id, within=TENANT)
    blocks = await turn.db.read(partial_blocks, turn.key.session_id, turn.key.turn_id, within=TENANT)
    assert [(row.request, row.block, row.offset, row.seq, row.text) for row in rows] == [
        (1, 0, 0, 2, "one two "),
        (1, 0, 8, 2, "three"),
    ]
    assert [block.text for block in blocks] == ["one two three"]

    await turn.complete()
    assert await turn.db.read(deltas_of, turn.key.session_id, within=TENANT) == []


async def test_the_end_of_a_turn_removes_every_row_of_it(turn: TurnStage) -> None:
    turn.say("left")
    await turn.delta_log.flush()
    assert await turn.db.read(deltas_of, turn.key.session_id, within=TENANT) != []

    await turn.end()

    assert await turn.db.read(deltas_of, turn.key.session_id, within=TENANT) == []


async def test_what_is_settled_before_a_batch_never_becomes_a_row(turn: TurnStage) -> None:
    turn.say("quick")
    tail = turn.hub.tail(turn.key.session_id)
    assert tail is not None
    taken = tail.take()
    await turn.complete()

    assert tail.still_wanted(taken) == []
    await turn.delta_log.flush()
    assert await turn.db.read(deltas_of, turn.key.session_id, within=TENANT) == []


async def test_a_turn_that_another_process_took_over_makes_no_rows_any_more(turn: TurnStage) -> None:
    def take_over(conn: Connection) -> None:
        conn.execute(sessions.update().values(epoch=2))

    turn.say("late")
    await turn.db.write(take_over)
    await turn.delta_log.flush()

    assert await turn.db.read(deltas_of, turn.key.session_id, within=TENANT) == []


async def test_what_was_written_to_rows_is_there_for_another_process(turn: TurnStage) -> None:
    turn.say("one ")
    await turn.delta_log.flush()
    turn.say("two ")
    await turn.notice()
    turn.say("three ")
    await turn.delta_log.flush()
    turn.say("nobody else knows")

    elsewhere = Following(turn.db, type(turn.hub)(), runs_here=lambda _: False)
    follower = elsewhere.session(turn.key.session_id, Place.parse("2.1.0.2") or Place(0), within=TENANT)
    items = [*(await follower.next_batch(0) or [])]
    turn.say("!")
    await turn.complete()
    items += await follower.next_batch(5) or []
    await follower.close()

    assert shown(items) == [
        ("2.1.0.4", "e "),
        ("2.1.0.8", "two "),
        ("3", "notice"),
        ("3.1.0.14", "three "),
        ("3.1.0.32", "nobody else knows!"),
        ("4", "message.completed"),
    ]


async def test_what_somebody_else_writes_to_the_log_is_told_in_its_place(turn: TurnStage) -> None:
    reader = turn.follow(2)
    turn.say("a")
    await turn.somebody_queues()
    turn.say("b")
    await turn.somebody_queues(tell=False)
    turn.say("c")
    await turn.notice()
    turn.say("d")
    await reader.read()

    assert shown(reader.items) == [
        ("2.1.0.1", "a"),
        ("3", "turn.queued"),
        ("3.1.0.3", "bc"),
        ("4", "turn.queued"),
        ("5", "notice"),
        ("5.1.0.4", "d"),
    ]


async def test_hints_that_come_in_the_wrong_order_do_not_turn_the_log_around(turn: TurnStage) -> None:
    reader = turn.follow(2)
    first = await turn.somebody_queues(tell=False)
    second = await turn.somebody_queues(tell=False)
    turn.hub.tell(turn.key.session_id, second)
    turn.hub.tell(turn.key.session_id, first)
    await reader.read()

    assert reader.ids == ["3", "4"]


async def test_what_nobody_told_of_is_found_in_a_quiet_moment(turn: TurnStage) -> None:
    reader = turn.follow(2)
    assert await reader.read() == []
    await turn.somebody_queues(tell=False)
    turn.say("a")

    async with asyncio.timeout(10):
        while len(reader.items) < 2:
            await reader.read()
    assert shown(reader.items) == [("2.1.0.1", "a"), ("3", "turn.queued")]


async def test_a_commit_whose_answer_was_lost_is_found_by_what_it_says(turn: TurnStage) -> None:
    unit = Unit(events=[Notice(level="info", text="mine", source="s")])
    reader = turn.follow(2)
    lost = turn.recorder
    # The commit held, the answer did not come: then somebody else wrote, too.
    await turn.db.write(log_event, turn.key.session_id, Notice(level="info", text="not mine", source="s"), "t")
    await turn.db.write(lost._append, unit)  # pyright: ignore[reportPrivateUsage]
    await turn.db.write(log_event, turn.key.session_id, Notice(level="info", text="later", source="s"), "t")
    lost._in_doubt = unit  # pyright: ignore[reportPrivateUsage]
    lost._told += 1  # pyright: ignore[reportPrivateUsage]
    await turn.notice()
    await reader.read()

    texts = [item.payload().get("text") for item in reader.items]
    assert texts == ["not mine", "mine", "later", "n"]
    assert reader.ids == ["3", "4", "5", "6"]


async def test_a_reader_that_lagged_comes_back_for_the_rest(db: Database) -> None:
    turn = await TurnStage.begin(db, await new_session(db), buffer_bytes=2000)
    reader = turn.follow(2)
    turn.say("start ")
    await reader.read()
    for number in range(30):
        turn.say(f"{number} ")
        await turn.notice()
    await reader.read()
    assert reader.items[-1].type == "stream.lagged"

    again = turn.follow(await reader.leave())
    await again.read()

    assert reader.text + again.text == turn.texts[1, 0]
    await turn.close()


async def test_a_turn_follower_shows_one_turn_and_begins_before_it_does(turn: TurnStage) -> None:
    session_id = turn.key.session_id
    follower = await turn.following.join(session_id, turn.key.turn_id, within=TENANT)
    turn.say("hi")
    await turn.somebody_queues()
    await turn.complete()
    await turn.end()

    types = [item.type async for item in items_of(follower)]

    assert types == ["connected", "turn.started", "message.completed", "turn.completed", "response", "done"]


async def test_a_turn_follower_heals_from_the_rows(turn: TurnStage) -> None:
    follower = await turn.following.join(turn.key.session_id, turn.key.turn_id, within=TENANT)
    assert [item.type for item in await follower.next_batch(5) or []] == ["connected"]
    assert [item.type for item in await follower.next_batch(5) or []] == ["turn.started"]
    await turn.db.write(log_event, turn.key.session_id, Notice(level="info", text="t", source="s"), turn.key.turn_id)
    await turn.notice()

    assert [item.id for item in await follower.next_batch(5) or []] == ["3", "4"]
    await follower.close()


async def test_a_log_that_was_pruned_says_so_and_goes_on_with_what_is_left(turn: TurnStage) -> None:
    def prune(conn: Connection) -> None:
        conn.execute(events.delete().where(events.c.seq <= 3))
        conn.execute(sessions.update().values(pruned_seq=3))

    await turn.notice()
    await turn.notice()
    await turn.db.write(prune)
    reader = turn.follow(1)
    await reader.read()

    assert [item.type for item in reader.items] == ["stream.gap", "notice"]
    assert (reader.items[0].id, reader.items[1].id) == (None, "4")
    gap = {"type": "stream.gap", "session_id": turn.key.session_id, "requested": 1, "oldest": 4}
    assert reader.items[0].payload() == gap


async def test_who_was_past_what_is_gone_is_told_of_no_gap(turn: TurnStage) -> None:
    def prune(conn: Connection) -> None:
        conn.execute(events.delete().where(events.c.seq <= 2))
        conn.execute(sessions.update().values(pruned_seq=2))

    await turn.notice()
    await turn.db.write(prune)
    reader = turn.follow(2)
    await reader.read()

    assert reader.ids == ["3"]


async def test_only_the_types_that_were_asked_for_are_shown(turn: TurnStage) -> None:
    follower = turn.following.session(turn.key.session_id, Place(0), within=TENANT, types={"message.delta"})
    turn.say("text")
    await turn.notice()
    assert shown(await follower.next_batch(5) or []) == [("2.1.0.4", "text")]
    await turn.notice()
    turn.say("more")
    assert shown(await follower.next_batch(5) or []) == [("4.1.0.8", "more")]
    await turn.notice()

    assert await follower.next_batch(0) is None
    await follower.close()


async def test_children_are_told_in_their_parents_stream_without_an_id(turn: TurnStage) -> None:
    parent = turn.key.session_id
    child_id = await new_session(turn.db, parent_id=parent, external_id="c-1")
    names = {"child_id": child_id, "external_id": "c-1", "agent": "helper"}
    child = await TurnStage.begin(turn.db, child_id)
    follower = turn.following.session(parent, Place(2), within=TENANT, children=True)

    await turn.recorder.write(Unit(events=[ChildStarted(**names)]))
    await child.complete()
    await child.end()
    await turn.recorder.write(Unit(events=[ChildEnded(**names, status="completed")]))
    items: list[StreamItem] = []
    while len(items) < 6:
        items += await follower.next_batch(5) or []
    await follower.close()
    await child.close()

    told = [item for item in items if item.type == "child.event"]
    assert [item.type for item in items if item.type != "child.event"] == ["child.started", "child.ended"]
    assert [item.payload()["event"]["type"] for item in told] == [
        "session.created",
        "turn.started",
        "message.completed",
        "turn.completed",
    ]
    assert {item.id for item in told} == {None}
    assert told[0].payload()["child_id"] == child_id
    assert turn.hub.feed(child_id) is None


async def test_a_long_log_of_long_events_is_read_in_parts_of_a_size_and_whole(turn: TurnStage) -> None:
    texts = ["😀" * 10, *(letter * (MOST_BYTES // 3) for letter in "abcdefg"), "x" * 2 * MOST_BYTES, "y"]
    for text in texts:
        await turn.db.write(log_event, turn.key.session_id, Notice(level="info", text=text, source="s"), "t")
    elsewhere = Following(turn.db, type(turn.hub)(), runs_here=lambda _: False)
    follower = elsewhere.session(turn.key.session_id, Place(2), within=TENANT)

    batches: list[list[StreamItem]] = []
    while batch := await follower.next_batch(0):
        batches.append(batch)
    await follower.close()

    assert [item.payload()["text"] for batch in batches for item in batch] == texts
    assert [len(batch) for batch in batches] == [4, 3, 2, 1]


async def test_the_log_of_a_session_has_no_number_twice(turn: TurnStage) -> None:
    await turn.notice()
    await turn.somebody_queues()
    await turn.notice()

    def numbers(conn: Connection) -> list[int]:
        return [row.seq for row in conn.execute(select(events.c.seq).order_by(events.c.seq))]

    assert await turn.db.read(numbers) == [1, 2, 3, 4, 5]
