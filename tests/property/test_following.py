"""Readers that come and go at random, on random streams: what each has seen is the stream, once and in order.

A turn speaks, is interrupted by events, asks again, is written about by others. Meanwhile readers read, lose their
connection in the middle of a batch, and come back with the last id they saw. A reader that never left is the
yardstick: nobody may see anything else, anything twice, or in another order, and whoever had begun to see an answer
must have all of it when its message is complete. One thing may come later than it did for that reader: the rest of an
answer that was completed while a reader was away comes right before its message. And one thing the whole message alone
says: the rest of an answer whose reader came back with the number of an event that fell into the middle of it.
"""

import asyncio
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.storage import Database
from log_stage import TurnStage, new_session

Atom = tuple[Any, ...]
"""What a stream is made of: an event by its number, or one code point of one block."""

STEPS = st.one_of(
    st.tuples(st.just("say"), st.text("aé😀", min_size=1, max_size=6)),
    st.tuples(st.just("block"), st.none()),
    st.tuples(st.just("complete"), st.none()),
    st.tuples(st.just("discard"), st.none()),
    st.tuples(st.just("notice"), st.none()),
    st.tuples(st.just("queued"), st.booleans()),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("cut"), st.tuples(st.integers(0, 2), st.integers(0, 5))),
)


class Coming:
    """A reader over as many connections as it takes."""

    def __init__(self, turn: TurnStage) -> None:
        self.turn = turn
        self.reader = turn.follow(0)
        self.seen: list[StreamItem] = []
        self.left_to_the_message: set[int] = set()

    @property
    def place(self) -> str:
        return next((item.id for item in reversed(self.seen) if item.id is not None), "0")

    async def read(self) -> None:
        self.seen += await self.reader.read()
        if self.seen and self.seen[-1].type == "stream.lagged":
            self.seen.pop()
            await self.come_back()

    async def cut_after(self, count: int) -> None:
        """The connection breaks when `count` more items of those that are there have arrived."""
        self.seen += (await self.reader.read())[:count]
        if self.seen and self.seen[-1].type == "stream.lagged":
            self.seen.pop()
        await self.come_back()

    async def come_back(self) -> None:
        await self.reader.leave()
        if "." not in self.place:
            self.left_to_the_message |= {item.delta.request for item in self.seen if item.delta is not None}
        self.reader = self.turn.follow(self.place)


def atoms(items: Sequence[StreamItem]) -> list[Atom]:
    found: list[Atom] = []
    for item in items:
        if item.delta is None:
            found.append(("event", item.seq, item.type))
        else:
            delta = item.delta
            found += [
                (delta.request, delta.block, delta.offset + index, letter) for index, letter in enumerate(delta.text)
            ]
    return found


def in_order(part: Sequence[Atom], whole: Sequence[Atom]) -> bool:
    """Whether `part` is `whole` with some left out."""
    rest = iter(whole)
    return all(atom in rest for atom in part)


def no_sooner(part: Sequence[Atom], whole: Sequence[Atom]) -> bool:
    """Whether no code point comes before an event that it came after."""
    events_before = dict(zip(whole, _events_before(whole), strict=True))
    return all(count >= events_before[atom] for atom, count in zip(part, _events_before(part), strict=True))


def _events_before(atoms: Sequence[Atom]) -> list[int]:
    return list(accumulate((atom[0] == "event" for atom in atoms), initial=0))[:-1]


def text_of(atoms: Sequence[Atom]) -> list[Atom]:
    return [atom for atom in atoms if atom[0] != "event"]


async def play(steps: Sequence[tuple[str, Any]], path: Path, buffer_bytes: int) -> None:
    async with Database(path) as db:
        turn = await TurnStage.begin(db, await new_session(db), buffer_bytes=buffer_bytes)
        steady = Coming(turn)
        readers = [Coming(turn) for _ in range(3)]
        request, block = 1, 0
        for step, value in steps:
            match step:
                case "say":
                    turn.say(value, request=request, block=block)
                case "block":
                    block += 1
                case "complete" | "discard":
                    await (turn.complete(request) if step == "complete" else turn.discard(request))
                    request, block = request + 1, 0
                case "notice":
                    await turn.notice()
                case "queued":
                    await turn.somebody_queues(tell=value)
                case "flush":
                    await turn.delta_log.flush()
                case "read":
                    await readers[value].read()
                case _:
                    await readers[value[0]].cut_after(value[1])
            await steady.read()
        await turn.complete(request)
        await turn.end()
        for reader in (steady, *readers):
            await reader.read()
            await reader.reader.leave()
        await turn.close()
        check(turn, steady, readers)


def check_whole_messages(items: Sequence[StreamItem], excused: set[int]) -> None:
    """Where a message is complete, its reader has all of the text that it had begun to see, and gets no more of it."""
    seen: dict[int, int] = {}
    settled: set[int] = set()
    for item in items:
        if item.delta is not None:
            assert item.delta.request not in settled
            seen[item.delta.request] = seen.get(item.delta.request, 0) + len(item.delta.text)
        elif item.type in ("message.completed", "message.discarded"):
            fields = item.payload()
            settled.add(fields["request"])
            if item.type == "message.completed" and fields["request"] in seen.keys() - excused:
                assert seen[fields["request"]] == sum(len(block["text"]) for block in fields["blocks"])


def check(turn: TurnStage, steady: Coming, readers: Sequence[Coming]) -> None:
    whole = atoms(steady.seen)
    numbers = [item.seq for item in steady.seen if item.seq is not None]
    said = {(*place, index, letter) for place, text in turn.texts.items() for index, letter in enumerate(text)}
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(text_of(whole)) == said
    for reader in readers:
        mine = atoms(reader.seen)
        assert [item.seq for item in reader.seen if item.seq is not None] == numbers
        assert len(set(mine)) == len(mine)
        assert in_order(text_of(mine), text_of(whole))
        assert no_sooner(mine, whole)
        check_whole_messages(reader.seen, reader.left_to_the_message)


@settings(max_examples=120)
@given(st.lists(STEPS, max_size=40), st.sampled_from([600, 2**20]))
def test_whoever_comes_back_has_seen_the_stream_once_and_in_order(
    steps: list[tuple[str, Any]], buffer_bytes: int
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(play(steps, Path(folder) / "app.db", buffer_bytes))


def test_a_reader_is_told_apart_from_one_that_missed_something() -> None:
    assert in_order([("event", 1), ("event", 3)], [("event", 1), ("event", 2), ("event", 3)])
    assert not in_order([("event", 3), ("event", 1)], [("event", 1), ("event", 2), ("event", 3)])
