"""The use cases of Configs, from a script's point of view."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from amplifier_app_api.bundles import DocumentLimits, Edit, ModuleExists
from amplifier_app_api.core.config_edits import include_edit, tool_edit
from amplifier_app_api.core.config_manager import (
    ConfigContended,
    ConfigInUse,
    ConfigManager,
    ConfigNotFound,
    RevisionNotFound,
)
from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.core.if_match import ConfigChanged
from amplifier_app_api.errors import Invalid
from amplifier_app_api.models.config import Config
from amplifier_app_api.models.page import InvalidPage, PageRequest
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.tables import sessions

DEV = "# mine\nbundle:\n  name: dev  # short\n"
OTHER = "bundle:\n  name: other\n"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path / "app.db") as db:
        yield db


@pytest.fixture
def configs(db: Database) -> ConfigManager:
    return ConfigManager(db)


def add_session(conn: Connection, config_id: str, session_id: str) -> None:
    now = datetime.now(UTC)
    unused = dict.fromkeys(("allow_missing", "message_count", "last_position", "last_seq", "epoch"), 0)
    conn.execute(
        insert(sessions).values(
            session_id=session_id,
            tenant_id="default",
            config_id=config_id,
            revision=1,
            status="active",
            activity="idle",
            tags={},
            degraded=[],
            usage={},
            created_at=now,
            updated_at=now,
            **unused,
        )
    )


# --- create ---


async def test_the_text_is_kept_byte_for_byte(configs: ConfigManager) -> None:
    text = "\ufeff# é\r\nbundle: {name: dev}   \r\n\r\n"
    config = await configs.create_config("dev", text)

    assert config.yaml_content == text
    assert await configs.get_config(config.config_id) == config
    assert (config.description, config.tags, config.revision, config.version) == (None, {}, 1, 1)


async def test_markdown_with_front_matter_is_a_bundle(configs: ConfigManager) -> None:
    text = "---\nbundle:\n  name: dev\n---\n\nBe kind.\n"
    assert (await configs.create_config("dev", text)).yaml_content == text


@pytest.mark.parametrize("text", ["a: [", "- a\n", "", "bundle: {}\n", "a: 1\na: 2\n", "x" * 5000, "\0"])
async def test_a_text_that_is_no_bundle_is_a_value_error_and_stores_nothing(configs: ConfigManager, text: str) -> None:
    with pytest.raises(ValueError):
        await configs.create_config("dev", text)
    assert await configs.list_configs() == ([], 0)


async def test_broken_yaml_says_so_first(configs: ConfigManager) -> None:
    with pytest.raises(ValueError, match=r"^Invalid YAML: ") as refusal:
        await configs.create_config("dev", "a: 1\nb: [}\n")
    assert isinstance(refusal.value, Invalid)
    assert refusal.value.items[0].line == 2


async def test_a_large_text_is_checked_in_a_thread(configs: ConfigManager, monkeypatch: pytest.MonkeyPatch) -> None:
    from amplifier_app_api.core import config_manager

    where: list[str] = []

    def check(text: str, limits: DocumentLimits) -> None:
        where.append(threading.current_thread().name)

    monkeypatch.setattr(config_manager, "check_storable", check)
    await configs.create_config("small", DEV)
    await configs.create_config("large", DEV + "# padding\n" * 1000)

    assert where[0] == "MainThread"
    assert where[1] != "MainThread"


async def test_the_limits_are_the_managers(db: Database) -> None:
    with pytest.raises(Invalid, match="too complex"):
        await ConfigManager(db, limits=DocumentLimits(max_bytes=20)).create_config("dev", DEV)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": " \t"}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"name": "\ud800"}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": None}, "/name"),
        ({"description": "a\0b"}, "/description"),
        ({"description": 3}, "/description"),
        ({"tags": {"a": 1}}, "/tags/a"),
        ({"tags": {"a/b~": "\0"}}, "/tags/a~1b~0"),
        ({"tags": ["a"]}, "/tags"),
        ({"tags": {f"t{number}": "" for number in range(65)}}, "/tags"),
        ({"yaml_content": None}, "/yaml_content"),
        ({"yaml_content": b"a: 1"}, "/yaml_content"),
    ],
)
async def test_a_field_that_cannot_be_stored_is_named(configs: ConfigManager, fields: Any, pointer: str) -> None:
    with pytest.raises(InvalidFields) as refusal:
        await configs.create_config(**{"name": "dev", "yaml_content": DEV, **fields})
    assert refusal.value.items[0].pointer == pointer
    assert isinstance(refusal.value, ValueError)
    assert refusal.value.status == 422


# --- update and patch ---


async def test_none_leaves_a_field_and_tags_replace_whole(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV, "about", {"a": "1", "b": "2"})

    same = await configs.update_config(config.config_id)
    assert same == config
    changed = await configs.update_config(config.config_id, name="new", tags={"c": "3"})
    assert changed is not None
    assert (changed.name, changed.description, changed.tags) == ("new", "about", {"c": "3"})
    assert (changed.revision, changed.version) == (1, 2)
    cleared = await configs.update_config(config.config_id, tags={})
    assert cleared is not None
    assert cleared.tags == {}


async def test_a_refused_update_changes_nothing(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    with pytest.raises(Invalid):
        await configs.update_config(config.config_id, name="new", yaml_content="- no\n")
    with pytest.raises(InvalidFields):
        await configs.update_config(config.config_id, name=" ", yaml_content=OTHER)
    assert await configs.get_config(config.config_id) == config


async def test_a_merge_patch_clears_with_null_and_merges_tags(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV, "about", {"a": "1", "b": "2"})

    patched = await configs.patch_config(
        config.config_id, {"description": None, "tags": {"a": None, "c": "3"}, "unknown": 1}
    )
    assert patched is not None
    assert (patched.name, patched.description, patched.tags) == ("dev", None, {"b": "2", "c": "3"})
    cleared = await configs.patch_config(config.config_id, {"tags": None, "yaml_content": OTHER})
    assert cleared is not None
    assert (cleared.tags, cleared.yaml_content, cleared.revision, cleared.version) == ({}, OTHER, 2, 3)
    assert await configs.patch_config(config.config_id, {}) == cleared


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"yaml_content": None},
        {"tags": {"x": 1}},
        {"name": ""},
        {"tags": {"": "x"}},
        {"model": "x", "name": 3},
    ],
)
async def test_a_patch_that_cannot_be_is_refused(configs: ConfigManager, changes: dict[str, Any]) -> None:
    config = await configs.create_config("dev", DEV)
    with pytest.raises(InvalidFields):
        await configs.patch_config(config.config_id, changes)
    assert await configs.get_config(config.config_id) == config


async def test_a_patch_cannot_pass_the_limit_of_tags_by_small_steps(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV, tags={f"t{number}": "" for number in range(64)})
    with pytest.raises(InvalidFields):
        await configs.patch_config(config.config_id, {"tags": {"one more": ""}})


# --- If-Match ---


async def test_every_change_can_be_guarded(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    await configs.update_config(config.config_id, name="moved on")
    config_id, stale = config.config_id, config.etag

    for attempt in (
        configs.update_config(config_id, name="x", if_match=stale),
        configs.patch_config(config_id, {"name": "x"}, if_match=stale),
        configs.delete_config(config_id, if_match=stale),
        configs.delete_config(config_id, if_match=stale, cascade=True),
        configs.add_tool_to_config(config_id, "tool-x", if_match=stale),
        configs.add_provider_to_config(config_id, "provider-x", if_match=stale),
        configs.merge_bundle_into_config(config_id, "foundation", if_match=stale),
        configs.revert_config(config_id, 1, if_match=stale),
    ):
        with pytest.raises(ConfigChanged) as refusal:
            await attempt
        assert refusal.value.headers == {"ETag": '"1.2"'}

    current = await configs.get_config(config_id)
    assert current is not None
    assert (current.name, current.yaml_content, current.version) == ("moved on", DEV, 2)
    assert await configs.update_config(config_id, name="y", if_match=current.etag) is not None
    assert await configs.delete_config(config_id, if_match="*") is True


async def test_of_two_with_the_same_if_match_one_wins(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    outcomes = await asyncio.gather(
        *(configs.add_tool_to_config(config.config_id, f"tool-{n}", if_match=config.etag) for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Config) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConfigChanged) for outcome in outcomes) == 4


# --- helpers ---


async def test_the_helpers_add_lines_and_keep_the_rest(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    await configs.merge_bundle_into_config(config.config_id, "foundation")
    await configs.add_provider_to_config(config.config_id, "provider-anthropic", config={"api_key": "${KEY}"})
    done = await configs.add_tool_to_config(config.config_id, "tool-x", "git+https://example.com/x@main", {"a": None})

    assert done is not None
    assert done.yaml_content.startswith(DEV)
    assert configs.parse_yaml(done.yaml_content) == {
        "bundle": {"name": "dev"},
        "includes": [{"bundle": "foundation"}],
        "providers": [{"module": "provider-anthropic", "config": {"api_key": "${KEY}"}}],
        "tools": [{"module": "tool-x", "source": "git+https://example.com/x@main", "config": {"a": None}}],
    }
    assert (done.revision, done.version) == (4, 4)


async def test_how_an_edit_was_made_is_told(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    edited = await configs.edit_config(config.config_id, tool_edit("tool-x"))
    assert edited is not None
    assert (edited[0].revision, edited[1].how) == (2, "inserted")
    assert edited[0].yaml_content == edited[1].text


async def test_what_is_there_already_is_refused_or_merged(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    await configs.add_tool_to_config(config.config_id, "tool-x", config={"a": 1, "b": 1})
    with pytest.raises(ModuleExists):
        await configs.add_tool_to_config(config.config_id, "tool-x")
    merged = await configs.add_tool_to_config(config.config_id, "tool-x", config={"b": 2}, replace=True)

    assert merged is not None
    assert configs.parse_yaml(merged.yaml_content)["tools"] == [{"module": "tool-x", "config": {"a": 1, "b": 2}}]


async def test_a_helper_cannot_store_what_create_would_refuse(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    with pytest.raises(Invalid) as refusal:
        await configs.add_tool_to_config(config.config_id, "tool-x", "./relative")
    assert refusal.value.code == "relative_reference"
    with pytest.raises(InvalidFields):
        await configs.add_tool_to_config(config.config_id, " ")
    with pytest.raises(InvalidFields):
        await configs.merge_bundle_into_config(config.config_id, "")
    assert await configs.get_config(config.config_id) == config


async def test_no_concurrent_edit_is_lost(db: Database) -> None:
    here, elsewhere = ConfigManager(db), ConfigManager(db)  # they do not share their locks
    config = await here.create_config("dev", DEV)
    await asyncio.gather(
        *(here.add_tool_to_config(config.config_id, f"tool-a{n}") for n in range(12)),
        *(elsewhere.add_tool_to_config(config.config_id, f"tool-b{n}") for n in range(12)),
        *(here.patch_config(config.config_id, {"tags": {f"t{n}": ""}}) for n in range(12)),
    )

    done = await here.get_config(config.config_id)
    assert done is not None
    tools = {tool["module"] for tool in here.parse_yaml(done.yaml_content)["tools"]}
    assert tools == {f"tool-{side}{n}" for side in "ab" for n in range(12)}
    assert set(done.tags) == {f"t{n}" for n in range(12)}
    assert (done.revision, done.version) == (25, 37)


async def test_an_edit_that_never_gets_its_turn_gives_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = ConfigManager(db)
    config = await configs.create_config("dev", DEV)
    loop = asyncio.get_running_loop()
    numbers = iter(range(1000))

    def overtaken(text: str, limits: DocumentLimits) -> Edit:
        # Larger than what is parsed at once, so this runs in a thread and another writer can come between.
        rival = configs.update_config(config.config_id, yaml_content=f"{DEV}# {next(numbers)}\n")
        asyncio.run_coroutine_threadsafe(rival, loop).result(10)
        return Edit(text + "# edited\n", "inserted")

    monkeypatch.setattr("amplifier_app_api.core.config_manager.PARSED_AT_ONCE", 0)
    monkeypatch.setattr("amplifier_app_api.core.config_manager.EDIT_TRIES", 3)
    with pytest.raises(ConfigContended):
        await configs.edit_config(config.config_id, overtaken)
    assert next(numbers) == 3


# --- revisions ---


async def test_a_revert_is_a_new_revision_with_the_old_text(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    await configs.update_config(config.config_id, yaml_content=OTHER)

    back = await configs.revert_config(config.config_id, 1)
    assert back is not None
    assert (back.yaml_content, back.revision, back.version) == (DEV, 3, 3)
    assert await configs.revert_config(config.config_id, 1) == back
    assert await configs.revert_config(config.config_id, 3) == back
    page = await configs.list_revisions(config.config_id, PageRequest())
    assert page is not None
    assert [(it.revision, it.yaml_content) for it in page.items] == [(3, DEV), (2, OTHER), (1, DEV)]


async def test_a_revision_that_never_was_is_refused(configs: ConfigManager) -> None:
    config = await configs.create_config("dev", DEV)
    with pytest.raises(RevisionNotFound, match="no revision 2"):
        await configs.revert_config(config.config_id, 2)
    assert await configs.get_revision(config.config_id, 2) is None


# --- delete ---


async def test_sessions_are_stopped_before_they_go_with_their_config(db: Database) -> None:
    stopped: list[tuple[list[str], bool]] = []

    async def stop(session_ids: list[str], tenant: str) -> None:
        assert tenant == "default"
        there = await configs.get_config(config.config_id) is not None
        stopped.append((sorted(session_ids), there))

    configs = ConfigManager(db, on_cascade=stop)
    config = await configs.create_config("dev", DEV)
    await db.write(add_session, config.config_id, "s1")
    await db.write(add_session, config.config_id, "s2")

    with pytest.raises(ConfigInUse, match=r"2 sessions use this config.*\?cascade=true"):
        await configs.delete_config(config.config_id)
    assert stopped == []
    assert await configs.delete_config(config.config_id, cascade=True) is True
    assert stopped == [(["s1", "s2"], True)]
    assert await configs.get_config(config.config_id) is None


async def test_a_session_opened_while_others_are_stopped_is_among_those_that_are_gone(db: Database) -> None:
    stopped: list[list[str]] = []
    gone: list[tuple[list[str], bool]] = []

    async def stop(session_ids: list[str], tenant: str) -> None:
        stopped.append(session_ids)
        await db.write(add_session, config.config_id, "late")

    async def forget(session_ids: list[str], tenant: str) -> None:
        gone.append((session_ids, await configs.get_config(config.config_id) is None))

    configs = ConfigManager(db, on_cascade=stop, on_gone=forget)
    config = await configs.create_config("dev", DEV)
    await db.write(add_session, config.config_id, "s1")

    assert await configs.delete_config(config.config_id, cascade=True) is True
    assert stopped == [["s1"]]
    assert gone == [(["late", "s1"], True)]


async def test_a_cascade_without_sessions_stops_nothing(db: Database) -> None:
    async def never(session_ids: list[str], tenant: str) -> None:
        raise AssertionError(session_ids)

    configs = ConfigManager(db, on_cascade=never, on_gone=never)
    config = await configs.create_config("dev", DEV)
    assert await configs.delete_config(config.config_id, cascade=True) is True


# --- absence and tenants ---


@pytest.mark.parametrize("config_id", ["nobody", "", "\0", "\ud800", "x" * 10_000])
async def test_what_is_not_there_is_none_or_false(configs: ConfigManager, config_id: str) -> None:
    assert await configs.get_config(config_id) is None
    assert await configs.update_config(config_id, name="x") is None
    assert await configs.patch_config(config_id, {"name": "x"}) is None
    assert await configs.delete_config(config_id) is False
    assert await configs.delete_config(config_id, cascade=True, if_match='"1.1"') is False
    assert await configs.add_tool_to_config(config_id, "tool-x") is None
    assert await configs.add_provider_to_config(config_id, "provider-x") is None
    assert await configs.merge_bundle_into_config(config_id, "foundation") is None
    assert await configs.edit_config(config_id, include_edit("foundation")) is None
    assert await configs.list_revisions(config_id, PageRequest()) is None
    assert await configs.get_revision(config_id, 1) is None
    assert await configs.revert_config(config_id, 1) is None
    assert ConfigNotFound(config_id).code == "config_not_found"


async def test_a_scoped_manager_sees_its_tenant_only_and_signs_its_changes(configs: ConfigManager) -> None:
    mine = await configs.create_config("mine", DEV)
    theirs = configs.scoped(Principal("other", "eve"))

    assert await theirs.get_config(mine.config_id) is None
    assert await theirs.add_tool_to_config(mine.config_id, "tool-x") is None
    assert await theirs.delete_config(mine.config_id, cascade=True) is False
    config = await theirs.create_config("theirs", DEV)
    assert [item.name for item in (await theirs.list_configs())[0]] == ["theirs"]
    assert [item.name for item in (await configs.list_configs())[0]] == ["mine"]
    revision = await theirs.get_revision(config.config_id, 1)
    assert revision is not None
    assert revision.created_by == "eve"


# --- lists ---


async def test_lists_are_filtered_and_paged(configs: ConfigManager) -> None:
    for number in range(5):
        await configs.create_config(f"c{number % 2}", DEV, tags={"n": str(number), "eq=": "a=b"})

    items, total = await configs.list_configs(2, 1)
    assert ([item.tags["n"] for item in items], total) == (["3", "2"], 5)
    items, total = await configs.list_configs(name="c1")
    assert ([item.tags["n"] for item in items], total) == (["3", "1"], 2)
    items, total = await configs.list_configs(tag="n=4")
    assert ([item.tags["n"] for item in items], total) == (["4"], 1)
    page = await configs.page_configs(PageRequest(3))
    items, total = await configs.list_configs(3, cursor=page.next_cursor)
    assert ([item.tags["n"] for item in items], total) == (["1", "0"], 5)


@pytest.mark.parametrize("tag", ["", "n", "=v", "a=\0"])
async def test_a_tag_filter_has_a_key_and_a_value(configs: ConfigManager, tag: str) -> None:
    with pytest.raises(InvalidFields):
        await configs.list_configs(tag=tag)


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (201, 0), (-1, 0), (50, -1), (50, 2**60)])
async def test_absurd_pages_are_refused(configs: ConfigManager, limit: int, offset: int) -> None:
    with pytest.raises(InvalidPage):
        await configs.list_configs(limit, offset)


async def test_a_name_no_config_can_have_is_refused_as_a_filter(configs: ConfigManager) -> None:
    with pytest.raises(InvalidFields):
        await configs.list_configs(name="\0")
