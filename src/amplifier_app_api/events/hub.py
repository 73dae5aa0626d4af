"""From whoever records events to whoever follows them, in this process."""

import asyncio
from collections.abc import Iterable, Sequence

from amplifier_app_api.events.delta_log import DeltaLog
from amplifier_app_api.events.item import StreamItem
from amplifier_app_api.events.tail import Tail, Writer
from amplifier_app_api.models.event import Delta
from amplifier_app_api.storage.events import StoredEvent

DEFAULT_BUFFER_BYTES = 1024 * 1024


class Subscription:
    """What one follower has not read yet: bounded.

    Deltas of one block are joined for a reader that is half a buffer behind. One that is further behind than
    `limit` bytes all the same loses its place: everything is dropped, it reads `stream.lagged` and resumes from
    the log.
    """

    def __init__(self, feed: "SessionFeed", limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._join_at = limit // 2
        self._items: list[StreamItem] = []
        self._size = 0
        self._ready = asyncio.Event()
        self.lagged = False
        self.closed = False

    def push(self, item: StreamItem) -> None:
        """Take one more item, or give up the place of this reader."""
        if self.closed or self.lagged:
            return
        self._items.append(item)
        self._size += item.size
        if self._size > self._join_at:
            self._items = _joined(self._items)
            self._size = sum(kept.size for kept in self._items)
            # The next pass waits until there is half as much again, so that joining stays linear in what comes.
            self._join_at = max(self._limit // 2, self._size * 3 // 2)
        if self._size > self._limit:
            self._items.clear()
            self._size = 0
            self.lagged = True
        self._ready.set()

    def end(self) -> None:
        """Nothing more will come; what is here may still be read."""
        self.closed = True
        self._ready.set()

    async def take(self, timeout: float) -> list[StreamItem] | None:  # noqa: ASYNC109 - the wait of one read
        """Everything that is here, waiting for the first of it. None: nothing came in `timeout` seconds.

        An empty list says that the subscription is over, or that the reader lagged.
        """
        if not self._items and not self.closed and not self.lagged:
            try:
                async with asyncio.timeout(timeout):
                    await self._ready.wait()
            except TimeoutError:
                return None
        items, self._items = self._items, []
        self._size = 0
        self._join_at = self._limit // 2
        if not self.closed and not self.lagged:
            self._ready.clear()
        return items

    def leave(self) -> None:
        """Stop following."""
        self._feed.remove(self)
        self.end()


class SessionFeed:
    """Who follows one session."""

    def __init__(self, hub: "EventHub", session_id: str) -> None:
        self._hub = hub
        self._session_id = session_id
        self._subscriptions: set[Subscription] = set()

    @property
    def followed(self) -> bool:
        """Whether anybody would see an item."""
        return bool(self._subscriptions)

    def publish(self, items: Iterable[StreamItem]) -> None:
        """Hand items to every follower, in order."""
        if not self._subscriptions:
            return
        for item in items:
            for subscription in self._subscriptions:
                subscription.push(item)

    def publish_one(self, item: StreamItem) -> None:
        """Hand one item to every follower."""
        for subscription in self._subscriptions:
            subscription.push(item)

    def subscribe(self) -> Subscription:
        """Follow from now on."""
        subscription = Subscription(self, self._hub.buffer_bytes)
        self._subscriptions.add(subscription)
        if self._hub.closed:
            subscription.end()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Forget a follower, and the feed when it was the last."""
        self._subscriptions.discard(subscription)
        if not self._subscriptions:
            self._hub.forget(self._session_id, self)

    def end(self) -> None:
        """End every follower: the session is gone, or the server stops."""
        for subscription in self._subscriptions:
            subscription.end()


class EventHub:
    """The feeds of the sessions that somebody follows now, and the tails of the turns that run here.

    `delta_log` makes rows of what running turns say; without one nothing of an unfinished answer is kept.
    """

    def __init__(self, buffer_bytes: int = DEFAULT_BUFFER_BYTES) -> None:
        self.buffer_bytes = buffer_bytes
        self.closed = False
        self.delta_log: DeltaLog | None = None
        self._feeds: dict[str, SessionFeed] = {}
        self._tails: dict[str, Tail] = {}

    def subscribe(self, session_id: str) -> Subscription:
        """Follow a session from now on."""
        return self._feeds.setdefault(session_id, SessionFeed(self, session_id)).subscribe()

    def feed(self, session_id: str) -> SessionFeed | None:
        """The feed of a session that is followed."""
        return self._feeds.get(session_id)

    def publish(self, session_id: str, items: Iterable[StreamItem]) -> None:
        """Hand items to every follower of a session."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.publish(items)

    def open_tail(
        self,
        *,
        tenant_id: str,
        session_id: str,
        turn_id: str,
        epoch: int,
        seq: int,
        writer: Writer,
    ) -> Tail:
        """The tail of a turn that begins to run here; it takes the place of an earlier one of its session."""
        tail = Tail(
            tenant_id=tenant_id,
            session_id=session_id,
            turn_id=turn_id,
            epoch=epoch,
            seq=seq,
            writer=writer,
            on_text=None if self.delta_log is None else self.delta_log.add,
        )
        if (earlier := self._tails.get(session_id)) is not None:
            earlier.close()
        self._tails[session_id] = tail
        return tail

    def tail(self, session_id: str) -> Tail | None:
        """The tail of the turn that runs here in this session."""
        return self._tails.get(session_id)

    def close_tail(self, tail: Tail) -> None:
        """The turn is over, or not ours any more: from now on the rows have everything."""
        tail.close()
        if self._tails.get(tail.session_id) is tail:
            del self._tails[tail.session_id]

    def tell(self, session_id: str, events: Sequence[StoredEvent]) -> None:
        """Events that were committed beside a running turn, or while none runs: followers get them in their place."""
        tail = self._tails.get(session_id)
        if tail is None:
            self.publish(session_id, (StreamItem.of_event(event) for event in events))
        else:
            tail.writer.saw(events)

    def forget(self, session_id: str, feed: SessionFeed) -> None:
        """Drop a feed that nobody follows. Another one that took its place since stays."""
        if self._feeds.get(session_id) is feed:
            del self._feeds[session_id]

    def end_session(self, session_id: str) -> None:
        """End every follower of a session."""
        feed = self._feeds.get(session_id)
        if feed is not None:
            feed.end()

    def close(self) -> None:
        """End every follower, and whoever comes later at once."""
        self.closed = True
        for feed in self._feeds.values():
            feed.end()


def _joined(items: list[StreamItem]) -> list[StreamItem]:
    """The same items with runs of deltas that continue each other made one."""
    result: list[StreamItem] = []
    run: list[Delta] = []
    for item in items:
        if item.delta is not None and run and item.delta.continues(run[-1]):
            run.append(item.delta)
            continue
        if len(run) > 1:
            result[-1] = StreamItem.of_delta(_one(run))
        run = [] if item.delta is None else [item.delta]
        result.append(item)
    if len(run) > 1:
        result[-1] = StreamItem.of_delta(_one(run))
    return result


def _one(run: list[Delta]) -> Delta:
    first = run[0]
    return Delta(
        type=first.type,
        session_id=first.session_id,
        turn_id=first.turn_id,
        seq=first.seq,
        request=first.request,
        block=first.block,
        offset=first.offset,
        text="".join(delta.text for delta in run),
        at=run[-1].at,
    )
