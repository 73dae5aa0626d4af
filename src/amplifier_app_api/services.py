"""What is alive in a process, opened and closed in this order."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from amplifier_app_api.bundles import DocumentLimits, default_config_text
from amplifier_app_api.bundles.sources import SourcePolicy
from amplifier_app_api.cluster.node import NodeWatch, this_process
from amplifier_app_api.cluster.server_lock import server_lock
from amplifier_app_api.cluster.supervisor import Supervisor
from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.core.bundle_registry import BundleRegistry
from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.idempotency import IdempotencyKeys
from amplifier_app_api.core.module_catalog import ModuleCatalog
from amplifier_app_api.core.planner import ConfigPlanner
from amplifier_app_api.core.session_copies import SessionCopies
from amplifier_app_api.core.session_manager import SessionManager, open_runtime
from amplifier_app_api.core.session_storage import SessionStorage
from amplifier_app_api.core.usage import UsageReports
from amplifier_app_api.events.hub import EventHub
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.principal import LOCAL
from amplifier_app_api.runtime.housekeeping import Housekeeping
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.pool import SessionRuntime
from amplifier_app_api.settings import InvalidSettings, Settings
from amplifier_app_api.storage.configs import list_configs
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.nodes import NodeIdentity
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
    modules: ModuleCatalog
    sessions: SessionManager
    keys: IdempotencyKeys
    copies: SessionCopies
    storage: SessionStorage
    approvals: ApprovalManager
    usage: UsageReports
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

    Refused with `AlreadyServed` while another server has the data folder or the database file. What an earlier server
    left running has been taken over before this returns.
    """
    if settings.node_dead_after < 3 * settings.heartbeat:
        raise InvalidSettings("AMPLIFIER_NODE_DEAD_AFTER: must be at least three times AMPLIFIER_HEARTBEAT")
    try:
        SourcePolicy.of(settings.source_allow)
    except ValueError as problem:
        raise InvalidSettings(f"AMPLIFIER_SOURCE_ALLOW: {problem}") from None
    async with AsyncExitStack() as stack:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = Database(settings.database_url or settings.data_dir / "app.db")
        await stack.enter_async_context(db)
        me = this_process()
        options = replace(RuntimeOptions.of(settings), node_id=me.node_id)
        runtime = open_runtime(db, options, hub=EventHub(settings.stream_buffer_bytes))
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
            modules=ModuleCatalog(configs, runtime.opener, runtime.options),
            sessions=SessionManager(db, runtime=runtime),
            keys=IdempotencyKeys(db),
            copies=SessionCopies(db, runtime, configs),
            storage=SessionStorage(db, runtime.workspaces),
            approvals=ApprovalManager(db, board=runtime.approvals),
            usage=UsageReports(db),
        )

        await stack.enter_async_context(server_lock(db, settings.data_dir))
        supervisor = _supervisor(settings, db, runtime, me)
        stack.push_async_callback(supervisor.leave)
        stack.push_async_callback(runtime.close)
        stack.push_async_callback(supervisor.stop)
        await supervisor.start()
        if settings.default_config:
            await _store_default_config(services)
        housekeeping = Housekeeping(db, events=settings.event_retention, keys=settings.idempotency_retention)
        stack.push_async_callback(housekeeping.close)
        housekeeping.start()
        services.ready = True
        try:
            yield services
        finally:
            services.ready = False


def _supervisor(settings: Settings, db: Database, runtime: SessionRuntime, me: NodeIdentity) -> Supervisor:
    dead_after = settings.node_dead_after
    if db.dialect == "sqlite":
        heartbeat, watch = None, NodeWatch(me, alone=True, dead_after=dead_after)
    else:
        from amplifier_app_api.cluster.heartbeat import Heartbeat  # brings the PostgreSQL driver with it

        heartbeat = Heartbeat(db.url, me, every=settings.heartbeat, dead_after=dead_after)
        watch = NodeWatch(me, alone=False, dead_after=dead_after, steady=heartbeat.steady)
    return Supervisor(
        db,
        watch,
        runtime.recovery,
        every=settings.heartbeat,
        dead_after=dead_after,
        heartbeat=heartbeat,
        after_look=runtime.after_look,
    )


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
