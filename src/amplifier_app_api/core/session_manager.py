"""Sessions: the use cases.

`SessionManager(db)` works alone, in a script: it makes a runtime of its own, which lives until `close()` or the end
of `async with`. A server gives one runtime to all its managers. How a turn runs is the runtime's business.
"""

import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.core.config_manager import ConfigNotFound, RevisionNotFound
from amplifier_app_api.core.fields import is_storable, merged_tags, valid
from amplifier_app_api.core.session_turns import SessionTurns, TurnFailure
from amplifier_app_api.core.vault import SessionVault
from amplifier_app_api.events.place import Place
from amplifier_app_api.events.stream import Follower
from amplifier_app_api.models.page import DEFAULT_LIMIT, Page, PageRequest
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.models.session import Session, SessionCreateRequest, SessionPatchRequest, SessionStatus
from amplifier_app_api.models.turn import Budget, Message
from amplifier_app_api.runtime.accept import SessionBusy
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.pool import SessionClosed, SessionNotFound, SessionRuntime
from amplifier_app_api.runtime.refusals import TurnNotFound
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import get_config, get_revision
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent
from amplifier_app_api.storage.idempotency import RequestKey
from amplifier_app_api.storage.lifecycle import edit_session
from amplifier_app_api.storage.log import page_events
from amplifier_app_api.storage.messages import all_messages, list_messages
from amplifier_app_api.storage.queue import cancel_queued
from amplifier_app_api.storage.sessions import SessionRecord, get_session, list_sessions
from amplifier_app_api.storage.turns import open_turn_of

__all__ = ["SessionBusy", "SessionClosed", "SessionManager", "SessionNotFound", "TurnFailure", "TurnNotFound"]


class SessionManager(SessionTurns):
    """Creates, resumes, lists and deletes sessions, and runs their turns, within one tenant."""

    def __init__(
        self,
        db: Database,
        *,
        principal: Principal = LOCAL,
        runtime: SessionRuntime | None = None,
        data_dir: Path | None = None,
    ) -> None:
        self._db = db
        self._principal = principal
        self._owns_runtime = runtime is None
        self._runtime = runtime or open_runtime(db, RuntimeOptions(data_dir=data_dir or default_data_dir(db)))

    def scoped(self, principal: Principal) -> "SessionManager":
        """The same manager, acting for somebody: it sees that tenant's sessions and no others."""
        return SessionManager(self._db, principal=principal, runtime=self._runtime)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the runtime that this manager made for itself: turns that run are interrupted."""
        if self._owns_runtime:
            await self._runtime.close()

    # Sessions.

    async def create_session(
        self,
        config_id: str,
        *,
        revision: int | None = None,
        variables: Mapping[str, str] | None = None,
        title: str | None = None,
        tags: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        allow_missing: bool = False,
        budget: Budget | None = None,
        key: RequestKey | None = None,
    ) -> Session:
        """Open a session of a Config, on its newest revision or the one that is named.

        `variables` fill `${NAME}` of the bundle and are sealed at rest. A bundle that cannot run, or a module
        that does not mount, is a refusal and stores nothing; `allow_missing` opens without tools and hooks that
        do not mount. `budget` bounds what its turns use together. `key` is kept with the session.
        """
        valid(
            SessionCreateRequest,
            {
                "config_id": config_id,
                "revision": revision,
                "variables": None if variables is None else dict(variables),
                "title": title,
                "tags": None if tags is None else dict(tags),
                "working_dir": working_dir,
                "allow_missing": allow_missing,
                "budget": budget,
            },
        )
        number, text = await self._text_of(config_id, revision)
        session_id = str(uuid.uuid4())
        now = utc_now()
        session = Session(
            session_id=session_id,
            config_id=config_id,
            revision=number,
            status=SessionStatus.ACTIVE,
            title=title,
            tags=dict(tags or {}),
            budget=budget,
            created_at=now,
            updated_at=now,
        )
        record = SessionRecord(
            session=session,
            tenant_id=self._tenant,
            variables=self._runtime.seal(session_id, variables),
            working_dir=self._runtime.workspaces.choose(self._tenant, session_id, working_dir),
            allow_missing=allow_missing,
            epoch=1,
        )
        try:
            return await self._runtime.create(record, text, variables or {}, key=key)
        except IntegrityError:  # the Config was deleted while its session was opened
            raise ConfigNotFound(config_id) from None

    async def _text_of(self, config_id: str, revision: int | None) -> tuple[int, str]:
        config = await self._db.read(get_config, config_id, within=self._tenant)
        if config is None:
            raise ConfigNotFound(config_id)
        if revision is None or revision == config.revision:
            return config.revision, config.yaml_content
        stored = await self._db.read(get_revision, config_id, revision, within=self._tenant)
        if stored is None:
            raise RevisionNotFound(revision)
        return stored.revision, stored.yaml_content

    async def resume_session(self, session_id: str) -> Session | None:
        """Open a session now instead of at its next message; one that was closed takes messages again."""
        if not is_storable(session_id):
            return None
        return await self._runtime.resume(session_id, within=self._tenant)

    async def upgrade_session(self, session_id: str, revision: int | None = None) -> Session | None:
        """Move a session to the newest revision of its Config, or to the one that is named, in either direction.

        The revision is opened first: a refusal changes nothing. `SessionBusy` while a turn runs.
        """
        record = await self._record(session_id)
        if record is None:
            return None
        number, text = await self._text_of(record.session.config_id, revision)
        return await self._runtime.upgrade(session_id, number, text, within=self._tenant)

    async def get_session(self, session_id: str) -> Session | None:
        """The session, or None."""
        record = await self._record(session_id)
        return None if record is None else record.session

    async def _record(self, session_id: str) -> SessionRecord | None:
        if not is_storable(session_id):
            return None
        return await self._db.read(get_session, session_id, within=self._tenant)

    async def list_sessions(self, limit: int = DEFAULT_LIMIT, offset: int = 0) -> list[Session]:
        """One page, newest change first."""
        return (await self.page_sessions(PageRequest(limit=limit, offset=offset))).items

    async def count_sessions(self) -> int:
        """How many sessions there are."""
        return (await self.page_sessions(PageRequest(limit=1))).total

    async def page_sessions(
        self,
        page: PageRequest,
        *,
        status: str | None = None,
        config_id: str | None = None,
        tag: tuple[str, str] | None = None,
        parent_id: str | None = None,
    ) -> Page[Session]:
        """One page of those that match, newest change first: children of `parent_id`, or sessions without a parent."""
        if not all(is_storable(text) for text in (status or "", config_id or "", parent_id or "", *(tag or ()))):
            return Page([], 0)
        return await self._db.read(
            list_sessions,
            page,
            within=self._tenant,
            status=status,
            config_id=config_id,
            tag=tag,
            parent_id=parent_id,
        )

    async def patch_session(self, session_id: str, changes: Mapping[str, Any]) -> Session | None:
        """Change `title`, `tags` (null removes a tag, null clears all) or `status`; what is absent stays.

        Closing a session with a status while a turn runs is `SessionBusy`; turns that wait are cancelled. Opening a
        closed one again is `resume_session`'s.
        """
        valid(SessionPatchRequest, changes)
        if not is_storable(session_id):
            return None
        cancelled: list[str] = []
        changed, stored = await self._db.write(_patch, session_id, changes, cancelled, within=self._tenant)
        self._runtime.publish(session_id, stored)
        for turn_id in cancelled:
            self._runtime.turns.tell(turn_id)
        if changed is not None and changed.status is not SessionStatus.ACTIVE:
            await self._runtime.release([session_id], within=self._tenant)
        return changed

    async def delete_session(self, session_id: str) -> bool:
        """Delete a session with its transcript; a running turn is cancelled first. False: there was none."""
        return is_storable(session_id) and await self._runtime.delete(session_id, within=self._tenant)

    # Following.

    async def follow(
        self,
        session_id: str,
        *,
        after: int | Place,
        types: Collection[str] | None = None,
        children: bool = False,
    ) -> Follower:
        """Follow a session's events from a number or a place on: all, or these types; with its children's, if asked."""
        if not is_storable(session_id):
            raise SessionNotFound(session_id)
        place = after if isinstance(after, Place) else Place(after)
        follower = self._runtime.following.session(
            session_id, place, within=self._tenant, types=types, children=children
        )
        # Looked up only now: a session that is deleted from here on ends its followers.
        try:
            if await self.get_session(session_id) is None:
                raise SessionNotFound(session_id)
        except BaseException:
            await follower.close()
            raise
        return follower

    async def page_events(
        self, session_id: str, page: PageRequest, *, after: int = 0, types: Collection[str] | None = None
    ) -> Page[StoredEvent] | None:
        """One page of a session's log after a number, oldest first; only these types when some are named."""
        if await self.get_session(session_id) is None:
            return None
        return await self._db.read(page_events, session_id, page, after=after, types=types, within=self._tenant)

    # The transcript.

    async def page_messages(self, session_id: str, page: PageRequest) -> Page[Message] | None:
        """One page of the transcript, oldest first."""
        if await self.get_session(session_id) is None:
            return None
        return await self._db.read(list_messages, session_id, page, within=self._tenant)

    async def transcript(self, session_id: str) -> list[Message]:
        """The whole transcript, oldest first."""
        return await self._db.read(all_messages, session_id, within=self._tenant)


def _patch(
    conn: Connection, session_id: str, changes: Mapping[str, Any], cancelled: list[str], *, within: str
) -> tuple[Session | None, list[StoredEvent]]:
    waiting: list[StoredEvent] = []

    def edit(session: Session) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if "title" in changes:
            values |= {"title": changes["title"], "titled": 0}
        if "tags" in changes:
            values["tags"] = merged_tags(session.tags, changes["tags"])
        status = SessionStatus(changes.get("status") or session.status)
        if status is session.status:
            return values
        if status is SessionStatus.ACTIVE:
            raise SessionClosed(f"the session is {session.status}; resume it instead of setting its status")
        if (running := open_turn_of(conn, session_id)) is not None:
            raise SessionBusy("the session is running a turn; cancel it first", facts={"turn_id": running})
        cancelled[:], waiting[:] = cancel_queued(conn, session_id, within=within)
        return {**values, "status": status.value}

    changed, stored = edit_session(conn, session_id, edit, within=within)
    return changed, [*waiting, *stored]


def default_data_dir(db: Database) -> Path:
    """Where a manager without a server keeps its files: beside the database file, else in the working directory."""
    return db.path.parent if db.path is not None else Path(".amplifier-api").absolute()


def open_runtime(db: Database, options: RuntimeOptions, **kwargs: Any) -> SessionRuntime:
    """A runtime whose sessions' variables are sealed with the key of the data folder."""
    return SessionRuntime(db, options, vault=SessionVault(options.data_dir / "secret.key"), **kwargs)
