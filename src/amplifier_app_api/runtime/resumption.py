"""What a turn brings along that another process began."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from amplifier_app_api.models.turn import TokenUsage
from amplifier_app_api.storage.journal import JournalledCall


@dataclass
class Tally:
    """What a turn has used so far."""

    usage: TokenUsage = field(default_factory=TokenUsage)
    iterations: int = 0
    tool_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """How far a turn had come. `attempt` counts from 1.

    `requests` is the number of its last model call, `abandoned` are those of which pieces were told that became no
    message. `open_calls` are the tool calls without a result in the transcript, from their ids to their tools;
    `answered` the ids of those that have one. Of the open ones the results of `reused` are in the journal, and what
    became of `unknown` nobody knows.
    """

    attempt: int
    tally: Tally
    requests: int = 0
    abandoned: Sequence[int] = ()
    calls: Sequence[JournalledCall] = ()
    open_calls: Mapping[str, str] = field(default_factory=dict[str, str])
    answered: Sequence[str] = ()
    reused: Sequence[str] = ()
    unknown: Sequence[str] = ()
