"""What is alive in a process, opened and closed in this order."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection

from amplifier_app_api.bundles import DocumentLimits, default_config_text
from amplifier_app_api.bundles.sources import SourcePolicy
from amplifier_app_api.cluster.server_lock import server_lock
from amplifier_app_api.core.bundle_registry import BundleRegistry
from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.planner import ConfigPlanner
from amplifier_app_api.core.session_manager import SessionManager, open_runtime
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.principal import LOCAL
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.pool import SessionRuntime
from amplifier_app_api.settings import InvalidSettings, Settings
from amplifier_app_api.storage.configs import list_configs
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.lifecycle import sweep_lost_turns
from amplifier_app_api.storage.state import get_state, set_state

logger = logging.getLogger(__name__)

DEFAULT_CONFIG_NAME = "foundation-default"
_SEEDED = "default_config"


@dataclass
class Services:
    """Everything that the HTTP layer needs. Managers are scoped to a caller before a route sees them."""

    settings: Settings
    db: Database
    runtime: SessionRuntime
    configs: ConfigManager
    plans: ConfigPlanner
    bundles: BundleRegistry
    sessions: SessionManager
    ready: bool = False
    _started: float = field(default_factory=time.monotonic)

    @property
    def uptime(self) -> float:
        """Seconds since the services were opened."""
        return time.monotonic() - self._started

    async def stop_streams(self) -> None:
        """The server is about to stop: take no more messages, end every stream, give running turns their grace."""
        self.ready = False
        self.runtime.hub.close()
        await self.runtime.drain(self.settings.shutdown_grace)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncGenerator[Services]:
    """Open what a server is made of, and close it bottom up: live sessions end while the database still answers.

    Refused with `AlreadyServed` while another server has the data folder or the database. What an earlier server
    left running is ended before this returns.
    """
    try:
        SourcePolicy.of(settings.source_allow)
    except ValueError as problem:
        raise InvalidSettings(f"AMPLIFIER_SOURCE_ALLOW: {problem}") from None
    async with AsyncExitStack() as stack:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = Database(settings.database_url or settings.data_dir / "app.db")
        await stack.enter_async_context(db)
        runtime = open_runtime(db, RuntimeOptions.of(settings), hub=EventHub(settings.stream_buffer_bytes))
        limits = DocumentLimits(max_bytes=settings.max_document_bytes)

        async def stop_sessions(session_ids: list[str], tenant: str) -> None:
            await runtime.release(session_ids, within=tenant)

        async def forget_sessions(session_ids: list[str], tenant: str) -> None:
            await runtime.forget_deleted(session_ids, within=tenant)

        configs = ConfigManager(db, limits=limits, on_cascade=stop_sessions, on_gone=forget_sessions)
        services = Services(
            settings=settings,
            db=db,
            runtime=runtime,
            configs=configs,
            plans=ConfigPlanner(configs, runtime.opener, runtime.options),
            bundles=BundleRegistry(db, sources=runtime.opener.sources, on_refresh=runtime.opener.forget),
            sessions=SessionManager(db, runtime=runtime),
        )

        def lock_lost() -> None:
            # Another server may start now and take our turns for left behind: end them while we still can say so.
            logger.error("the lock on the database was lost; this server takes no more messages")
            services.ready = False
            runtime.refuse()

        await stack.enter_async_context(server_lock(db, settings.data_dir, on_lost=lock_lost))
        stack.push_async_callback(runtime.close)
        lost = await db.write(sweep_lost_turns)
        if lost:
            logger.warning("turns that an earlier server left behind were interrupted", extra={"turns": len(lost)})
        if settings.default_config:
            await _store_default_config(services)
        services.ready = True
        try:
            yield services
        finally:
            services.ready = False


async def _store_default_config(services: Services) -> None:
    """At the first start on an empty database there is one Config; deleted, it does not come back."""
    if await services.db.write(_is_first_start):
        await services.configs.create_config(
            DEFAULT_CONFIG_NAME, default_config_text(), "A complete assistant that works offline.", {"builtin": "true"}
        )


def _is_first_start(conn: Connection) -> bool:
    if get_state(conn, _SEEDED) is not None:
        return False
    set_state(conn, _SEEDED, DEFAULT_CONFIG_NAME)
    return list_configs(conn, PageRequest(limit=1), within=LOCAL.tenant_id).total == 0
