"""Messages and turns of sessions: the half of `SessionManager` that is about what people say."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.core.fields import is_storable, valid
from amplifier_app_api.errors import AppError
from amplifier_app_api.events.stream import Follower, items_of
from amplifier_app_api.models.content import content_of
from amplifier_app_api.models.page import Page, PageRequest
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.models.session import CancelRequest, MessageRequest, WhenBusy
from amplifier_app_api.models.turn import Budget, TokenUsage, Turn, TurnStatus
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.outcome import Outcome
from amplifier_app_api.runtime.pool import SessionNotFound, SessionRuntime
from amplifier_app_api.runtime.refusals import TurnNotFound
from amplifier_app_api.runtime.sending import PENDING, Sent
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.idempotency import KeptAnswer, RequestKey
from amplifier_app_api.storage.sessions import get_session
from amplifier_app_api.storage.turns import get_turn, list_turns


class TurnFailure(AppError):
    """The turn that answers a message failed. Status and code are those of the failure, `turn_id` names the turn."""

    title = "The turn failed"

    def __init__(self, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is None:
            raise LookupError("a failed turn has a failure")
        headers = {} if failure.retry_after is None else {"Retry-After": str(max(1, round(failure.retry_after)))}
        super().__init__(failure.detail, facts={"turn_id": outcome.turn_id}, headers=headers)
        self.status = failure.status
        self.code = failure.code


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that was taken to be followed. `follower` is None when it was handed to a turn that runs."""

    sent: Sent
    follower: Follower | None


class SessionTurns:
    """Messages and turns within one tenant.

    A message is a text, or a list of blocks, `{"type": "text", "text"}` and `{"type": "image", "source"}`.

    `when_busy` says what to do with a message while a turn runs: `reject` it (`SessionBusy`), `queue` it,
    `interrupt` the turn, or `steer` it. `key` makes the request one that is carried out once.
    """

    _db: Database
    _runtime: SessionRuntime
    _principal: Principal

    @property
    def _tenant(self) -> str:
        return self._principal.tenant_id

    # Messages.

    async def send_message(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
    ) -> dict[str, Any]:
        """Send a message and wait for the outcome of its turn.

        Returns `{session_id, turn_id, status, stop_reason, response, usage, metadata: {config_id, revision}}`; while
        the turn waits for a person `status` is `waiting`, and of a message that steers it is `pending`, with the turn
        that it was handed to. A failed turn is a `TurnFailure`. The turn goes on when the caller leaves.
        """
        return await self.answer_of(
            await self.accept_message(session_id, message, context, when_busy=when_busy, budget=budget)
        )

    async def accept_message(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
        key: RequestKey | None = None,
    ) -> Sent:
        """Send a message and wait for nothing: its turn runs or waits, or it is pending for the one that runs."""
        incoming = self._incoming(session_id, message, context, when_busy, budget, key)
        return await self._runtime.accept(session_id, incoming, within=self._tenant)

    def _incoming(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None,
        when_busy: WhenBusy | str,
        budget: Budget | None,
        key: RequestKey | None,
    ) -> Incoming:
        policy = WhenBusy(when_busy) if when_busy in list(WhenBusy) else when_busy
        asked = valid(MessageRequest, {"message": message, "context": context, "when_busy": policy, "budget": budget})
        if not is_storable(session_id):
            raise SessionNotFound(session_id)
        return Incoming(content_of(asked.message), asked.context, asked.when_busy, asked.budget, key)

    async def sent_before(self, session_id: str, kept: KeptAnswer) -> Sent:
        """What became of a message that was sent before under the same key."""
        facts: dict[str, Any] = kept.answer
        if facts.get("status") == PENDING:
            return Sent(session_id, kept.resource_id, facts["message_id"], PENDING)
        turn = await self.get_turn(session_id, kept.resource_id)
        if turn is None:
            raise SessionNotFound(session_id)
        return Sent(session_id, turn.turn_id, turn.message_id, turn.status, facts["config_id"], facts["revision"])

    async def answer_of(self, sent: Sent) -> dict[str, Any]:
        """The answer to a message, once its turn has one; see `send_message`."""
        if sent.status == PENDING:
            return {
                "session_id": sent.session_id,
                "turn_id": sent.turn_id,
                "message_id": sent.message_id,
                "status": PENDING,
            }
        outcome = await self._runtime.outcome_of(sent.session_id, sent.turn_id, within=self._tenant)
        metadata = {"config_id": sent.config_id, "revision": sent.revision}
        if outcome is None:
            return {
                "session_id": sent.session_id,
                "turn_id": sent.turn_id,
                "status": TurnStatus.WAITING.value,
                "stop_reason": None,
                "response": None,
                "usage": TokenUsage().model_dump(),
                "metadata": metadata,
            }
        if outcome.status is TurnStatus.FAILED:
            raise TurnFailure(outcome)
        return {
            "session_id": sent.session_id,
            "turn_id": outcome.turn_id,
            "status": outcome.status.value,
            "stop_reason": outcome.stop_reason.value,
            "response": outcome.response or "",
            "usage": outcome.usage.model_dump(),
            "metadata": metadata,
        }

    async def open_stream(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
    ) -> Follower:
        """Send a message and follow its turn, or the one that it was handed to. Every refusal comes before that."""
        opened = await self.accept_stream(session_id, message, context, when_busy=when_busy, budget=budget)
        if opened.follower is not None:
            return opened.follower
        return await self._runtime.following.join(session_id, opened.sent.turn_id, within=self._tenant)

    async def accept_stream(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
        key: RequestKey | None = None,
    ) -> Opened:
        """Send a message to follow its turn; there is no follower when it was handed to a turn that runs."""
        incoming = self._incoming(session_id, message, context, when_busy, budget, key)
        return Opened(*await self._runtime.stream(session_id, incoming, within=self._tenant))

    async def join_stream(self, session_id: str, kept: KeptAnswer) -> Opened:
        """Follow the turn of a message that was sent before under the same key, from its beginning."""
        sent = await self.sent_before(session_id, kept)
        if sent.status == PENDING:
            return Opened(sent, None)
        return Opened(sent, await self._runtime.following.join(session_id, sent.turn_id, within=self._tenant))

    async def stream_message(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
    ) -> AsyncGenerator[dict[str, Any]]:
        """Send a message and yield what happens, as the payloads of the event stream.

        The first is `connected`; the last two are `response` and `done`, or the last is `error` when the turn
        failed. A refusal is raised on the first step.
        """
        follower = await self.open_stream(session_id, message, context, when_busy=when_busy, budget=budget)
        async with aclosing(items_of(follower)) as items:
            async for item in items:
                yield item.payload()

    # Turns.

    async def create_turn(
        self,
        session_id: str,
        message: str | list[Any],
        context: dict[str, Any] | None = None,
        *,
        when_busy: WhenBusy | str = WhenBusy.REJECT,
        budget: Budget | None = None,
    ) -> Turn | Sent:
        """Send a message and give back its turn, which runs or waits; a message that steers has none yet."""
        return await self.turn_of(
            await self.accept_message(session_id, message, context, when_busy=when_busy, budget=budget)
        )

    async def turn_of(self, sent: Sent) -> Turn | Sent:
        """The turn of a message as it is now; a message that steers has none yet."""
        if sent.status == PENDING:
            return sent
        turn = await self.get_turn(sent.session_id, sent.turn_id)
        if turn is None:
            raise SessionNotFound(sent.session_id)
        return turn

    async def get_turn(self, session_id: str, turn_id: str) -> Turn | None:
        """A turn of a session, or None."""
        if not is_storable(session_id) or not is_storable(turn_id):
            return None
        return await self._db.read(get_turn, turn_id, session_id=session_id, within=self._tenant)

    async def page_turns(self, session_id: str, page: PageRequest, *, status: str | None = None) -> Page[Turn] | None:
        """One page of a session's turns, the newest first. None: there is no such session."""
        if not await self._exists(session_id):
            return None
        return await self._db.read(list_turns, session_id, page, within=self._tenant, status=status)

    async def cancel(self, session_id: str, *, immediate: bool = True) -> dict[str, Any]:
        """Stop the turn that runs, or else the one that comes next: at once, or after the tools that run.

        With nothing to cancel nothing changes.
        """
        valid(CancelRequest, {"immediate": immediate})
        if not await self._exists(session_id):
            raise SessionNotFound(session_id)
        stopped = await self._runtime.cancel(session_id, within=self._tenant, immediate=immediate)
        turn_id, status = stopped or (None, None)
        return _cancelled(session_id, turn_id, status, changed=stopped is not None)

    async def cancel_turn(self, session_id: str, turn_id: str, *, immediate: bool = True) -> dict[str, Any]:
        """Stop one turn, whether it runs or waits. One that has ended stays as it is."""
        valid(CancelRequest, {"immediate": immediate})
        turn = await self.get_turn(session_id, turn_id)
        if turn is None:
            raise TurnNotFound(turn_id) if await self._exists(session_id) else SessionNotFound(session_id)
        status = await self._runtime.cancel_turn(session_id, turn_id, within=self._tenant, immediate=immediate)
        if status is not None:
            return _cancelled(session_id, turn_id, status, changed=True)
        ended = await self.get_turn(session_id, turn_id)
        return _cancelled(session_id, turn_id, (ended or turn).status, changed=False)

    async def _exists(self, session_id: str) -> bool:
        if not is_storable(session_id):
            return False
        return await self._db.read(get_session, session_id, within=self._tenant) is not None


def _cancelled(session_id: str, turn_id: str | None, status: str | None, *, changed: bool) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "turn_id": turn_id,
        "status": status,
        "message": "Cancellation requested" if changed else "Nothing to cancel",
    }
