"""Moving a session to another revision of its Config.

The new revision is opened beside what there is: a refusal changes nothing. Only then the row says so, with an event,
and what the process has in memory is replaced. Children stay on the revision they were started on.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from amplifier_app_api.models.session import DegradedModule, Session, SessionStatus
from amplifier_app_api.runtime.accept import SessionBusy
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.opening import OpenedSession
from amplifier_app_api.runtime.refusals import SessionClosed, SessionNotFound
from amplifier_app_api.runtime.restoring import Restorer
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.turns import open_turn_of
from amplifier_app_api.storage.upgrading import MovedOn, Upgrade, upgrade_session


class Upgrader:
    """Upgrades sessions. `refuse_while_running` raises `SessionBusy` while a turn of a live session runs here."""

    def __init__(
        self,
        db: Database,
        live: LiveSessions,
        restorer: Restorer,
        *,
        node_id: str,
        refuse_while_running: Callable[[LiveSession], Awaitable[None]],
        publish: Callable[[str, list[StoredEvent]], None],
    ) -> None:
        self._db = db
        self._live = live
        self._restorer = restorer
        self._node_id = node_id
        self._refuse_while_running = refuse_while_running
        self._publish = publish

    async def upgrade(self, session_id: str, revision: int, text: str, *, within: str) -> Session | None:
        """Run a session on a revision with this text from now on. None: the tenant has no such session.

        One that could not be opened takes messages again when this revision opens.
        """
        if await self._db.read(get_session, session_id, within=within) is None:
            return None
        async with self._live.entry(session_id, within=within) as live:
            record = await self._db.read(get_session, session_id, within=within)
            if record is None:
                return None
            session = record.session
            could_not_be_opened = session.status is SessionStatus.FAILED and session.error is not None
            if session.status is not SessionStatus.ACTIVE and not could_not_be_opened:
                facts = {"session_status": session.status.value}
                raise SessionClosed(f"the session is {session.status}; resume it first", facts=facts)
            await self._refuse_while_running(live)
            running = await self._db.read(open_turn_of, session_id)
            if running is not None:
                raise SessionBusy.with_turn(running)
            if revision == session.revision and not could_not_be_opened:
                return session
            return await self._replaced(live, record, revision, text)

    async def _replaced(self, live: LiveSession, record: SessionRecord, revision: int, text: str) -> Session | None:
        changed = replace(record, session=record.session.model_copy(update={"revision": revision}), sources={})
        opened, position = await self._restorer.open_beside(live, changed, text)
        upgrade = Upgrade(
            revision=revision,
            degraded=_as_rows(opened.degraded),
            sources=dict(opened.pins),
            expected_position=position,
            node_id=self._node_id,
        )
        try:
            session, stored = await self._db.write(upgrade_session, live.session_id, upgrade, within=record.tenant_id)
        except BaseException as error:
            await opened.kernel.close()
            if isinstance(error, MovedOn):
                raise SessionBusy("the session was sent a message meanwhile", facts={"turn_id": None}) from None
            raise
        if session is None:
            await opened.kernel.close()
            raise SessionNotFound(live.session_id)
        await self._take(live, opened, position, revision)
        self._publish(live.session_id, stored)
        return session

    async def _take(self, live: LiveSession, opened: OpenedSession, position: int, revision: int) -> None:
        before, live.opened, live.position, live.revision = live.opened, opened, position, revision
        self._live.idle(live)
        if before is not None:
            await before.kernel.close()


def _as_rows(degraded: tuple[DegradedModule, ...]) -> list[dict[str, str]]:
    return [module.model_dump() for module in degraded]
