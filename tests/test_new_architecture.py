"""The two primitives end to end, as a script uses them: Configs, and the Sessions made from them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplifier_app_api.bundles import MissingVariables
from amplifier_app_api.core.config_manager import ConfigManager, ConfigNotFound
from amplifier_app_api.core.session_manager import SessionManager, SessionNotFound
from amplifier_app_api.models import Config, ConfigMetadata, Session
from amplifier_app_api.storage.database import Database

DEV_CONFIG = """
bundle:
  name: dev-config
  version: 1.0.0

includes:
  - bundle: foundation

providers:
  - module: provider-anthropic
    config:
      api_key: ${ANTHROPIC_API_KEY}
      model: claude-sonnet-4-5

session:
  orchestrator: loop-streaming
  context: context-persistent
"""

OFFLINE_CONFIG = """
bundle:
  name: offline

includes:
  - bundle: foundation

providers:
  - module: provider-scripted
    config:
      replies: [The first answer., The second answer.]

session:
  orchestrator: loop-streaming
  context: context-persistent
"""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(tmp_path / "app.db")
    await db.connect()
    yield db
    await db.disconnect()


@pytest.fixture
async def sessions(db: Database) -> AsyncIterator[SessionManager]:
    async with SessionManager(db) as manager:
        yield manager


@pytest.fixture
async def config_id(db: Database) -> str:
    return (await ConfigManager(db).create_config("offline", OFFLINE_CONFIG)).config_id


class TestConfigs:
    """Create, read, update, delete, list; the YAML helpers."""

    async def test_a_created_config_is_read_back_as_it_is(self, db: Database) -> None:
        manager = ConfigManager(db)
        config = await manager.create_config(
            name="my-dev-config",
            yaml_content=DEV_CONFIG,
            description="Development configuration",
            tags={"env": "dev"},
        )

        assert isinstance(config, Config)
        assert (config.name, config.description, config.tags) == (
            "my-dev-config",
            "Development configuration",
            {"env": "dev"},
        )
        assert config.yaml_content == DEV_CONFIG
        assert config.created_at == config.updated_at
        assert await manager.get_config(config.config_id) == config

    async def test_broken_yaml_is_a_value_error(self, db: Database) -> None:
        with pytest.raises(ValueError, match=r"^Invalid YAML"):
            await ConfigManager(db).create_config("broken", "bundle: {name: [unclosed")

    async def test_an_update_changes_what_is_given_and_moves_updated_at(self, db: Database) -> None:
        manager = ConfigManager(db)
        config = await manager.create_config("dev", DEV_CONFIG, "first", {"env": "dev"})
        updated = await manager.update_config(config.config_id, name="renamed", description="second")

        assert updated is not None
        assert (updated.name, updated.description, updated.tags) == ("renamed", "second", {"env": "dev"})
        assert updated.yaml_content == DEV_CONFIG
        assert updated.created_at == config.created_at
        assert updated.updated_at > config.updated_at

    async def test_a_deleted_config_is_gone(self, db: Database) -> None:
        manager = ConfigManager(db)
        config = await manager.create_config("dev", DEV_CONFIG)

        assert await manager.delete_config(config.config_id) is True
        assert await manager.get_config(config.config_id) is None
        assert await manager.delete_config(config.config_id) is False

    async def test_what_does_not_exist_is_none(self, db: Database) -> None:
        manager = ConfigManager(db)
        assert await manager.get_config("no-such-config") is None
        assert await manager.update_config("no-such-config", name="x") is None

    async def test_a_list_is_a_page_and_the_total(self, db: Database) -> None:
        manager = ConfigManager(db)
        for number in range(5):
            await manager.create_config(f"config-{number}", DEV_CONFIG)

        first, total = await manager.list_configs(limit=2, offset=0)
        assert [type(item) for item in first] == [ConfigMetadata, ConfigMetadata]
        assert ([item.name for item in first], total) == (["config-4", "config-3"], 5)
        last, total = await manager.list_configs(limit=2, offset=4)
        assert ([item.name for item in last], total) == (["config-0"], 5)

    async def test_a_tool_a_provider_and_an_include_are_added(self, db: Database) -> None:
        manager = ConfigManager(db)
        config = await manager.create_config("dev", DEV_CONFIG)
        await manager.add_tool_to_config(config.config_id, "tool-filesystem", config={"root": "."})
        await manager.add_provider_to_config(config.config_id, "provider-scripted")
        changed = await manager.merge_bundle_into_config(config.config_id, "foundation-default")

        assert changed is not None
        document = manager.parse_yaml(changed.yaml_content)
        assert document["tools"] == [{"module": "tool-filesystem", "config": {"root": "."}}]
        assert [provider["module"] for provider in document["providers"]] == ["provider-anthropic", "provider-scripted"]
        assert document["includes"] == [{"bundle": "foundation"}, {"bundle": "foundation-default"}]

    async def test_concurrent_helpers_lose_nothing(self, db: Database) -> None:
        manager = ConfigManager(db)
        config = await manager.create_config("dev", DEV_CONFIG)
        await asyncio.gather(*(manager.add_tool_to_config(config.config_id, f"tool-{n}") for n in range(10)))

        done = await manager.get_config(config.config_id)
        assert done is not None
        tools = manager.parse_yaml(done.yaml_content)["tools"]
        assert sorted(tool["module"] for tool in tools) == [f"tool-{n}" for n in range(10)]


class TestSessions:
    """Create from a `config_id`, resume, send, stream, get, list, delete."""

    async def test_a_session_is_made_from_a_config_id_alone(self, sessions: SessionManager, config_id: str) -> None:
        session = await sessions.create_session(config_id)

        assert isinstance(session, Session)
        assert (session.config_id, session.revision, session.status, session.message_count) == (
            config_id,
            1,
            "active",
            0,
        )
        assert await sessions.get_session(session.session_id) == session

    async def test_a_config_that_does_not_exist_makes_no_session(self, sessions: SessionManager) -> None:
        with pytest.raises(ConfigNotFound):
            await sessions.create_session("no-such-config")

        assert await sessions.count_sessions() == 0

    async def test_one_config_makes_many_sessions_that_know_nothing_of_each_other(
        self, sessions: SessionManager, config_id: str
    ) -> None:
        one, other = await sessions.create_session(config_id), await sessions.create_session(config_id)
        await sessions.send_message(one.session_id, "Hello")

        assert one.session_id != other.session_id
        assert len(await sessions.transcript(one.session_id)) == 2
        assert await sessions.transcript(other.session_id) == []

    async def test_a_message_is_answered_with_a_dict(self, sessions: SessionManager, config_id: str) -> None:
        session = await sessions.create_session(config_id)
        answer = await sessions.send_message(session.session_id, "Hello", {"screen": "start"})

        assert set(answer) == {"session_id", "turn_id", "status", "stop_reason", "response", "usage", "metadata"}
        assert (answer["session_id"], answer["status"], answer["response"]) == (
            session.session_id,
            "completed",
            "The first answer.",
        )
        assert answer["metadata"] == {"config_id": config_id, "revision": 1}

    async def test_an_answer_is_streamed_as_dicts(self, sessions: SessionManager, config_id: str) -> None:
        session = await sessions.create_session(config_id)
        events = [event async for event in sessions.stream_message(session.session_id, "Hello")]

        assert events[0] == {"type": "connected", "session_id": session.session_id}
        assert [event["text"] for event in events if event["type"] == "message.delta"] == ["The ", "first ", "answer."]
        assert [event["type"] for event in events[-3:]] == ["turn.completed", "response", "done"]
        assert events[-2]["content"] == "The first answer."

    async def test_a_stream_refuses_on_its_first_step(self, sessions: SessionManager) -> None:
        stream = sessions.stream_message("no-such-session", "Hello")

        with pytest.raises(SessionNotFound):
            await anext(stream)

    async def test_the_transcript_is_kept_in_order(self, sessions: SessionManager, config_id: str) -> None:
        session = await sessions.create_session(config_id)
        await sessions.send_message(session.session_id, "Hello")
        await sessions.send_message(session.session_id, "And now?")

        said = [(message.role, message.content) for message in await sessions.transcript(session.session_id)]
        assert said == [
            ("user", "Hello"),
            ("assistant", [{"type": "text", "text": "The first answer."}]),
            ("user", "And now?"),
            ("assistant", [{"type": "text", "text": "The second answer."}]),
        ]

    async def test_a_session_is_resumed_by_another_process_where_it_was(self, db: Database, config_id: str) -> None:
        async with SessionManager(db) as first:
            session = await first.create_session(config_id)
            await first.send_message(session.session_id, "Hello")

        async with SessionManager(db) as second:
            resumed = await second.resume_session(session.session_id)
            answer = await second.send_message(session.session_id, "And now?")

        assert resumed is not None
        assert (resumed.session_id, resumed.status, resumed.message_count) == (session.session_id, "active", 1)
        assert answer["response"] == "The second answer."

    async def test_a_list_is_a_page_newest_change_first_and_the_count_is_the_total(
        self, sessions: SessionManager, config_id: str
    ) -> None:
        made = [(await sessions.create_session(config_id)).session_id for _ in range(3)]
        await sessions.send_message(made[0], "Hello")

        assert [session.session_id for session in await sessions.list_sessions(limit=2, offset=0)] == [made[0], made[2]]
        assert [session.session_id for session in await sessions.list_sessions(limit=2, offset=2)] == [made[1]]
        assert await sessions.count_sessions() == 3

    async def test_a_deleted_session_is_gone(self, sessions: SessionManager, config_id: str) -> None:
        session = await sessions.create_session(config_id)

        assert await sessions.delete_session(session.session_id) is True
        assert await sessions.get_session(session.session_id) is None
        assert await sessions.delete_session(session.session_id) is False
        assert await sessions.count_sessions() == 0

    async def test_what_does_not_exist_is_none(self, sessions: SessionManager) -> None:
        assert await sessions.get_session("no-such-session") is None
        assert await sessions.resume_session("no-such-session") is None


class TestTheCompleteFlow:
    """A Config's text, through preparation and the kernel, to a session with a transcript."""

    async def test_a_config_completed_by_the_helpers_runs(self, db: Database, sessions: SessionManager) -> None:
        configs = ConfigManager(db)
        config_id = (await configs.create_config("grown", "bundle:\n  name: grown\n")).config_id
        await configs.merge_bundle_into_config(config_id, "foundation")
        await configs.add_provider_to_config(config_id, "provider-scripted", None, {"replies": ["Ready."]})

        session = await sessions.create_session(config_id)
        answer = await sessions.send_message(session.session_id, "Hello")

        assert (session.revision, answer["response"]) == (3, "Ready.")

    async def test_a_session_stays_on_the_text_it_was_opened_with(
        self, db: Database, sessions: SessionManager, config_id: str
    ) -> None:
        session = await sessions.create_session(config_id)
        await ConfigManager(db).update_config(
            config_id, yaml_content=OFFLINE_CONFIG.replace("The second", "Another second")
        )
        await sessions.send_message(session.session_id, "Hello")
        old = await sessions.send_message(session.session_id, "And now?")
        new = await sessions.create_session(config_id)

        assert (old["response"], old["metadata"]["revision"]) == ("The second answer.", 1)
        assert new.revision == 2

    async def test_the_example_needs_its_key_and_says_so(self, db: Database, sessions: SessionManager) -> None:
        config = await ConfigManager(db).create_config("my-dev-config", DEV_CONFIG)

        with pytest.raises(MissingVariables, match="ANTHROPIC_API_KEY") as refusal:
            await sessions.create_session(config.config_id)

        assert [(item.code, item.pointer) for item in refusal.value.items] == [
            ("missing_variable", "/providers/0/config/api_key")
        ]
