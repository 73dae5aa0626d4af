"""People who follow sessions: what each has seen, over as many connections and processes as it takes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import Follower
from amplifier_app_api.models.event import SETTLING_TYPES, TERMINAL_TYPES
from property.session_audit import Row
from property.session_world import Process

Spot = tuple[str | None, int, int]
"""A turn, one of its model calls, a block."""


async def all_there_is(follower: Follower) -> list[StreamItem]:
    """What a follower has now. A quiet moment makes it look into the rows: two are the end of it."""
    found: list[StreamItem] = []
    quiet = 0
    while quiet < 2:
        batch = await follower.next_batch(0)
        if batch == []:
            break
        quiet = quiet + 1 if batch is None else 0
        found += batch or []
    return found


@dataclass(eq=False)
class Reader:
    """Follows a session from an event on; `seq` is the last it knows, `place` where it would come back to."""

    session_id: str
    seq: int
    place: str = ""
    process: Process | None = None
    follower: Follower | None = None
    events: list[StreamItem] = field(default_factory=list[StreamItem])
    texts: dict[Spot, str] = field(default_factory=dict[Spot, str])
    begun: dict[Spot, int] = field(default_factory=dict[Spot, int])
    settled: set[tuple[str | None, int]] = field(default_factory=set[tuple[str | None, int]])

    def __post_init__(self) -> None:
        self.place = self.place or str(self.seq)

    @property
    def connected(self) -> bool:
        return self.process is not None and not self.process.dead and self.process in self.process.world.processes

    async def connect(self, process: Process) -> None:
        """Come to a process, with the place of the last that was seen."""
        place = Place.parse(self.place)
        assert place is not None
        self.process = process
        self.follower = await process.ask(process.sessions.follow(self.session_id, after=place))

    async def disconnect(self) -> None:
        """Leave."""
        if self.connected and self.follower is not None and self.process is not None:
            await self.process.ask(self.follower.close())
        self.process = self.follower = None

    async def read(self) -> None:
        """Read all there is."""
        assert self.follower is not None
        assert self.process is not None
        for item in await self.process.ask(all_there_is(self.follower)):
            self._see(item)

    def _see(self, item: StreamItem) -> None:
        assert not item.type.startswith("stream."), item.data
        self.place = item.id or self.place
        if item.delta is not None:
            delta = item.delta
            spot = (delta.turn_id, delta.request, delta.block)
            assert (delta.turn_id, delta.request) not in self.settled, f"{self.place}: a piece after the last word"
            self.begun.setdefault(spot, delta.offset)
            before = self.texts.setdefault(spot, "")
            assert delta.offset == self.begun[spot] + len(before), f"{self.place}: a piece is missing, or comes again"
            self.texts[spot] = before + delta.text
            return
        assert item.seq == self.seq + 1, f"{item.seq} follows {self.seq}"
        self.seq = item.seq
        self.events.append(item)
        if item.type in SETTLING_TYPES:
            self._settle(item)

    def _settle(self, item: StreamItem) -> None:
        request = item.fields["request"]
        self.settled.add((item.turn_id, request))
        if item.type != "message.completed":
            return
        whole = {block["block"]: block["text"] for block in item.fields["blocks"] if block["type"] == "text"}
        for (turn_id, asked, block), text in self.texts.items():
            if (turn_id, asked) == (item.turn_id, request):
                assert text == whole.get(block, "")[self.begun[turn_id, asked, block] :], "pieces of another text"

    def check(self, log: Sequence[Row]) -> None:
        """Everything that was seen is what the log of the session says."""
        by_seq = {row["seq"]: orjson.loads(row["data"]) for row in log}
        for item in self.events:
            assert item.seq is not None
            assert item.payload() == by_seq[item.seq]


@dataclass(eq=False)
class TurnReader:
    """Follows one turn, as `POST …/stream` answers."""

    session_id: str
    turn_id: str
    process: Process
    follower: Follower
    seen: list[StreamItem] = field(default_factory=list[StreamItem])

    async def read(self) -> None:
        """Read all there is."""
        if not self.over:
            self.seen += await self.process.ask(all_there_is(self.follower))

    @property
    def over(self) -> bool:
        return bool(self.seen) and self.seen[-1].type in ("done", "error")

    def check(self, log: Sequence[Row], *, to_the_end: bool) -> None:
        """What was seen is the turn; to its end, where the process lived so long."""
        mine = [row["seq"] for row in log if row["turn_id"] == self.turn_id]
        seen = [item.seq for item in self.seen if item.seq is not None]
        assert seen == mine[: len(seen)], "the stream of a turn has a gap"
        assert [item.type for item in self.seen[:1]] in ([], ["connected"])
        texts: dict[tuple[int, int], str] = defaultdict(str)
        for item in self.seen:
            if item.delta is not None:
                assert item.delta.offset == len(texts[item.delta.request, item.delta.block])
                texts[item.delta.request, item.delta.block] += item.delta.text
            elif item.type == "message.completed":
                for block in item.fields["blocks"]:
                    if (text := texts.get((item.fields["request"], block["block"]))) is not None:
                        assert text == block["text"]
        if to_the_end:
            assert self.over, [item.type for item in self.seen[-3:]]
            last = [item for item in self.seen if item.seq is not None][-1]
            assert last.type in TERMINAL_TYPES
