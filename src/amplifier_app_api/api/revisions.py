"""`/configs/{config_id}/revisions`: every text that a Config had, and the way back to one."""

from typing import Annotated

from fastapi import Path, Response

from amplifier_app_api.api.config import GUARDED, shown
from amplifier_app_api.api.deps import ConfigId, Configs, IfMatch, Paging
from amplifier_app_api.api.refusals import CHANGING, READING, STORING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import ConfigNotFound, RevisionNotFound
from amplifier_app_api.models import ConfigResponse, ConfigRevision
from amplifier_app_api.models.config import RevertRequest, RevisionListResponse

router = json_router(prefix="/configs/{config_id}", tag="configs")

RevisionNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get("/revisions", responses=documented(ConfigNotFound, *READING))
async def list_revisions(config_id: ConfigId, configs: Configs, page: Paging) -> RevisionListResponse:
    """The texts that the Config had, newest first."""
    found = await configs.list_revisions(config_id, page)
    if found is None:
        raise ConfigNotFound(config_id)
    return RevisionListResponse(
        revisions=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )


@router.get("/revisions/{revision}", responses=documented(ConfigNotFound, RevisionNotFound, *READING))
async def get_revision(config_id: ConfigId, revision: RevisionNumber, configs: Configs) -> ConfigRevision:
    """One text that the Config had."""
    found = await configs.get_revision(config_id, revision)
    if found is None:
        if await configs.get_config(config_id) is None:
            raise ConfigNotFound(config_id)
        raise RevisionNotFound(revision)
    return found


@router.post("/revert", responses=documented(*GUARDED, RevisionNotFound, *STORING, *CHANGING))
async def revert_config(
    config_id: ConfigId, body: RevertRequest, configs: Configs, response: Response, if_match: IfMatch = None
) -> ConfigResponse:
    """Store an old text again, as a new revision."""
    config = await configs.revert_config(config_id, body.revision, if_match=if_match)
    if config is None:
        raise ConfigNotFound(config_id)
    return shown(config, response, "Config reverted successfully")
