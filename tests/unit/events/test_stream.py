"""Followers: the rows first, then live, without a gap or a repeat."""

from datetime import UTC, datetime

import pytest

from amplifier_app_api.events import children, stream
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import READ_PAGE, Follower, SessionFollower, TurnFollower, items_of
from amplifier_app_api.models.event import Delta
from amplifier_app_api.storage.engine import DatabaseUnavailable
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.log import Child, LogPart

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Log:
    """A log in memory, and a hub that tells of it."""

    def __init__(self, events: int = 0) -> None:
        self.hub = EventHub()
        self.away = 0  # so many reads fail
        self.rows: list[StoredEvent] = []
        for _ in range(events):
            self.append(tell=False)

    def append(self, kind: str = "notice", *, tell: bool = True, turn_id: str = "t", data: bytes = b"{}") -> None:
        row = StoredEvent(len(self.rows) + 1, kind, turn_id, data)
        self.rows.append(row)
        if tell:
            self.hub.publish("s", [StreamItem.of_event(row)])

    def piece(self, text: str, offset: int) -> None:
        delta = Delta(
            type="message.delta",
            session_id="s",
            turn_id="t",
            seq=len(self.rows),
            request=1,
            block=0,
            offset=offset,
            text=text,
            at=AT,
        )
        self.hub.publish("s", [StreamItem.of_delta(delta)])

    async def read(self, after: int, *, limit: int, deltas: bool) -> LogPart:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("away")
        return LogPart(self.rows[after : after + limit], [], more=len(self.rows) > after + limit)

    async def turn_at(self, seq: int) -> str | None:
        return "t"

    def follow(self, after: int = 0) -> SessionFollower:
        return SessionFollower(self.hub, "s", self, after=Place(after), runs_here=lambda: True)

    def follow_turn(self) -> TurnFollower:
        """As whoever sends a message does: the subscription is there before anything is told."""
        subscription = self.hub.subscribe("s")
        follower = SessionFollower(self.hub, "s", self, after=None, runs_here=lambda: True, subscription=subscription)
        return TurnFollower(follower, "s", "t")


async def ids(follower: Follower, batches: int) -> list[str | None]:
    found: list[str | None] = []
    for _ in range(batches):
        found += [item.id for item in await follower.next_batch(0) or []]
    return found


async def test_who_joins_late_reads_the_rows_and_goes_on_live_without_a_repeat() -> None:
    log = Log(3)
    follower = log.follow(after=1)
    log.append()  # in the rows and on the feed
    log.piece("a", 0)

    assert await ids(follower, 3) == ["2", "3", "4", "4.1.0.1"]
    await follower.close()


async def test_a_reader_stays_while_the_database_is_away_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "POLL_SECONDS", 0.001)
    log = Log(2)
    log.away = 2
    follower = log.follow()

    assert [item.id for item in await follower.next_batch(5) or []] == ["1", "2"]
    log.away = 1
    log.append(tell=False)
    assert await follower.next_batch(0) is None  # a quiet moment
    log.append()
    assert await follower.next_batch(0) is None  # nothing can be read now
    assert [item.id for item in await follower.next_batch(5) or []] == ["3", "4"]
    await follower.close()


async def test_children_are_followed_once_the_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "POLL_SECONDS", 0.001)
    log, away = Log(1), [DatabaseUnavailable("away")]

    async def running() -> list[Child]:
        if away:
            raise away.pop()
        return []

    follower = children.ChildrenFollower(log.follow(), running, lambda *_: log.follow())

    assert await follower.next_batch(5) is None
    assert [item.id for item in await follower.next_batch(5) or []] == ["1"]
    await follower.close()


async def test_a_long_log_is_read_in_pages() -> None:
    log = Log(READ_PAGE + 3)
    follower = log.follow()

    assert await ids(follower, 2) == [str(seq) for seq in range(1, READ_PAGE + 4)]


async def test_a_piece_from_before_the_rows_that_were_read_is_told_after_them_under_an_id_that_says_so() -> None:
    log = Log(1)
    follower = log.follow()
    log.piece("old", 0)
    log.append()

    assert await ids(follower, 2) == ["1", "2", "2.1.0.3"]


async def test_a_piece_that_nobody_has_the_beginning_of_is_left_to_the_whole_message() -> None:
    log = Log(1)
    follower = log.follow(after=1)
    log.piece("lost", 0)
    assert await ids(follower, 1) == ["1.1.0.4"]
    log.piece("also lost", 9)
    log.piece("later", 18)
    assert await ids(follower, 2) == []
    blocks = b'{"at":"2026-01-01T00:00:00.000000Z","request":1,"blocks":[{"block":0,"type":"text","text":"lost, all"}]}'
    log.append("message.completed", data=blocks)

    batch = await follower.next_batch(0) or []
    assert [(item.id, item.payload().get("text")) for item in batch] == [("1.1.0.9", ", all"), ("2", None)]


async def test_rows_that_are_gone_without_a_word_are_a_gap_and_no_end() -> None:
    log = Log(3)
    del log.rows[1]
    follower = log.follow()

    assert [item.type for item in await follower.next_batch(0) or []] == ["notice", "stream.gap", "notice"]


async def test_a_lost_hint_is_healed_from_the_rows() -> None:
    log = Log(1)
    follower = log.follow()
    assert await ids(follower, 1) == ["1"]
    log.append(tell=False)
    log.append()

    assert await ids(follower, 2) == ["2", "3"]


async def test_what_nobody_told_of_is_found_after_a_quiet_moment() -> None:
    log = Log(1)
    follower = log.follow()
    assert await ids(follower, 1) == ["1"]
    log.append(tell=False)

    assert await follower.next_batch(0) is None
    assert await ids(follower, 1) == ["2"]


async def test_a_reader_that_lagged_is_told_so_and_ends() -> None:
    log = Log()
    log.hub.buffer_bytes = 300
    follower = log.follow()
    assert await follower.next_batch(0) is None
    for _ in range(10):
        log.append(data=b"{" + b" " * 100 + b"}")
    log.rows.clear()

    assert [item.type for item in await follower.next_batch(0) or []] == ["stream.lagged"]
    assert await follower.next_batch(0) == []


async def test_a_session_that_is_gone_ends_its_followers() -> None:
    log = Log()
    follower = log.follow()
    log.hub.end_session("s")

    assert await follower.next_batch(0) == []


async def test_a_turn_is_framed_and_events_of_other_turns_are_left_out() -> None:
    log = Log()
    follower = log.follow_turn()
    log.append(turn_id="another")
    log.append()
    terminal = b'{"response":"ok","stop_reason":"end_turn","usage":{},"code":null,"error":null}'
    log.append("turn.completed", data=terminal)
    log.append()

    types = [item.type async for item in items_of(follower)]

    assert types == ["connected", "notice", "turn.completed", "response", "done"]
    assert log.hub.feed("s") is None


async def test_a_failed_turn_ends_with_its_error() -> None:
    log = Log()
    follower = log.follow_turn()
    log.append("turn.failed", data=b'{"code":"provider_error","error":"no"}')

    items = [item async for item in items_of(follower)]

    assert [item.type for item in items] == ["connected", "turn.failed", "error"]
    assert items[-1].payload() == {
        "type": "error",
        "session_id": "s",
        "turn_id": "t",
        "code": "provider_error",
        "message": "no",
    }


async def test_a_turn_whose_end_nobody_tells_of_ends_when_its_subscription_does() -> None:
    log = Log()
    follower = log.follow_turn()
    log.append()

    log.hub.end_session("s")

    assert [item.type async for item in items_of(follower)] == ["connected", "notice"]
