"""The journal of one turn's tool calls, so that none is made twice by a process that goes on with the turn.

A call's row is written in the transaction that tells its start, its result in the one that tells its end. A turn
that is gone on with finds its rows here: what has a result is not run, what was begun and has none is only run again
when its tool says that this is harmless.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from amplifier_app_api.models.content import Content, kernel_content, prompt_of
from amplifier_app_api.runtime.digest import digest_of
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.shown import shown_content, shown_mapping, shown_message
from amplifier_app_api.runtime.units import Effect, TurnKey
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.journal import (
    FINISHED,
    JournalledCall,
    finish_call,
    give_up_call,
    row_of_call,
    start_call,
    start_call_again,
)
from amplifier_app_api.storage.messages import SEALED

OUTCOME_UNKNOWN = (
    "Outcome unknown: the server stopped while this call ran. Whether it took effect is not known, "
    "and it was not made again."
)


@dataclass(frozen=True, slots=True)
class Seals:
    """How the rows of a session keep what holds a secret: `seal` makes a text of a JSON value, `unseal` the reverse."""

    mask: SecretMask
    seal: Callable[[Any], str]
    unseal: Callable[[str], Any]

    def kept(self, value: Any) -> Any:
        """A JSON value as a row may hold it."""
        return {SEALED: self.seal(value)} if self.mask.json(value) != value else value

    def kept_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """A kernel's message dict as a row may hold it."""
        return {SEALED: self.seal(message)} if shown_message(message, self.mask) != message else message

    def row_of_user(self, content: Content, context: dict[str, Any] | None, kernel: Content) -> "RowOfUser":
        """What a user said as a row may hold it; `kernel` is what the model is given of it."""
        shown, beside = shown_content(content, self.mask), shown_mapping(context, self.mask)
        message: dict[str, Any] = {"role": "user", "content": kernel}
        masked = (shown, beside) != (content, context)
        return RowOfUser(shown, beside, {SEALED: self.seal(message)} if masked else self.kept_message(message), masked)

    def whole(self, kept: Any) -> Any:
        """The value again."""
        match kept:
            case {"$sealed": str() as sealed}:
                return self.unseal(sealed)
            case _:
                return kept


@dataclass(frozen=True, slots=True)
class RowOfUser:
    """A message of a user: what people see, and the kernel's dict, which is sealed when `masked`."""

    content: Content
    context: dict[str, Any] | None
    kernel: dict[str, Any]
    masked: bool


def said_by_user(
    content: Content, context: dict[str, Any] | None, kernel: dict[str, Any] | None, seals: Seals
) -> tuple[str, Content]:
    """The prompt of a stored message, and what the model is given of it. `kernel` is there when it is not all shown."""
    if kernel is not None and SEALED in kernel:
        content, context = seals.whole(kernel)["content"], None  # with its context in front
    return prompt_of(content, context), kernel_content(content, context)


class Journal:
    """The calls of a turn. `earlier` are those of earlier attempts, `answered` the ids its transcript has results of.

    A model may give several calls of one turn the same id, one after the other: each has a row of its own.
    """

    def __init__(self, seals: Seals, *, earlier: Iterable[JournalledCall] = (), answered: Iterable[str] = ()) -> None:
        self._seals = seals
        self._earlier = {call.call_id: call for call in earlier}
        self._answered = Counter(answered)
        self._begun: set[str] = set()
        self._rows: dict[str, str] = {}

    def recall(self, call_id: str, tool: str) -> JournalledCall | None:
        """What an earlier attempt wrote of the call that is about to be made. None: nothing."""
        row = self._row_of(call_id)
        call = self._earlier.get(row)
        return call if call is not None and call.tool == tool and row not in self._begun else None

    def result_of(self, call: JournalledCall) -> Any:
        """The result of a call that was finished, as `finished` was given it."""
        return self._seals.whole(call.result)

    def started(self, call_id: str, tool: str, arguments: Any, repeatable: str | None) -> Effect:
        """A tool is about to run."""
        again = self.recall(call_id, tool)
        row = again.call_id if again is not None else self._free(call_id)
        self._begun.add(row)
        self._rows[call_id] = row
        if again is not None:
            return lambda conn, key: start_call_again(conn, row, turn_id=key.turn_id)
        digest, now = digest_of(arguments), utc_now()

        def write(conn: Connection, key: TurnKey) -> None:
            start_call(
                conn,
                row,
                turn_id=key.turn_id,
                session_id=key.session_id,
                tool=tool,
                digest=digest,
                repeatable=repeatable,
                at=now,
                within=key.tenant_id,
            )

        return write

    def finished(self, call_id: str, result: Any) -> Effect:
        """The tool has run; `result` is JSON."""
        row, kept, now = self._rows.get(call_id, call_id), self._seals.kept(result), utc_now()
        return lambda conn, key: finish_call(conn, row, turn_id=key.turn_id, result=kept, at=now)

    def finished_before(self, call: JournalledCall, result: Any) -> Effect:
        """An earlier attempt's call has its result after all."""
        self._begun.add(call.call_id)
        kept, now = self._seals.kept(result), utc_now()
        return lambda conn, key: finish_call(conn, call.call_id, turn_id=key.turn_id, result=kept, at=now)

    def given_up(self, call: JournalledCall) -> Effect:
        """The call is answered with not knowing."""
        self._begun.add(call.call_id)
        now = utc_now()
        return lambda conn, key: give_up_call(conn, call.call_id, turn_id=key.turn_id, at=now)

    def answered(self, call_id: str) -> None:
        """The transcript has the result of a call: another one under this id is another call."""
        self._answered[call_id] += 1

    def _row_of(self, call_id: str) -> str:
        return row_of_call(call_id, self._answered[call_id] + 1)

    def _free(self, call_id: str) -> str:
        count = self._answered[call_id] + 1
        while (row := row_of_call(call_id, count)) in self._begun or row in self._earlier:
            count += 1
        return row


def sorted_out(
    calls: Iterable[JournalledCall],
    open_calls: Mapping[str, str],
    answered: Iterable[str],
    children: Collection[str | None],
) -> tuple[list[str], list[str]]:
    """Of a turn's open calls those whose results are on record, and those of which nobody knows what became.

    A call that started a child session (`children`) is neither: what became of it, the child says.
    """
    counted, known = Counter(answered), {call.call_id: call for call in calls}
    reused: list[str] = []
    unknown: list[str] = []
    for call_id in open_calls:
        call = known.get(row_of_call(call_id, counted[call_id] + 1))
        if call is None:
            continue
        if call.status == FINISHED:
            reused.append(call_id)
        elif call.repeatable is None and call_id not in children:
            unknown.append(call_id)
    return reused, unknown
