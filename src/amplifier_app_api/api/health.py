"""Whether and what: `/`, `/health`, `/ready`, `/version`."""

import asyncio

from amplifier_app_api import __version__
from amplifier_app_api.api.deps import Running
from amplifier_app_api.api.refusals import ALWAYS, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.api.versions import installed
from amplifier_app_api.models.responses import HealthResponse, ReadyResponse, ServiceInfo, VersionResponse
from amplifier_app_api.runtime.pool import ShuttingDown
from amplifier_app_api.services import Services
from amplifier_app_api.storage.engine import DatabaseUnavailable

router = json_router(tag="service")

PATIENCE_SECONDS = 3.0


@router.get("/", responses=documented(*ALWAYS))
async def get_service() -> ServiceInfo:
    """What answers here."""
    return ServiceInfo(
        service="Amplifier App api",
        version=__version__,
        description="Amplifier agents behind an HTTP API: stored bundles, durable sessions, streamed answers",
        docs="/docs",
        health="/health",
    )


@router.get("/health", responses=documented(*ALWAYS))
async def get_health(services: Running) -> HealthResponse:
    """Whether the service works. Always 200: `status` says `healthy` or `degraded`."""
    connected = await database_answers(services)
    return HealthResponse(
        status="healthy" if connected else "degraded",
        version=__version__,
        uptime=uptime_text(services.uptime),
        uptime_seconds=round(services.uptime, 3),
        database_connected=connected,
    )


@router.get("/ready", responses=documented(ShuttingDown, DatabaseUnavailable, *ALWAYS))
async def get_ready(services: Running) -> ReadyResponse:
    """Whether the service takes requests: 200, or 503 with the reason."""
    if not services.ready:
        raise ShuttingDown("This server takes no requests now")
    if not await database_answers(services):
        raise DatabaseUnavailable("The database does not answer")
    return ReadyResponse(ready=True)


@router.get("/version", responses=documented(*ALWAYS))
async def get_version() -> VersionResponse:
    """What runs here. A part that is not installed is null."""
    return VersionResponse(
        service_version=__version__,
        amplifier_core_version=installed("amplifier-core"),
        amplifier_foundation_version=installed("amplifier-foundation"),
    )


async def database_answers(services: Services) -> bool:
    """Whether the database answers, and soon: whoever asks for our health waits for it."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await services.db.ping()
    except TimeoutError:
        return False


def uptime_text(seconds: float) -> str:
    """The uptime in words: `Days: 0, Hours: 0, Minutes: 0, Seconds: 5`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"Days: {days}, Hours: {hours}, Minutes: {minutes}, Seconds: {rest}"
