"""The application: middleware, refusals, routes. Nothing happens at import."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from amplifier_app_api import __version__
from amplifier_app_api.api import (
    approvals,
    bundles,
    config,
    config_helpers,
    copies,
    events,
    health,
    plans,
    revisions,
    session,
    session_changes,
    storage,
    turns,
    usage,
)
from amplifier_app_api.api.errors import install_error_handlers
from amplifier_app_api.api.middleware import JsonBodies, LocalOnly, RequestLog
from amplifier_app_api.api.modules import router as modules_router
from amplifier_app_api.api.openapi import install_openapi, operation_id
from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings, load_settings

DESCRIPTION = """Stored bundles (Configs), durable sessions, and answers streamed as server-sent events.

Refusals are problem documents (RFC 9457) with a stable `code`."""


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> FastAPI:
    """The service as an ASGI application.

    With `services` it runs on what is open already, and leaves it open. Otherwise it opens its own when the
    server starts it and closes them when the server stops it.
    """
    chosen = services.settings if services is not None else settings or load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        if services is not None:
            yield
            return
        async with open_services(chosen) as opened:
            app.state.services = opened
            yield

    app = FastAPIOffline(  # its pages at /docs and /redoc work without a network
        title="Amplifier App API",
        summary="Amplifier agents behind an HTTP API",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        strict_content_type=False,
        generate_unique_id_function=operation_id,
    )
    if services is not None:
        app.state.services = services
    _wrap(app, chosen)
    install_error_handlers(app)
    install_openapi(app)
    for part in (
        health,
        config,
        config_helpers,
        revisions,
        plans,
        bundles,
        session,
        session_changes,
        turns,
        events,
        copies,
        storage,
        approvals,
        usage,
    ):
        app.include_router(part.router)
    app.include_router(modules_router)
    return app


def _wrap(app: FastAPI, settings: Settings) -> None:
    """What happens around every request, from the inside out: the last one added is the first to see it."""
    app.add_middleware(JsonBodies, limit=settings.max_body_bytes)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Content-Type",
                "Idempotency-Key",
                "If-Match",
                "If-None-Match",
                "Last-Event-ID",
                "X-Request-Id",
            ],
            expose_headers=["ETag", "Idempotency-Replayed", "Location", "Retry-After", "X-Request-Id"],
        )
    app.add_middleware(LocalOnly, on_loopback=settings.on_loopback, origins=settings.allowed_origins)
    app.add_middleware(RequestLog)
