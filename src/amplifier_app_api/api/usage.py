"""`/usage`: what the turns of all sessions have used."""

from datetime import date
from typing import Annotated

from fastapi import Query

from amplifier_app_api.api.deps import Usage
from amplifier_app_api.api.refusals import READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.models.usage import UsageResponse

router = json_router(tag="usage")


@router.get("/usage", responses=documented(*READING))
async def usage(
    usage: Usage,
    first: Annotated[date | None, Query(alias="from", description="The first day, in UTC; 29 days before `to`")] = None,
    last: Annotated[date | None, Query(alias="to", description="The last day, in UTC; today")] = None,
) -> UsageResponse:
    """What turns have used on each day, in UTC, that one ended on; at most 366 days."""
    return UsageResponse.of(await usage.days(first, last))
