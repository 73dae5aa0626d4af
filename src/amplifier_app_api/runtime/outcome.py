"""How a turn ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from amplifier_app_api.models.event import TurnCancelled, TurnCompleted, TurnEnded, TurnFailed, TurnInterrupted
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.runtime.kernel.failures import Failure
from amplifier_app_api.storage.events import StoredEvent

OPEN_CALL_ANSWERS: Mapping[TurnStatus, str] = {
    TurnStatus.COMPLETED: "This call was not answered.",
    TurnStatus.FAILED: "The turn failed before this call had a result.",
    TurnStatus.CANCELLED: "Cancelled by the user before this call had a result.",
    TurnStatus.INTERRUPTED: "Interrupted before this call had a result; whether it took effect is not known.",
}
"""What stands in the transcript for a call whose result never came."""

_TERMINAL: Mapping[TurnStatus, type[TurnEnded]] = {
    TurnStatus.COMPLETED: TurnCompleted,
    TurnStatus.FAILED: TurnFailed,
    TurnStatus.CANCELLED: TurnCancelled,
    TurnStatus.INTERRUPTED: TurnInterrupted,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended, as its callers are told."""

    turn_id: str
    status: TurnStatus
    stop_reason: StopReason
    response: str | None
    usage: TokenUsage
    failure: Failure | None = None

    @property
    def code(self) -> str | None:
        """The error code of a failed turn."""
        return None if self.failure is None else self.failure.code

    @property
    def error(self) -> str | None:
        """The sentence of a failed turn."""
        return None if self.failure is None else self.failure.detail

    def event(self) -> TurnEnded:
        """The terminal event."""
        fields: dict[str, Any] = {
            "stop_reason": self.stop_reason,
            "response": self.response,
            "usage": self.usage,
            "code": self.code,
            "error": self.error,
        }
        return _TERMINAL[self.status](**fields)


def outcome_of(event: StoredEvent) -> Outcome:
    """The outcome that a terminal event of the log tells."""
    fields: dict[str, Any] = orjson.loads(event.data)
    failure = None if fields["code"] is None else Failure(fields["code"], 502, fields["error"] or "")
    return Outcome(
        fields["turn_id"],
        TurnStatus(event.type.removeprefix("turn.")),
        StopReason(fields["stop_reason"]),
        fields["response"],
        TokenUsage.model_validate(fields["usage"]),
        failure,
    )
