"""`/modules`: what this server can run without a source, with the options of each."""

from typing import Annotated

from fastapi import Depends, Path, Query

from amplifier_app_api.api.deps import Caller, Paging, Running
from amplifier_app_api.api.refusals import READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.bundles import MissingVariables, NotRunnable
from amplifier_app_api.core.config_manager import ConfigNotFound
from amplifier_app_api.core.module_catalog import ModuleCatalog, ModuleNotFound
from amplifier_app_api.errors import BadGateway, TimedOut, TooMany, Unavailable
from amplifier_app_api.models.module import ModuleKind, ModuleListResponse, ModuleResponse
from amplifier_app_api.runtime.model_listing import ProviderNotNamed
from amplifier_app_api.runtime.opening import ModuleFailed
from amplifier_app_api.runtime.prepared_cache import PrepareTimeout

router = json_router(prefix="/modules", tag="modules")


async def scoped_modules(services: Running, principal: Caller) -> ModuleCatalog:
    """The modules that the caller may name."""
    return services.modules.scoped(principal)


Modules = Annotated[ModuleCatalog, Depends(scoped_modules)]

ASKING = (ConfigNotFound, NotRunnable, MissingVariables, ProviderNotNamed, PrepareTimeout, ModuleFailed)
PROVIDERS = (TooMany, BadGateway, Unavailable, TimedOut)


@router.get("", responses=documented(*READING))
async def list_modules(
    modules: Modules,
    page: Paging,
    kind: Annotated[ModuleKind | None, Query(description="Only modules of this kind")] = None,
) -> ModuleListResponse:
    """The modules that a config may name without a source, in alphabetical order."""
    found = await modules.page_modules(page, kind=kind)
    return ModuleListResponse(
        modules=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )


@router.get("/{module_id}", responses=documented(ModuleNotFound, *ASKING, *PROVIDERS, *READING))
async def get_module(
    module_id: Annotated[str, Path()],
    modules: Modules,
    models: Annotated[bool, Query(description="Ask the provider for its models, too")] = False,
    config_id: Annotated[
        str | None, Query(description="Ask for them with the options that this Config gives the provider")
    ] = None,
) -> ModuleResponse:
    """What a module is, and the JSON Schema of its options."""
    module = await modules.get_module(module_id)
    if module is None:
        raise modules.unknown(module_id)
    listed = await modules.list_models(module_id, config_id=config_id) if models else None
    return ModuleResponse(**module.model_dump(), models=listed)
