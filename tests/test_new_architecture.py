"""The two primitives end to end, as a script uses them: Configs, and the Sessions made from them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.models import Config, ConfigMetadata
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


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(tmp_path / "app.db")
    await db.connect()
    yield db
    await db.disconnect()


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
