"""What a session takes, and pruning its log."""

from amplifier_app_api.api.deps import SessionId, Stored
from amplifier_app_api.api.refusals import CHANGING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.session_manager import SessionNotFound
from amplifier_app_api.models.storage import PruneRequest, PruneResponse, StorageResponse

router = json_router(prefix="/sessions/{session_id}", tag="sessions")


@router.get("/storage", responses=documented(SessionNotFound, *READING))
async def session_storage(session_id: SessionId, stored: Stored) -> StorageResponse:
    """How many rows and files a session has, and how many bytes they take."""
    usage = await stored.usage_of(session_id)
    if usage is None:
        raise SessionNotFound(session_id)
    return usage


@router.post("/prune", responses=documented(SessionNotFound, *CHANGING))
async def prune_session(session_id: SessionId, body: PruneRequest, stored: Stored) -> PruneResponse:
    """Remove old events of the log. The transcript stays; a reader of what is gone is told so by `stream.gap`."""
    pruned = await stored.prune(session_id, body)
    if pruned is None:
        raise SessionNotFound(session_id)
    return pruned
