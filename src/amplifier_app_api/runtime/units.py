"""What a turn writes: units, each of which goes into one transaction as a whole."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.event import Event, MessageCompleted, MessageDiscarded
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.models.usage import Spent
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.events import StoredEvent, insert_events
from amplifier_app_api.storage.messages import NewMessage, bind_kernel_message, insert_messages

Effect = Callable[[Connection, "TurnKey"], None]
"""More that a unit changes: run in its transaction, once its epoch has been found to hold. Like every unit of work
it may be run again."""


Amendment = Callable[[Connection, Event], Event]
"""What an event says in the light of the rows: asked of every event of its unit, after the effects."""


@dataclass(slots=True)
class Unit:
    """What goes into one transaction."""

    messages: list[NewMessage] = field(default_factory=list[NewMessage])
    events: list[Event] = field(default_factory=list[Event])
    binds: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    effects: list[Effect] = field(default_factory=list[Effect])
    amendments: list[Amendment] = field(default_factory=list[Amendment])
    tally: dict[str, Any] | None = None
    """What the turn has used so far, for its row. The end of a turn writes its own."""

    def __bool__(self) -> bool:
        return bool(self.messages or self.events or self.binds or self.effects)

    def add(self, other: "Unit") -> None:
        """Append another unit."""
        self.messages += other.messages
        self.events += other.events
        self.binds += other.binds
        self.effects += other.effects
        self.amendments += other.amendments
        self.tally = self.tally if other.tally is None else other.tally

    def settles(self) -> set[int]:
        """The requests that this says the last word of."""
        return {event.request for event in self.events if isinstance(event, MessageCompleted | MessageDiscarded)}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended. `unit` is the last of it, the terminal event included.

    `own` is what it used itself, `whole` what it used with its children, `before` what its session had used.
    """

    status: TurnStatus
    stop_reason: StopReason
    unit: Unit
    values: dict[str, Any]
    own: Spent
    whole: Spent
    before: TokenUsage
    new_epoch: bool = False


@dataclass(frozen=True, slots=True)
class TurnKey:
    """Which turn of which session."""

    tenant_id: str
    session_id: str
    turn_id: str


def write_unit(conn: Connection, key: TurnKey, unit: Unit, *, last_seq: int, last_position: int) -> list[StoredEvent]:
    """Write rows whose numbers were taken: the last of them are `last_seq` and `last_position`."""
    for message_id, kernel in unit.binds:
        bind_kernel_message(conn, message_id, kernel)
    for effect in unit.effects:
        effect(conn, key)
    for amend in unit.amendments:
        unit.events = [amend(conn, event) for event in unit.events]
    insert_messages(
        conn,
        unit.messages,
        session_id=key.session_id,
        first_position=last_position - len(unit.messages) + 1,
        within=key.tenant_id,
    )
    return insert_events(
        conn,
        unit.events,
        session_id=key.session_id,
        turn_id=key.turn_id,
        first_seq=last_seq - len(unit.events) + 1,
        at=utc_now(),
        within=key.tenant_id,
    )
