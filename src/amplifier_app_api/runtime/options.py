"""What the runtime needs to know about the process it lives in."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from amplifier_app_api.bundles import DocumentLimits
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.settings import PROVIDER_KEYS, Bounds, Settings


def _environment() -> Mapping[str, str]:
    return dict(os.environ)


def _budget(bounds: Bounds) -> Budget | None:
    return Budget.model_validate(dict(bounds)) if bounds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Where sessions live, what they may read, and how many there may be."""

    data_dir: Path
    node_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    source_roots: tuple[Path, ...] = ()
    source_allow: tuple[str, ...] = ()
    private_addresses: bool = False
    commands_unsandboxed: Literal["refuse", "ask", "allow"] = "refuse"
    commands_network: bool = False
    mcp_programs: bool = True
    source_cache_bytes: int = 2 * 2**30
    source_refresh: timedelta = timedelta(seconds=60)
    install_dependencies: bool = False
    env_allow: tuple[str, ...] = PROVIDER_KEYS
    environment: Mapping[str, str] = field(default_factory=_environment, repr=False)
    limits: DocumentLimits = field(default_factory=DocumentLimits)
    prepare_timeout: timedelta = timedelta(seconds=60)
    prepared_cache: int = 64
    live_sessions: int = 500
    idle_close: timedelta = timedelta(minutes=15)
    turn_timeout: timedelta = timedelta(hours=1)
    max_running_turns: int = 200
    delegation_depth: int = 5
    self_delegation_depth: int = 3
    delegation_tasks: int = 100
    max_queued_turns: int = 1000
    max_queued_turns_per_session: int = 100
    approval_timeout: timedelta = timedelta(hours=1)
    turn_budget: Budget | None = None
    session_budget: Budget | None = None
    tenant_budget: Budget | None = None

    @classmethod
    def of(cls, settings: Settings) -> "RuntimeOptions":
        """The options that a server's settings say."""
        return cls(
            data_dir=settings.data_dir,
            source_roots=settings.source_roots,
            source_allow=settings.source_allow,
            private_addresses=settings.private_addresses,
            commands_unsandboxed=settings.commands_unsandboxed,
            commands_network=settings.commands_network,
            mcp_programs=settings.mcp_programs,
            source_cache_bytes=settings.source_cache_bytes,
            source_refresh=settings.source_refresh,
            install_dependencies=settings.install_dependencies,
            env_allow=settings.env_allow,
            limits=DocumentLimits(max_bytes=settings.max_document_bytes),
            prepare_timeout=settings.prepare_timeout,
            prepared_cache=settings.prepared_cache,
            live_sessions=settings.live_sessions,
            idle_close=settings.idle_close,
            turn_timeout=settings.turn_timeout,
            max_running_turns=settings.max_running_turns,
            delegation_depth=settings.delegation_depth,
            self_delegation_depth=settings.self_delegation_depth,
            delegation_tasks=settings.delegation_tasks,
            max_queued_turns=settings.max_queued_turns,
            max_queued_turns_per_session=settings.max_queued_turns_per_session,
            approval_timeout=settings.approval_timeout,
            turn_budget=_budget(settings.turn_budget),
            session_budget=_budget(settings.session_budget),
            tenant_budget=_budget(settings.tenant_budget),
        )

    def source_environment(self) -> dict[str, str]:
        """The variables that may stand in a `source:`."""
        return {name: self.environment[name] for name in self.env_allow if name in self.environment}
