"""Plans: what a session would run, what is wrong with a document, what two revisions differ in."""

import asyncio
from typing import Annotated

from fastapi import Depends, Query, Response
from pydantic import BaseModel

from amplifier_app_api.api.deps import Caller, ConfigId, Running
from amplifier_app_api.api.refusals import CHANGING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.config_manager import ConfigNotFound, RevisionNotFound
from amplifier_app_api.core.planner import ConfigPlanner
from amplifier_app_api.models.plan import ConfigDiff, DocumentRequest, Plan, Validation, VariablesRequest
from amplifier_app_api.runtime.prepared_cache import PrepareTimeout

router = json_router(prefix="/configs", tag="plans")


async def scoped_plans(services: Running, principal: Caller) -> ConfigPlanner:
    """The planner, for the Configs that the caller may see."""
    return services.plans.scoped(principal)


Plans = Annotated[ConfigPlanner, Depends(scoped_plans)]
Revision = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="A revision; the newest when absent")]

STORED = documented(ConfigNotFound, RevisionNotFound, PrepareTimeout, *READING)


async def _answer(shape: BaseModel) -> Response:
    """A plan may name every value of many documents: it is written in a thread, and once."""
    return Response(await asyncio.to_thread(shape.model_dump_json, by_alias=True), media_type="application/json")


@router.post("/plan", response_model=Plan, responses=documented(PrepareTimeout, *CHANGING))
async def plan_document(body: DocumentRequest, plans: Plans) -> Response:
    """What a session of this document would run. Nothing is stored."""
    return await _answer(await plans.plan_document(body.yaml_content, body.variables))


@router.post("/validate", response_model=Validation, responses=documented(PrepareTimeout, *CHANGING))
async def validate_document(body: DocumentRequest, plans: Plans) -> Response:
    """What is wrong with this document. Nothing is stored; a wrong document is no error, but the answer."""
    return await _answer(await plans.validate_document(body.yaml_content, body.variables))


@router.get("/{config_id}/plan", response_model=Plan, responses=STORED)
async def plan_config(config_id: ConfigId, plans: Plans, revision: Revision = None) -> Response:
    """What a session of this Config would run."""
    return await _answer(await plans.plan_config(config_id, revision))


@router.post(
    "/{config_id}/validate",
    response_model=Validation,
    responses=documented(ConfigNotFound, RevisionNotFound, PrepareTimeout, *CHANGING),
)
async def validate_config(
    config_id: ConfigId, plans: Plans, body: VariablesRequest | None = None, revision: Revision = None
) -> Response:
    """What is wrong with this Config."""
    variables = body.variables if body else None
    return await _answer(await plans.validate_config(config_id, revision, variables))


@router.get("/{config_id}/diff", response_model=ConfigDiff, responses=STORED)
async def diff_config(
    config_id: ConfigId,
    plans: Plans,
    before: Annotated[int, Query(alias="from", ge=1, le=2**31 - 1, description="The older revision")],
    after: Annotated[int, Query(alias="to", ge=1, le=2**31 - 1, description="The newer revision")],
) -> Response:
    """What two revisions of this Config differ in: their texts, and what they compose to."""
    return await _answer(await plans.diff_config(config_id, before, after))
