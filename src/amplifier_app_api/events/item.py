"""One thing a follower gets, ready to be framed."""

from typing import Any, cast

import orjson

from amplifier_app_api.models.event import SCHEMA, Delta
from amplifier_app_api.models.fields import format_time
from amplifier_app_api.storage.events import StoredEvent


class StreamItem:
    """An event or a delta as it goes out: its type, its SSE id, its one line of JSON.

    `id` is `<seq>` for a durable event, `<seq>.<request>.<block>.<end>` for a delta, None for framing. The
    same object goes to every follower, so that everything is encoded once.
    """

    __slots__ = ("_fields", "_frame", "data", "delta", "id", "seq", "turn_id", "type")

    def __init__(
        self,
        type: str,  # noqa: A002 - the name of the field on the wire
        data: bytes,
        *,
        id: str | None = None,  # noqa: A002 - the name of the field on the wire
        seq: int | None = None,
        turn_id: str | None = None,
        delta: Delta | None = None,
    ) -> None:
        self.type = type
        self.data = data
        self.id = id
        self.seq = seq
        self.turn_id = turn_id
        self.delta = delta
        self._frame: bytes | None = None
        self._fields: dict[str, Any] | None = None

    @classmethod
    def of_event(cls, event: StoredEvent) -> "StreamItem":
        """A durable event."""
        return cls(event.type, event.data, id=str(event.seq), seq=event.seq, turn_id=event.turn_id)

    @classmethod
    def of_delta(cls, delta: Delta) -> "StreamItem":
        """A piece of an answer."""
        data = orjson.dumps(
            {
                "type": delta.type,
                "session_id": delta.session_id,
                "turn_id": delta.turn_id,
                "at": format_time(delta.at),
                "schema": SCHEMA,
                "request": delta.request,
                "block": delta.block,
                "offset": delta.offset,
                "text": delta.text,
            }
        )
        place = f"{delta.seq}.{delta.request}.{delta.block}.{delta.end}"
        return cls(delta.type, data, id=place, turn_id=delta.turn_id, delta=delta)

    @classmethod
    def framing(cls, type: str, **fields: Any) -> "StreamItem":  # noqa: A002 - the name of the field on the wire
        """What frames one answer or tells of the stream itself: no number, no id."""
        return cls(type, orjson.dumps({"type": type, **fields}))

    def frame(self) -> bytes:
        """The server-sent event."""
        if self._frame is None:
            identity = b"" if self.id is None else b"id: " + self.id.encode() + b"\n"
            self._frame = b"event: " + self.type.encode() + b"\n" + identity + b"data: " + self.data + b"\n\n"
        return self._frame

    def payload(self) -> dict[str, Any]:
        """The JSON of the line, as a dict."""
        return cast("dict[str, Any]", orjson.loads(self.data))

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON of the line, taken apart once for all who look into it; nobody changes it."""
        if self._fields is None:
            self._fields = self.payload()
        return self._fields

    @property
    def size(self) -> int:
        """About how many bytes the item holds while it waits."""
        return len(self.data) + 64
