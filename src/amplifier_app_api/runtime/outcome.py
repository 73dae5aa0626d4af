"""How a turn ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from amplifier_app_api.models.event import TERMINAL_EVENTS, TurnEnded
from amplifier_app_api.models.turn import StopReason, TokenUsage, TurnStatus
from amplifier_app_api.models.turn import Turn as TurnRow
from amplifier_app_api.runtime.kernel.failures import Failure, status_of
from amplifier_app_api.storage.events import StoredEvent

OPEN_CALL_ANSWERS: Mapping[TurnStatus, str] = {
    TurnStatus.COMPLETED: "This call was not answered.",
    TurnStatus.FAILED: "The turn failed before this call had a result.",
    TurnStatus.CANCELLED: "Cancelled by the user before this call had a result.",
    TurnStatus.INTERRUPTED: "Interrupted before this call had a result; whether it took effect is not known.",
}
"""What stands in the transcript for a call whose result never came."""
BUDGET_ANSWER = "The turn ended before this call had a result: its budget is used up."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended, as its callers are told. `whole` is the response as the model gave it, where that is known."""

    turn_id: str
    status: TurnStatus
    stop_reason: StopReason
    response: str | None
    usage: TokenUsage
    failure: Failure | None = None
    whole: str | None = None

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
        return TERMINAL_EVENTS[self.status](**fields)


def outcome_of(event: StoredEvent) -> Outcome:
    """The outcome that a terminal event of the log tells."""
    fields: dict[str, Any] = orjson.loads(event.data)
    failure = _failure(fields["code"], fields["error"])
    return Outcome(
        fields["turn_id"],
        TurnStatus(event.type.removeprefix("turn.")),
        StopReason(fields["stop_reason"]),
        fields["response"],
        TokenUsage.model_validate(fields["usage"]),
        failure,
    )


def outcome_of_row(turn: TurnRow) -> Outcome:
    """The outcome of a turn that has ended, as its row tells it."""
    reason = turn.stop_reason or StopReason.ERROR
    return Outcome(turn.turn_id, turn.status, reason, turn.response, turn.usage, _failure(turn.code, turn.error))


def _failure(code: str | None, error: str | None) -> Failure | None:
    return None if code is None else Failure(code, status_of(code), error or "")
