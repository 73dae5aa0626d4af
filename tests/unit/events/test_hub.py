"""The hub: bounded, joined, in order, and nobody forgotten."""

from datetime import UTC, datetime
from typing import Any

from amplifier_app_api.events.hub import EventHub, Subscription
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.models.event import Delta
from amplifier_app_api.storage.events import StoredEvent

AT = datetime(2026, 1, 1, tzinfo=UTC)


def delta(text: str, offset: int, *, seq: int = 1, block: int = 0) -> StreamItem:
    return StreamItem.of_delta(
        Delta(
            type="message.delta",
            session_id="s",
            turn_id="t",
            seq=seq,
            request=1,
            block=block,
            offset=offset,
            text=text,
            at=AT,
        )
    )


def event(seq: int, kind: str = "notice", turn_id: str | None = "t") -> StreamItem:
    return StreamItem.of_event(StoredEvent(seq, kind, turn_id, b'{"type":"%s"}' % kind.encode()))


async def read(subscription: Subscription) -> list[Any]:
    return [item.id for item in await subscription.take(1) or []]


async def test_every_follower_gets_every_item_in_order() -> None:
    hub = EventHub()
    first, second = hub.subscribe("s"), hub.subscribe("s")

    hub.publish("s", [event(1), delta("a", 0), event(2)])
    hub.publish("another", [event(9)])

    assert await read(first) == await read(second) == ["1", "1.1.0.1", "2"]


async def test_nothing_in_time_is_none_and_the_end_is_an_empty_list() -> None:
    hub = EventHub()
    subscription = hub.subscribe("s")

    assert await subscription.take(0) is None
    hub.publish("s", [event(1)])
    hub.end_session("s")
    assert await read(subscription) == ["1"]
    assert await subscription.take(1) == []


async def test_pieces_of_one_block_are_joined_for_a_slow_reader_and_events_stay_between_them() -> None:
    hub = EventHub(buffer_bytes=4000)
    subscription = hub.subscribe("s")

    for place in range(100):
        hub.publish("s", [delta("x", place)])
    hub.publish("s", [event(2)])
    for place in range(100, 200):
        hub.publish("s", [delta("x", place, seq=2)])
    items = await subscription.take(1) or []

    assert not subscription.lagged
    assert "".join(item.payload()["text"] for item in items if item.delta) == "x" * 200
    assert len(items) < 60
    places = [item.id for item in items]
    assert places.index("1.1.0.100") < places.index("2") < len(places) - 1
    assert places[-1] == "2.1.0.200"


async def test_a_reader_too_far_behind_loses_its_place_and_nothing_more_is_kept_for_it() -> None:
    hub = EventHub(buffer_bytes=500)
    slow, quick = hub.subscribe("s"), hub.subscribe("s")

    for seq in range(1, 20):
        hub.publish("s", [event(seq)])
        assert await read(quick) == [str(seq)]

    assert slow.lagged
    assert await slow.take(1) == []


async def test_the_feed_goes_with_its_last_follower() -> None:
    hub = EventHub()
    first, second = hub.subscribe("s"), hub.subscribe("s")

    first.leave()
    assert hub.feed("s") is not None
    second.leave()

    assert hub.feed("s") is None


async def test_leaving_twice_does_not_take_the_feed_of_who_came_since() -> None:
    hub = EventHub()
    first = hub.subscribe("s")
    first.leave()
    later = hub.subscribe("s")

    first.leave()
    hub.publish("s", [event(1)])

    assert await read(later) == ["1"]


async def test_a_closed_hub_ends_everybody_and_whoever_comes_later() -> None:
    hub = EventHub()
    before = hub.subscribe("s")

    hub.close()

    assert await before.take(1) == []
    assert await hub.subscribe("s").take(1) == []
