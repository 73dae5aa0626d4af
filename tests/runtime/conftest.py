"""The runtime on a real database, in process: sessions, turns and what they leave behind."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.session_manager import open_runtime
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.storage import Database
from runtime_bundles import MODULES, bundle_text


class Chat:
    """One session, and short words for what people do with it."""

    def __init__(self, sessions: SessionManager, session_id: str) -> None:
        self.sessions = sessions
        self.session_id = session_id

    async def say(self, text: str) -> str:
        return (await self.sessions.send_message(self.session_id, text))["response"]

    async def stream(self, text: str) -> list[dict[str, Any]]:
        return [event async for event in self.sessions.stream_message(self.session_id, text)]

    async def events(self, after: int = 0) -> list[dict[str, Any]]:
        follower = await self.sessions.follow(self.session_id, after=after)
        try:
            found: list[dict[str, Any]] = []
            session = await self.sessions.get_session(self.session_id)
            assert session is not None
            while not found or found[-1]["seq"] < session.last_seq:
                batch = await follower.next_batch(5)
                assert batch, "the log must be readable to its end"
                found += [item.payload() for item in batch if item.seq is not None]
            return found
        finally:
            await follower.close()

    async def transcript(self) -> list[tuple[str, Any]]:
        return [(message.role, _text(message.content)) for message in await self.sessions.transcript(self.session_id)]

    async def reopened(self, sessions: SessionManager) -> "Chat":
        return Chat(sessions, self.session_id)


def _text(content: Any) -> Any:
    if isinstance(content, list) and all(block.get("type") == "text" for block in content):
        return "".join(block["text"] for block in content)
    return content


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = tmp_path / "app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as database:
        yield database


@pytest.fixture
def options(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(data_dir=tmp_path / "data", source_roots=(MODULES, tmp_path), environment={})


@pytest.fixture
async def make_sessions(db: Database, options: RuntimeOptions) -> AsyncIterator[Callable[..., SessionManager]]:
    """Makes managers with a runtime of their own, as a process that has just started has."""
    runtimes = []

    def make(**changes: Any) -> SessionManager:
        values = {name: getattr(options, name) for name in RuntimeOptions.__dataclass_fields__ if name != "node_id"}
        runtime = open_runtime(db, RuntimeOptions(**{**values, **changes}))
        runtimes.append(runtime)
        return SessionManager(db, runtime=runtime)

    yield make
    for runtime in runtimes:
        await runtime.close()


@pytest.fixture
def sessions(make_sessions: Callable[..., SessionManager]) -> SessionManager:
    return make_sessions()


@pytest.fixture
def configs(db: Database) -> ConfigManager:
    return ConfigManager(db)


@pytest.fixture
async def open_chat(configs: ConfigManager, sessions: SessionManager) -> Callable[..., Any]:
    """Stores a bundle and opens a session of it."""

    async def open_with(text: str | None = None, *, manager: SessionManager | None = None, **kwargs: Any) -> Chat:
        config = await configs.create_config("test", text or bundle_text())
        session = await (manager or sessions).create_session(config.config_id, **kwargs)
        return Chat(manager or sessions, session.session_id)

    return open_with
