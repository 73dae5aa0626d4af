"""`/configs`: store bundles, read, change and delete them."""

from typing import Annotated

from fastapi import Query, Response

from amplifier_app_api.api.deps import ConfigId, Configs, IfMatch, IfNoneMatch, Paging
from amplifier_app_api.api.etags import names
from amplifier_app_api.api.filters import TagFilter
from amplifier_app_api.api.idempotency import KEYED, Once
from amplifier_app_api.api.refusals import CHANGING, READING, STORING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import ConfigInUse, ConfigNotFound
from amplifier_app_api.core.idempotency import RequestKey
from amplifier_app_api.errors import PreconditionFailed
from amplifier_app_api.models import (
    Config,
    ConfigCreateRequest,
    ConfigListResponse,
    ConfigPatchRequest,
    ConfigResponse,
    ConfigUpdateRequest,
)
from amplifier_app_api.models.fields import Text
from amplifier_app_api.models.responses import Acknowledgement

router = json_router(prefix="/configs", tag="configs")

GUARDED = (ConfigNotFound, PreconditionFailed)


def shown(config: Config, response: Response, message: str | None = None) -> ConfigResponse:
    """The answer that shows `config`, with its `ETag`."""
    response.headers["ETag"] = config.etag
    return ConfigResponse.of(config, message)


# Not found: what the first request with this key created was deleted since, and its text with it.
@router.post("", status_code=201, responses=documented(ConfigNotFound, *STORING, *KEYED, *CHANGING))
async def create_config(body: ConfigCreateRequest, configs: Configs, response: Response, once: Once) -> ConfigResponse:
    """Store a YAML bundle for reuse."""

    async def create(key: RequestKey | None) -> Config:
        return await configs.create_config(body.name, body.yaml_content, body.description, body.tags, key=key)

    config = await once(create, configs.created_before)
    response.headers["Location"] = f"/configs/{config.config_id}"
    return shown(config, response, "Config created successfully")


@router.get("", responses=documented(*READING))
async def list_configs(
    configs: Configs,
    page: Paging,
    tag: TagFilter = None,
    name: Annotated[Text | None, Query(max_length=200, description="Only Configs with this name")] = None,
) -> ConfigListResponse:
    """The Configs without their texts, newest change first."""
    found = await configs.page_configs(page, name=name, tag=tag)
    return ConfigListResponse(
        configs=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )


@router.get(
    "/{config_id}",
    response_model=ConfigResponse,
    responses={
        304: {"description": "It still has the `ETag` of `If-None-Match`"},
        **documented(ConfigNotFound, *READING),
    },
)
async def get_config(
    config_id: ConfigId, configs: Configs, response: Response, if_none_match: IfNoneMatch = None
) -> ConfigResponse | Response:
    """One Config with its text."""
    config = await configs.get_config(config_id)
    if config is None:
        raise ConfigNotFound(config_id)
    if names(if_none_match, config.etag):
        return Response(status_code=304, headers={"ETag": config.etag})
    return shown(config, response)


@router.put("/{config_id}", responses=documented(*GUARDED, *STORING, *CHANGING))
async def update_config(
    config_id: ConfigId,
    body: ConfigUpdateRequest,
    configs: Configs,
    response: Response,
    if_match: IfMatch = None,
) -> ConfigResponse:
    """Change what is given; absent or null leaves a field as it is, `tags` replaces whole."""
    config = await configs.update_config(
        config_id,
        body.name,
        body.yaml_content,
        body.description,
        body.tags,
        if_match=if_match,
    )
    if config is None:
        raise ConfigNotFound(config_id)
    return shown(config, response, "Config updated successfully")


@router.patch("/{config_id}", responses=documented(*GUARDED, *STORING, *CHANGING))
async def patch_config(
    config_id: ConfigId,
    body: ConfigPatchRequest,
    configs: Configs,
    response: Response,
    if_match: IfMatch = None,
) -> ConfigResponse:
    """Change a Config by a JSON merge patch: null clears `description` and tags."""
    config = await configs.patch_config(
        config_id,
        body.model_dump(exclude_unset=True),
        if_match=if_match,
    )
    if config is None:
        raise ConfigNotFound(config_id)
    return shown(config, response, "Config updated successfully")


@router.delete("/{config_id}", responses=documented(*GUARDED, ConfigInUse, *READING))
async def delete_config(
    config_id: ConfigId,
    configs: Configs,
    cascade: Annotated[bool, Query(description="Cancel and delete its sessions too")] = False,
    if_match: IfMatch = None,
) -> Acknowledgement:
    """Delete a Config and its revisions. One that sessions use stays, unless `cascade` is asked for."""
    if not await configs.delete_config(config_id, if_match=if_match, cascade=cascade):
        raise ConfigNotFound(config_id)
    return Acknowledgement(message="Config deleted successfully")
