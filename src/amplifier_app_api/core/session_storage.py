"""What sessions take, and pruning their logs."""

import asyncio
import copy
import os
from datetime import timedelta
from pathlib import Path
from typing import Self

from amplifier_app_api.core.fields import is_storable
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.models.storage import FileUsage, PruneRequest, PruneResponse, StorageResponse
from amplifier_app_api.runtime.workspace import Workspaces
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.retention import prune_session, rows_of_session
from amplifier_app_api.storage.sessions import get_session, pruned_seq_of

MAX_FILES = 100_000
"""How many files are counted; of a larger folder the report says that it is not complete."""


class SessionStorage:
    """Reports and prunes within one tenant."""

    def __init__(self, db: Database, workspaces: Workspaces, *, principal: Principal = LOCAL) -> None:
        self._db = db
        self._workspaces = workspaces
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same, acting for somebody."""
        scoped = copy.copy(self)
        scoped._principal = principal
        return scoped

    async def usage_of(self, session_id: str) -> StorageResponse | None:
        """What a session takes in the database and in its own folder. None: there is no such session."""
        tenant = self._principal.tenant_id
        if not is_storable(session_id):
            return None
        record = await self._db.read(get_session, session_id, within=tenant)
        if record is None:
            return None
        rows = await self._db.read(rows_of_session, session_id, within=tenant)
        # A folder that the session was told to work in may be somebody else's, too: only its own one counts.
        own = record.working_dir in (None, session_id)
        folder = self._workspaces.folder_of(tenant, session_id)
        files = await asyncio.to_thread(_weigh, folder) if own else FileUsage(files=0, bytes=0)
        pruned = await self._db.read(pruned_seq_of, session_id, within=tenant)
        return StorageResponse(
            session_id=session_id,
            rows=rows,
            files=files,
            total_bytes=sum(kind.bytes for kind in rows.values()) + files.bytes,
            oldest_seq=pruned + 1,
            last_seq=record.session.last_seq,
        )

    async def prune(self, session_id: str, request: PruneRequest) -> PruneResponse | None:
        """Remove the events that the request names, but for those of turns that have not ended."""
        if not is_storable(session_id):
            return None
        before = None if request.older_than is None else utc_now() - timedelta(seconds=request.older_than)
        pruned = await self._db.write(
            prune_session, session_id, within=self._principal.tenant_id, up_to=request.up_to, before=before
        )
        if pruned is None:
            return None
        return PruneResponse(session_id=session_id, pruned_events=pruned.events, oldest_seq=pruned.pruned_seq + 1)


def _weigh(folder: Path) -> FileUsage:
    """Files and bytes below a folder; links count as what they are, and are not followed."""
    files = size = 0
    pending = [folder]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:  # it was removed, or is not ours to read
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
                continue
            files += 1
            if files > MAX_FILES:
                return FileUsage(files=MAX_FILES, bytes=size, complete=False)
            try:
                size += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return FileUsage(files=files, bytes=size)
