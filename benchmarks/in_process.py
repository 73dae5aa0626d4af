"""The service without HTTP, and the kernel without the service: what the other figures are measured beside."""

import struct
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amplifier_core import AmplifierSession

from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.session_manager import open_runtime
from amplifier_app_api.runtime.kernel.loader import ModuleTable, SessionLoader
from amplifier_app_api.runtime.kernel.session import kinds_of
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.runtime.pool import SessionRuntime
from amplifier_app_api.storage import Database

LIVE_SESSIONS = 5_000
FRAMES_AT = 16  # of the index: the number of frames in the log
FRAME_BYTES = 4096 + 24


@dataclass(frozen=True)
class Managers:
    """The two managers on a database of their own."""

    db: Database
    configs: ConfigManager
    sessions: SessionManager
    runtime: SessionRuntime

    @property
    def log(self) -> Path:
        """SQLite's index of its write-ahead log."""
        if self.db.path is None:
            raise LookupError("the database is a file")
        return self.db.path.with_name(self.db.path.name + "-shm")


@asynccontextmanager
async def managers() -> AsyncGenerator[Managers]:
    """Managers on a fresh SQLite file, with room for more live sessions than a server allows by default."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with Database(Path(folder) / "app.db") as db:
            runtime = open_runtime(db, RuntimeOptions(data_dir=Path(folder), live_sessions=LIVE_SESSIONS))
            try:
                yield Managers(db, ConfigManager(db), SessionManager(db, runtime=runtime), runtime)
            finally:
                await runtime.close()


def frames_written(log: Path) -> int:
    """Bytes in SQLite's write-ahead log, by its index. Less than before: the log began anew."""
    return struct.unpack("=I", log.read_bytes()[FRAMES_AT : FRAMES_AT + 4])[0] * FRAME_BYTES


def config_text(name: str = "bench", *, bundle: str = "foundation:minimal", **options: int) -> str:
    """A bundle as users write it: what is built in, and the model that answers at once with what it was told.

    The least of what is built in: a loop, a context, tools for files, and no hook. So what is measured is the service.
    """
    lines = [f"  name: {name}", "includes:", f"  - bundle: {bundle}", "providers:", "  - module: provider-scripted"]
    if options:
        lines += ["    config:", *(f"      {option}: {value}" for option, value in options.items())]
    return "\n".join(["bundle:", *lines]) + "\n"


def bare_coordinator(folder: str) -> Any:
    """The coordinator of a kernel session that has nothing mounted, with `folder` as its directory."""
    session: Any = AmplifierSession({"session": {"orchestrator": "none", "context": "none"}})
    session.coordinator.register_capability("session.working_dir", folder)
    return session.coordinator


async def bare_session(runtime: SessionRuntime, text: str, table: ModuleTable) -> Any:
    """The same modules mounted on the kernel itself: nothing between them, nothing written down.

    Its loader is ours, because the kernel's own would dominate what is compared here.
    """
    prepared = await runtime.opener.prepared(text, tenant="local")
    plan = prepared.plan()
    session: Any = AmplifierSession(plan)
    session.coordinator.loader = SessionLoader(table, prepared.activations, kinds_of(plan), session.coordinator)
    await session.initialize()
    prompt = await prepared.system_prompt()
    if prompt is not None:

        async def system_prompt() -> str:
            return await prepared.system_prompt() or ""

        await session.coordinator.get("context").set_system_prompt_factory(system_prompt)
    return session
