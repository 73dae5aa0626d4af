"""Sessions made of other sessions: forks, and what comes out of an export.

Nothing is opened here: a copy is rows, and its first message, or `resume`, opens it.
"""

import copy
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self, cast

import orjson
from pydantic import BaseModel
from sqlalchemy import Connection

from amplifier_app_api.core.config_manager import ConfigManager, ConfigNotFound
from amplifier_app_api.core.fields import is_storable
from amplifier_app_api.core.imported import ImportedFile
from amplifier_app_api.core.session_manager import SessionBusy, SessionNotFound
from amplifier_app_api.errors import Conflict
from amplifier_app_api.models.content import Content, kernel_content
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.models.session import ForkRequest, Session, SessionStatus
from amplifier_app_api.models.transfer import (
    ConfigRecord,
    EndRecord,
    ExportRecord,
    MessageRecord,
    TranscriptHash,
    TurnRecord,
)
from amplifier_app_api.models.turn import UNFINISHED_STATUSES
from amplifier_app_api.runtime.pool import SessionRuntime
from amplifier_app_api.runtime.refusals import TurnNotFound
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.configs import get_config, get_revision
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.events import StoredEvent, events_after
from amplifier_app_api.storage.forking import copy_session, end_of_finished_turns, end_of_turn
from amplifier_app_api.storage.idempotency import KeptAnswer, RequestKey, keep_key
from amplifier_app_api.storage.sessions import SessionRecord, get_session
from amplifier_app_api.storage.transfer import (
    Extent,
    extent_of,
    finished_turns,
    messages_between,
    revision_of_config,
    revision_with_text,
    session_line,
    store_imported,
)
from amplifier_app_api.storage.turns import get_turn

PAGE = 500
"""How many rows an export reads at once."""


class ChildSession(Conflict):
    """The session is a child of another one, and makes no sense without it."""

    code = "conflict"
    title = "A child session cannot be copied"


class SessionCopies:
    """Forks, exports and imports sessions within one tenant."""

    def __init__(
        self, db: Database, runtime: SessionRuntime, configs: ConfigManager, *, principal: Principal = LOCAL
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._configs = configs
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same, acting for somebody."""
        scoped = copy.copy(self)
        scoped._principal = principal
        scoped._configs = self._configs.scoped(principal)
        return scoped

    @property
    def _tenant(self) -> str:
        return self._principal.tenant_id

    # Forks.

    async def fork(self, session_id: str, request: ForkRequest, *, key: RequestKey | None = None) -> Session | None:
        """A new session that begins with what this one said up to the end of a turn, or of its last finished one.

        It runs the same revision, with the same variables but for those that the request gives, in a folder of its
        own unless it names one. None: there is no such session. A turn that runs is `SessionBusy`.
        """
        if not is_storable(session_id):
            return None
        source = await self._db.read(get_session, session_id, within=self._tenant)
        if source is None:
            return None
        if source.spawn is not None:
            raise ChildSession("A child session cannot be forked: fork its parent.")
        copy_id, now = str(uuid.uuid4()), utc_now()
        workspaces = self._runtime.workspaces
        working_dir = workspaces.choose(self._tenant, copy_id, request.working_dir)
        if request.working_dir is not None:
            await workspaces.make(self._tenant, working_dir)  # refused here, and not with the first message
        vault = self._runtime.vault
        kept: dict[str, str] = {} if source.variables is None else vault.unseal(session_id, source.variables)
        variables = {**kept, **(request.variables or {})}
        session = Session(
            session_id=copy_id,
            config_id=source.session.config_id,
            revision=source.session.revision,
            status=SessionStatus.ACTIVE,
            title=request.title if request.title is not None else source.session.title,
            tags=dict(source.session.tags if request.tags is None else request.tags),
            forked_from=session_id,
            budget=request.budget or source.session.budget,
            created_at=now,
            updated_at=now,
        )
        record = SessionRecord(
            session=session,
            tenant_id=self._tenant,
            variables=self._runtime.seal(copy_id, variables),
            working_dir=working_dir,
            allow_missing=source.allow_missing,
            epoch=1,
            sources=source.sources,
        )

        def resealed(text: str) -> str:
            return vault.seal(copy_id, vault.unseal(session_id, text))

        def forked(conn: Connection) -> Session:
            until = _end_of(conn, session_id, request.turn_id, within=self._tenant)
            stored, _ = copy_session(conn, record, session_id, until=until, reseal=resealed, now=now)
            keep_key(conn, key, copy_id, answer=stored.model_dump(mode="json"))
            return stored

        return await self._db.write(forked)

    # Exports.

    async def export(self, session_id: str) -> AsyncGenerator[bytes] | None:
        """The session as JSON lines, up to the end of its last finished turn. None: there is no such session."""
        if not is_storable(session_id):
            return None
        extent = await self._db.read(extent_of, session_id, within=self._tenant)
        return None if extent is None else self._lines(extent)

    async def _lines(self, extent: Extent) -> AsyncGenerator[bytes]:
        session = extent.record.session
        summed, count = await self._summed(extent)
        written = 0
        for record in (
            ExportRecord(exported_at=utc_now(), messages=count, transcript_sha256=summed),
            await self._config_of(session),
            session_line(session),
        ):
            written += 1
            yield _line(record)
        async for record in self._turns(session.session_id):
            written += 1
            yield _line(record)
        async for record in self._messages(extent):
            written += 1
            yield _line(record)
        async for event in self._events(extent):
            written += 1
            yield b'{"type":"event","event":' + event.data + b"}\n"
        yield _line(EndRecord(records=written))

    async def _summed(self, extent: Extent) -> tuple[str, int]:
        summed, count = TranscriptHash(), 0
        async for message in self._messages(extent):
            summed.add(message)
            count += 1
        return summed.hexdigest(), count

    async def _config_of(self, session: Session) -> ConfigRecord:
        config = await self._db.read(get_config, session.config_id, within=self._tenant)
        revision = await self._db.read(get_revision, session.config_id, session.revision, within=self._tenant)
        if config is None or revision is None:  # deleted a moment ago, with its sessions
            raise SessionNotFound(session.session_id)
        return ConfigRecord(
            config_id=config.config_id,
            name=config.name,
            description=config.description,
            tags=config.tags,
            revision=revision.revision,
            sha256=revision.sha256,
            yaml_content=revision.yaml_content,
        )

    async def _turns(self, session_id: str) -> AsyncGenerator[TurnRecord]:
        after = 0
        while page := await self._db.read(finished_turns, session_id, after, limit=PAGE, within=self._tenant):
            after = page[-1].number
            for turn in page:
                yield turn

    async def _messages(self, extent: Extent) -> AsyncGenerator[MessageRecord]:
        after, session_id = 0, extent.record.session.session_id
        while page := await self._db.read(
            messages_between, session_id, after, extent.last_position, limit=PAGE, within=self._tenant
        ):
            after = page[-1][0]
            for _, message in page:
                yield message

    async def _events(self, extent: Extent) -> AsyncGenerator[StoredEvent]:
        after, session_id = 0, extent.record.session.session_id
        while page := await self._db.read(events_after, session_id, after, limit=PAGE, within=self._tenant):
            after = page[-1].seq
            for event in page:
                if event.seq <= extent.last_seq:
                    yield event
            if after >= extent.last_seq:
                return

    # Imports.

    async def import_session(
        self, body: bytes, *, config_id: str | None = None, key: RequestKey | None = None
    ) -> Session:
        """Store a session from the lines of an export: the same transcript, under new ids.

        It runs the Config `config_id`, on the revision with the exported text where there is one; else a Config of
        the same name and text, which is made when there is none. `InvalidImport` names the line that is wrong.
        """
        file = ImportedFile.read(body)
        chosen, revision = await self._config_for(file, config_id)
        session_id, now = str(uuid.uuid4()), utc_now()
        line = file.session
        session = Session(
            session_id=session_id,
            config_id=chosen,
            revision=revision,
            status=SessionStatus.ACTIVE if line.status is SessionStatus.FAILED else line.status,
            title=line.title,
            tags=dict(line.tags),
            budget=line.budget,
            message_count=line.message_count,
            usage=line.usage,
            created_at=now,
            updated_at=now,
        )
        record = SessionRecord(
            session=session,
            tenant_id=self._tenant,
            variables=self._runtime.seal(session_id, file.variables or None),
            working_dir=self._runtime.workspaces.choose(self._tenant, session_id, None),
            allow_missing=False,
            epoch=1,
        )
        kept_turns, kept_messages = _renamed(file)

        def imported(conn: Connection) -> Session:
            stored, _ = store_imported(conn, record, kept_turns, kept_messages, now=now)
            keep_key(conn, key, session_id, answer=stored.model_dump(mode="json"))
            return stored

        return await self._db.write(imported)

    async def made_before(self, kept: KeptAnswer) -> Session:
        """What a request with the same key made, as its caller was told."""
        return Session.model_validate(kept.answer)

    async def _config_for(self, file: ImportedFile, config_id: str | None) -> tuple[str, int]:
        exported = file.config
        if config_id is not None:
            if not is_storable(config_id):
                raise ConfigNotFound(config_id)
            revision = await self._db.read(revision_of_config, config_id, exported.sha256, within=self._tenant)
            if revision is None:
                raise ConfigNotFound(config_id)
            return config_id, revision
        found = await self._db.read(revision_with_text, exported.name, exported.sha256, within=self._tenant)
        if found is not None:
            return found
        made = await self._configs.create_config(
            exported.name, exported.yaml_content, exported.description, exported.tags
        )
        return made.config_id, made.revision


def _end_of(conn: Connection, session_id: str, turn_id: str | None, *, within: str) -> int:
    if turn_id is None:
        return end_of_finished_turns(conn, session_id)
    turn = get_turn(conn, turn_id, session_id=session_id, within=within)
    if turn is not None and turn.status in UNFINISHED_STATUSES:
        raise SessionBusy("this turn has not ended", facts={"turn_id": turn_id})
    position = end_of_turn(conn, session_id, turn_id)
    if position is None:
        raise TurnNotFound(turn_id)
    return position


def _line(record: BaseModel) -> bytes:
    return orjson.dumps(record.model_dump(mode="json")) + b"\n"


def _renamed(file: ImportedFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of an import with ids of their own, which point at each other as the old ones did."""
    turn_ids = {turn.turn_id: str(uuid.uuid4()) for turn in file.turns}
    message_ids = {message.message_id: str(uuid.uuid4()) for message in file.messages}
    turns = [_turn_row(turn, turn_ids, message_ids) for turn in file.turns]
    rows = [_message_row(message, position, turn_ids, message_ids) for position, message in enumerate(file.messages, 1)]
    return turns, rows


def _turn_row(turn: TurnRecord, turn_ids: Mapping[str, str], message_ids: Mapping[str, str]) -> dict[str, Any]:
    row = {name: getattr(turn, name) for name in TurnRecord.model_fields if name not in ("type", "usage")}
    return {
        **row,
        "turn_id": turn_ids[turn.turn_id],
        "message_id": message_ids.get(turn.message_id, ""),
        "status": turn.status.value,
        "stop_reason": None if turn.stop_reason is None else turn.stop_reason.value,
        "usage": turn.usage.model_dump(),
        "requests": turn.iterations,
    }


def _message_row(
    message: MessageRecord, position: int, turn_ids: Mapping[str, str], message_ids: Mapping[str, str]
) -> dict[str, Any]:
    shown = {name: getattr(message, name) for name in MessageRecord.model_fields if name not in ("type", "in_context")}
    given = None
    if message.role == "user" and message.context is not None and isinstance(message.content, str | list):
        given = kernel_content(cast("Content", message.content), message.context)
    return {
        **shown,
        "message_id": message_ids[message.message_id],
        "turn_id": None if message.turn_id is None else turn_ids.get(message.turn_id),
        "position": position,
        "interrupted": int(message.interrupted),
        "kernel": message.kernel(given),
    }
