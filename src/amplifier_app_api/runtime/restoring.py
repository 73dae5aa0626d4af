"""Opening a session into memory: a new one, or a stored one from its rows."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from amplifier_app_api.errors import AppError
from amplifier_app_api.runtime.journal import Seals
from amplifier_app_api.runtime.lineage import Lineage
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.live_sessions import LiveSessions
from amplifier_app_api.runtime.masking import SecretMask
from amplifier_app_api.runtime.opening import OpenedSession, OpenRequest, SessionOpener
from amplifier_app_api.runtime.refusals import SessionNotFound
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.configs import get_revision
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.lifecycle import mark_failed
from amplifier_app_api.storage.messages import SEALED, kernel_transcript
from amplifier_app_api.storage.sessions import SessionRecord


class Vault(Protocol):
    """Seals what the rows of a session may not hold as it is, and opens it again."""

    def seal(self, session_id: str, value: Any) -> str:
        """The text that a row holds for a JSON value."""
        ...

    def unseal(self, session_id: str, sealed: str) -> Any:
        """The value again. Raises an `AppError` when it cannot be read."""
        ...


Offers = Callable[[LiveSession, SessionRecord, Mapping[str, str], Lineage], Mapping[str, Any]]
"""From a session and the variables given with it to what its modules may ask its coordinator for."""


class Restorer:
    """Puts sessions into their entries. The entry's lock is held. `offers` says what their modules may ask for."""

    def __init__(
        self, db: Database, live: LiveSessions, opener: SessionOpener, workspaces: Workspaces, vault: Vault
    ) -> None:
        self._db = db
        self._live = live
        self._opener = opener
        self._workspaces = workspaces
        self._vault = vault
        self.offers: Offers = lambda live, record, variables, lineage: {}

    async def open_new(
        self, live: LiveSession, record: SessionRecord, text: str, variables: Mapping[str, str]
    ) -> OpenedSession:
        """Open a session that has no rows yet."""
        await self._live.make_room(live)
        return await self._open(live, record, text, variables, [])

    async def reopen(self, live: LiveSession, record: SessionRecord) -> OpenedSession:
        """Open a stored session from its rows; the session is `failed` when its bundle or a module refuses."""
        session = record.session
        await self._live.make_room(live)
        revision = await self._db.read(get_revision, session.config_id, session.revision, within=record.tenant_id)
        position, messages = await self._db.read(kernel_transcript, session.session_id, within=record.tenant_id)
        if revision is None:
            raise SessionNotFound(session.session_id)
        try:
            live.position = position
            whole = [self._whole(session.session_id, message) for message in messages]
            return await self._open(live, record, revision.yaml_content, self._variables(record), whole)
        except AppError as refusal:
            await self._live.shut(live)
            if _will_last(refusal):
                error = {"code": refusal.code, "detail": refusal.detail}
                await self._db.write(mark_failed, session.session_id, error, within=record.tenant_id)
            raise

    async def open_beside(self, live: LiveSession, record: SessionRecord, text: str) -> tuple[OpenedSession, int]:
        """Open a stored session from another text, and leave what is open as it is. The place its transcript ends, too.

        A refusal changes nothing.
        """
        if live.opened is None:
            await self._live.make_room(live)
        session_id = record.session.session_id
        position, messages = await self._db.read(kernel_transcript, session_id, within=record.tenant_id)
        whole = [self._whole(session_id, message) for message in messages]
        return await self._opened(live, record, text, self._variables(record), whole), position

    def seal(self, session_id: str, variables: Mapping[str, str] | None) -> str | None:
        """The variables of a new session as its row holds them."""
        return self._vault.seal(session_id, variables) if variables else None

    def seal_json(self, session_id: str, value: Any) -> str:
        """A JSON value as a row of the session may hold it."""
        return self._vault.seal(session_id, value)

    def seals(self, session_id: str, mask: SecretMask) -> Seals:
        """How the rows of a session keep what holds a secret."""
        return Seals(mask, partial(self._vault.seal, session_id), partial(self._vault.unseal, session_id))

    def _whole(self, session_id: str, kernel: dict[str, Any]) -> dict[str, Any]:
        return self._vault.unseal(session_id, kernel[SEALED]) if kernel.keys() == {SEALED} else kernel

    def _variables(self, record: SessionRecord) -> Mapping[str, str]:
        return {} if record.variables is None else self._vault.unseal(record.session.session_id, record.variables)

    async def _open(
        self,
        live: LiveSession,
        record: SessionRecord,
        text: str,
        variables: Mapping[str, str],
        messages: list[dict[str, Any]],
    ) -> OpenedSession:
        live.opened = opened = await self._opened(live, record, text, variables, messages)
        live.revision = record.session.revision
        return opened

    async def _opened(
        self,
        live: LiveSession,
        record: SessionRecord,
        text: str,
        variables: Mapping[str, str],
        messages: list[dict[str, Any]],
    ) -> OpenedSession:
        session = record.session
        spawned = None if record.spawn is None else self._vault.unseal(session.session_id, record.spawn)
        lineage = Lineage.of_json(spawned or ())
        request = OpenRequest(
            tenant_id=record.tenant_id,
            session_id=session.session_id,
            text=text,
            working_dir=await self._workspaces.make(record.tenant_id, record.working_dir or session.session_id),
            variables=variables,
            messages=messages,
            parent_id=session.parent_id,
            allow_missing=record.allow_missing,
            pins=record.sources,
            lineage=lineage,
            capabilities=self.offers(live, record, variables, lineage),
        )
        opened = await self._opener.open(request, live)
        for module in opened.degraded:
            live.notice("warning", f"{module.module} is not available: {module.detail}", "session")
        return opened


def _will_last(refusal: AppError) -> bool:
    """Whether trying again is no use until somebody changes something.

    A source that is away may be back any time; what else is wrong may be so only because it is not here.
    """
    if any(item.code == "module_fetch_failed" for item in refusal.items):
        return False
    return refusal.status < 500 or refusal.code in ("module_failed", "prepare_timeout")
