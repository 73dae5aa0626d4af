"""The helpers of `/configs/{config_id}`: add a tool, a provider or an include to the text.

Lines are inserted and the rest of the text stays as it is; `edit` says `redumped` where that cannot be proven.
"""

from fastapi import Response

from amplifier_app_api.api.config import GUARDED
from amplifier_app_api.api.deps import ConfigId, Configs, IfMatch
from amplifier_app_api.api.helper_bodies import Include, Provider, Replace, Tool
from amplifier_app_api.api.refusals import CHANGING, STORING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.bundles import Edit, ModuleExists
from amplifier_app_api.core.config_edits import include_edit, provider_edit, tool_edit
from amplifier_app_api.core.config_manager import ConfigContended, ConfigNotFound
from amplifier_app_api.models import Config, ConfigResponse

router = json_router(prefix="/configs/{config_id}", tag="configs")

EDITING = documented(*GUARDED, ModuleExists, ConfigContended, *STORING, *CHANGING)


@router.post("/tools", responses=EDITING)
async def add_tool(
    config_id: ConfigId,
    tool: Tool,
    configs: Configs,
    response: Response,
    replace: Replace = False,
    if_match: IfMatch = None,
) -> ConfigResponse:
    """Append a tool to the bundle."""
    edit = tool_edit(tool.module, tool.source, tool.config, replace=replace)
    edited = await configs.edit_config(config_id, edit, if_match=if_match)
    return _shown(config_id, edited, response, "Tool added to config successfully")


@router.post("/providers", responses=EDITING)
async def add_provider(
    config_id: ConfigId,
    provider: Provider,
    configs: Configs,
    response: Response,
    replace: Replace = False,
    if_match: IfMatch = None,
) -> ConfigResponse:
    """Append a provider to the bundle."""
    edit = provider_edit(provider.module, provider.source, provider.config, replace=replace)
    edited = await configs.edit_config(config_id, edit, if_match=if_match)
    return _shown(config_id, edited, response, "Provider added to config successfully")


@router.post("/bundles", responses=EDITING)
async def merge_bundle(
    config_id: ConfigId,
    include: Include,
    configs: Configs,
    response: Response,
    replace: Replace = False,
    if_match: IfMatch = None,
) -> ConfigResponse:
    """Append an include to the bundle."""
    edited = await configs.edit_config(config_id, include_edit(include.bundle_uri, replace=replace), if_match=if_match)
    return _shown(config_id, edited, response, "Bundle merged into config successfully")


def _shown(config_id: str, edited: tuple[Config, Edit] | None, response: Response, message: str) -> ConfigResponse:
    if edited is None:
        raise ConfigNotFound(config_id)
    config, edit = edited
    response.headers["ETag"] = config.etag
    return ConfigResponse.of(config, message, edit=edit.how)
