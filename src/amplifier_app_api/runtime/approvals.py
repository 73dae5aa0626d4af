"""Asking people.

A question is a row, written in one transaction with the event that tells of it; the turn then waits. Whoever answers,
from whatever node and whenever, changes the row, once. The owner of the turn sees it, at once when the answer came
through its own process and within a second otherwise, tells it in the log and goes on. So an answer that comes while
nobody runs the turn is found by whoever takes it over.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import Connection

from amplifier_app_api.models.approval import Approval, ApprovalStatus
from amplifier_app_api.models.event import ApprovalRequested, ApprovalResolved, Event
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.digest import digest_of
from amplifier_app_api.runtime.kernel.approval import Question, Verdict
from amplifier_app_api.runtime.kernel.proxies import json_copy
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.recorder import Recorder, TurnOver
from amplifier_app_api.runtime.units import Effect, TurnKey, Unit
from amplifier_app_api.storage.approvals import (
    approvals_by_id,
    approvals_of_turn,
    get_approval,
    insert_approval,
    remembered_answer,
    settle_approval,
    show_reason,
    show_waiting,
    tell_approval,
    withdraw_approvals,
)
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.engine import DatabaseUnavailable

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often rows are looked at for answers that came through another process."""
POLL_AT_ONCE = 500
SHOWN_LIMIT = 65_536
"""Characters of a call's arguments, as JSON, that people are shown."""
PROMPT_LIMIT = 10_000
NEARLY = timedelta(milliseconds=50)
"""A module that waits as long as it said gives up a moment before the row expires: that is no withdrawal."""
REMEMBERED = "remembered"
TIMEOUT = "timeout"


class ApprovalBoard:
    """Who in this process waits for which answer. One per process. `limit` is how long a question may stay open."""

    def __init__(self, db: Database, *, limit: timedelta) -> None:
        self.limit = limit
        self._db = db
        self._waiting: dict[str, asyncio.Future[Approval]] = {}
        self._masks: dict[str, SecretMask] = {}
        self._poller: asyncio.Task[None] | None = None

    def expect(self, approval_id: str, mask: SecretMask) -> asyncio.Future[Approval]:
        """The answer to come; `forget` it in the end. `mask` knows what is secret in the session."""
        answer = self._waiting[approval_id] = asyncio.get_running_loop().create_future()
        self._masks[approval_id] = mask
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="look for answers to approvals")
        return answer

    def forget(self, approval_id: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(approval_id, None)
        self._masks.pop(approval_id, None)

    def shown(self, approval_id: str, reason: str | None) -> str | None:
        """A reason as people may see it, as far as this process knows: the owner of the turn has the last word."""
        mask = self._masks.get(approval_id)
        return reason if mask is None or reason is None else mask.text(reason)

    def settled(self, approval: Approval) -> None:
        """An approval was settled, somewhere."""
        answer = self._waiting.get(approval.approval_id)
        if answer is not None and not answer.done():
            answer.set_result(approval)

    async def _poll(self) -> None:
        """Runs while somebody waits."""
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            ids = [approval_id for approval_id, answer in self._waiting.items() if not answer.done()]
            for start in range(0, len(ids), POLL_AT_ONCE):
                try:
                    found = await self._db.read(approvals_by_id, ids[start : start + POLL_AT_ONCE])
                except DatabaseUnavailable:
                    break  # looked at again in a second
                except Exception:
                    # Those who wait now would hear of no answer from elsewhere any more.
                    logger.exception("answers to approvals could not be looked for")
                    break
                for approval in found:
                    self.settled(approval)

    async def close(self) -> None:
        """End the looking; those who wait are ended by their turns."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)


@dataclass(eq=False, slots=True)
class _Open:
    """A question that the log has not told the end of."""

    approval: Approval
    answer: asyncio.Future[Approval]


class ApprovalDesk:
    """The questions of one turn.

    `refusal` says why nothing more may begin in the turn. `on_wait` is told when it begins to wait for a person, and
    when it goes on.
    """

    def __init__(
        self,
        board: ApprovalBoard,
        db: Database,
        recorder: Recorder,
        mask: SecretMask,
        key: TurnKey,
        *,
        refusal: Callable[[], str | None],
        on_wait: Callable[[bool], None],
    ) -> None:
        self._board = board
        self._db = db
        self._recorder = recorder
        self._mask = mask
        self._key = key
        self._limit = board.limit
        self._refusal = refusal
        self._on_wait = on_wait
        self._open: dict[str, _Open] = {}
        self._earlier: list[tuple[Approval, bool]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = False
        self._closed = False

    def release(self) -> None:
        """Let go of the turn, which is over: so nothing of it holds it any longer."""
        self._refusal, self._on_wait = _over, _heed_nothing

    async def recover(self) -> None:
        """Read what an earlier attempt of the turn has asked."""
        self._earlier = [
            (approval, told)
            for approval, told in await self._db.read(approvals_of_turn, self._key.turn_id)
            if approval.status is not ApprovalStatus.WITHDRAWN or not told
        ]
        self._asked = bool(self._earlier)

    async def ask(self, question: Question) -> Verdict:
        """Put a question to people and wait for the answer."""
        if self._closed:
            raise TurnOver
        why = self._refusal()
        if why is not None:
            return Verdict("deny", why)
        approval = self._new(question)
        known = self._asked_before(approval)
        if known is not None:
            return await self._go_on_with(*known)
        remembered = await self._remembered(approval)
        if self._closed:
            raise TurnOver
        self._asked = True
        if remembered is not None:
            await self._write_settled(remembered)
            return _verdict_of(remembered)
        return await self._ask(approval, _requested(approval), _effect(insert_approval, approval, tenant=True))

    def _new(self, question: Question) -> Approval:
        now = utc_now()
        limit = self._limit
        if question.timeout is not None:
            limit = min(limit, timedelta(seconds=min(question.timeout, limit.total_seconds())))
        arguments = json_copy(question.arguments)
        return Approval(
            approval_id=str(uuid.uuid4()),
            session_id=self._key.session_id,
            turn_id=self._key.turn_id,
            call_id=question.call_id,
            tool=made_storable(question.tool),
            arguments=_bounded(self._mask.json(arguments)),
            digest=digest_of(arguments),
            prompt=made_storable(self._mask.text(question.prompt))[:PROMPT_LIMIT],
            options=[made_storable(option) for option in question.options],
            default=made_storable(question.default),
            status=ApprovalStatus.PENDING,
            expires_at=now + limit,
            created_at=now,
        )

    def _asked_before(self, approval: Approval) -> tuple[Approval, bool] | None:
        """What an earlier attempt asked about this very call; each is found once."""

        def same(other: Approval) -> bool:
            if other.status is ApprovalStatus.WITHDRAWN:  # it is still to be told, when the turn ends
                return False
            if (other.call_id, other.digest, other.tool) != (approval.call_id, approval.digest, approval.tool):
                return False
            return other.prompt == approval.prompt or approval.call_id is not None

        found = [entry for entry in self._earlier if same(entry[0])]
        # Two modules may ask about one call: each gets the answer to its own words where it can be told.
        entry = next((one for one in found if one[0].prompt == approval.prompt), found[0] if found else None)
        if entry is not None:
            self._earlier.remove(entry)
        return entry

    async def _go_on_with(self, approval: Approval, told: bool) -> Verdict:
        if approval.status is ApprovalStatus.PENDING:
            return await self._ask(approval, None, _effect(_show_waiting, approval))
        if not told:
            await self._tell(approval)
        return _verdict_of(approval)

    async def _remembered(self, approval: Approval) -> Approval | None:
        before = await self._db.read(remembered_answer, approval.session_id, approval.tool, approval.digest)
        if before is None or before.decision not in approval.options:
            return None
        return approval.model_copy(
            update={
                "status": ApprovalStatus.ANSWERED,
                "decision": before.decision,
                "reason": before.reason,
                "decided_by": REMEMBERED,
                "decided_at": approval.created_at,
            }
        )

    async def _write_settled(self, approval: Approval) -> None:
        unit = Unit(
            events=[_requested(approval), _resolved(approval)],
            effects=[_effect(insert_approval, approval, tenant=True)],
        )
        await self._recorder.write(unit)

    async def _ask(self, approval: Approval, event: ApprovalRequested | None, effect: Effect) -> Verdict:
        entry = _Open(approval, self._board.expect(approval.approval_id, self._mask))
        self._open[approval.approval_id] = entry
        waits = False
        try:
            await self._recorder.write(Unit(events=[] if event is None else [event], effects=[effect]))
            waits = True
            self._on_wait(True)
            settled = await self._answer_to(entry)
            await self._tell(settled)
            return _verdict_of(settled)
        except asyncio.CancelledError:
            if not self._closed:  # only the module has lost its patience; the turn goes on
                self._own(self._give_up(entry), f"give up approval {approval.approval_id}")
            raise
        finally:
            self._board.forget(approval.approval_id)
            if waits:
                self._on_wait(False)

    async def _answer_to(self, entry: _Open) -> Approval:
        left = (entry.approval.expires_at - utc_now()).total_seconds()
        await asyncio.wait({entry.answer}, timeout=max(0.0, left))
        if self._closed:
            raise TurnOver
        if not entry.answer.done():
            return await self._settled(entry.approval, ApprovalStatus.EXPIRED)
        answered = entry.answer.result()
        if answered.status is ApprovalStatus.WITHDRAWN:
            return await self._settled(entry.approval, ApprovalStatus.WITHDRAWN)
        return answered

    async def _settled(self, approval: Approval, status: ApprovalStatus) -> Approval:
        """Settle it ourselves, unless somebody was first."""
        expired = status is ApprovalStatus.EXPIRED
        settled = await self._db.write(
            settle_approval,
            approval.approval_id,
            status,
            now=utc_now(),
            decision=approval.default if expired else None,
            decided_by=TIMEOUT if expired else None,
        )
        if settled is None:
            settled = await self._db.read(
                get_approval, approval.session_id, approval.approval_id, within=self._key.tenant_id
            )
        if settled is None:
            raise TurnOver  # the session was deleted
        return settled

    async def _tell(self, settled: Approval) -> None:
        self._open.pop(settled.approval_id, None)
        # Who answered through another process, or while nobody ran the turn, may have said what only we know is secret.
        shown = settled.model_copy(update={"reason": self._shown(settled.reason)})
        await self._recorder.write(Unit(events=[_resolved(shown)], effects=[_effect(tell_approval, shown)]))

    def _shown(self, reason: str | None) -> str | None:
        return None if reason is None else self._mask.text(reason)

    async def _give_up(self, entry: _Open) -> None:
        over = utc_now() >= entry.approval.expires_at - NEARLY
        try:
            status = ApprovalStatus.EXPIRED if over else ApprovalStatus.WITHDRAWN
            await self._tell(await self._settled(entry.approval, status))
        except TurnOver:
            return
        except DatabaseUnavailable:
            logger.warning("an approval stays open until its turn ends", extra={"turn_id": self._key.turn_id})

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def withdraw(self) -> None:
        """Nothing more may begin: the questions that are open are taken back, and what they are about is denied."""
        for entry in self._open.values():
            if not entry.answer.done():
                entry.answer.set_result(entry.approval.model_copy(update={"status": ApprovalStatus.WITHDRAWN}))

    def leave(self) -> None:
        """The turn goes on elsewhere: what is open stays open, and whoever waits here is let go."""
        self._closed = True
        for entry in self._open.values():
            if not entry.answer.done():
                entry.answer.cancel()

    def close(self, unit: Unit) -> None:
        """The turn ends with this unit: what is open is withdrawn, and whoever waits is let go."""
        if self._closed:
            return
        self._closed = True
        withdrawn = {"status": ApprovalStatus.WITHDRAWN, "decision": None}
        for entry in self._open.values():
            answered = entry.answer.done() and entry.answer.result().status is not ApprovalStatus.WITHDRAWN
            approval = entry.answer.result() if answered else entry.approval.model_copy(update=withdrawn)
            unit.events.append(_resolved(approval))
            if not entry.answer.done():
                entry.answer.set_result(approval)
        for approval, told in self._earlier:
            if not told:
                pending = approval.status is ApprovalStatus.PENDING
                unit.events.append(_resolved(approval.model_copy(update=withdrawn) if pending else approval))
        if self._asked:
            unit.effects.append(_withdrawal(self._mask))
            # Somebody may have answered elsewhere just now: that counts, and is what the log says.
            unit.amendments.append(_as_settled)
        self._open.clear()
        self._earlier.clear()


def _over() -> str:
    return "the turn is over"


def _heed_nothing(waits: bool) -> None:
    pass


def _effect(write: Callable[..., Any], approval: Approval, *, tenant: bool = False) -> Effect:
    def effect(conn: Connection, key: TurnKey) -> None:
        if tenant:
            write(conn, approval, within=key.tenant_id)
        else:
            write(conn, approval)

    return effect


def _show_waiting(conn: Connection, approval: Approval) -> None:
    show_waiting(conn, approval.turn_id, approval.session_id)


def _withdrawal(mask: SecretMask) -> Effect:
    def effect(conn: Connection, key: TurnKey) -> None:
        for told in withdraw_approvals(conn, key.turn_id, now=utc_now()):
            if told.reason is not None:
                show_reason(conn, told.approval_id, mask.text(told.reason))

    return effect


def _as_settled(conn: Connection, event: Event) -> Event:
    if not isinstance(event, ApprovalResolved) or event.status != ApprovalStatus.WITHDRAWN:
        return event
    settled = approvals_by_id(conn, [event.approval_id])
    return _resolved(settled[0]) if settled else event


def _requested(approval: Approval) -> ApprovalRequested:
    return ApprovalRequested(approval_id=approval.approval_id, tool=approval.tool, expires_at=approval.expires_at)


def _resolved(approval: Approval) -> ApprovalResolved:
    return ApprovalResolved(
        approval_id=approval.approval_id,
        tool=approval.tool,
        status=approval.status.value,
        decision=approval.decision,
    )


def _verdict_of(approval: Approval) -> Verdict:
    if approval.status is ApprovalStatus.WITHDRAWN or approval.decision is None:
        return Verdict("deny", "the turn is being stopped")
    return Verdict(
        approval.decision,
        approval.reason,
        remember=approval.remember,
        expired=approval.status is ApprovalStatus.EXPIRED,
    )


def _bounded(arguments: Any) -> Any:
    text = orjson.dumps(arguments).decode()
    return arguments if len(text) <= SHOWN_LIMIT else {"truncated": True, "preview": text[:SHOWN_LIMIT]}
