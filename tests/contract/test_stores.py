"""What the database and the config store promise, on every engine."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from amplifier_app_api.models.config import Config
from amplifier_app_api.models.page import InvalidPage, PageRequest, make_cursor
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.configs import (
    ConfigInUse,
    change_config,
    delete_config,
    get_config,
    get_revision,
    insert_config,
    list_configs,
    list_revisions,
    sessions_of_config,
    sha256_of,
)
from amplifier_app_api.storage.state import get_state, set_state
from amplifier_app_api.storage.tables import service_state, sessions

TEXT = "# kept\r\nbundle: {name: é}\n\n"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def db(address: str) -> AsyncIterator[Database]:
    async with Database(address) as db:
        yield db


async def add_config(db: Database, name: str = "dev", *, within: str = "default", **fields: Any) -> Config:
    values = {"yaml_content": TEXT, "description": None, "tags": {}, "by": "someone", **fields}
    return await db.write(insert_config, str(uuid.uuid4()), name=name, within=within, **values)


async def change(db: Database, config: Config, **update: Any) -> Config | None:
    return await db.write(
        change_config,
        config.config_id,
        lambda before: before.model_copy(update=update),
        by="someone else",
        within="default",
    )


def add_session(conn: Connection, config_id: str, session_id: str) -> None:
    now = datetime.now(UTC)
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
            allow_missing=0,
            message_count=0,
            last_position=0,
            last_seq=0,
            epoch=0,
            usage={},
            created_at=now,
            updated_at=now,
        )
    )


def allowed(config: Config) -> None:
    pass


# --- units of work ---


async def test_a_write_is_there_for_the_next_read(db: Database) -> None:
    await db.write(set_state, "greeting", "hello")

    assert await db.read(get_state, "greeting") == "hello"
    assert await db.read(get_state, "other") is None


async def test_a_second_state_replaces_the_first(db: Database) -> None:
    await db.write(set_state, "greeting", "hello")
    await db.write(set_state, "greeting", "good evening")

    assert await db.read(get_state, "greeting") == "good evening"


async def test_what_a_function_raises_rolls_back_and_reaches_the_caller(db: Database) -> None:
    def half(conn: Connection) -> None:
        set_state(conn, "half", "done")
        raise LookupError("the other half")

    with pytest.raises(LookupError, match="the other half"):
        await db.write(half)

    assert await db.read(get_state, "half") is None


async def test_a_duplicate_is_an_integrity_error_and_the_next_write_is_fine(db: Database) -> None:
    def twice(conn: Connection) -> None:
        conn.execute(insert(service_state).values(key="one", value="1"))
        conn.execute(insert(service_state).values(key="one", value="2"))

    with pytest.raises(IntegrityError):
        await db.write(twice)

    await db.write(set_state, "one", "3")
    assert await db.read(get_state, "one") == "3"


async def test_an_error_does_not_show_what_was_to_be_stored(db: Database) -> None:
    def twice(conn: Connection) -> None:
        for _ in range(2):
            conn.execute(insert(service_state).values(key="one", value="sk-ant-secret"))

    with pytest.raises(IntegrityError) as failure:
        await db.write(twice)
    assert "sk-ant-secret" not in str(failure.value)


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(DBAPIError):
        await db.read(set_state, "greeting", "hello")

    assert await db.read(get_state, "greeting") is None


async def test_one_read_sees_one_snapshot(db: Database) -> None:
    loop = asyncio.get_running_loop()

    async def change_it() -> None:
        await db.write(set_state, "n", "2")

    await db.write(set_state, "n", "1")
    first_read, changed = asyncio.Event(), threading.Event()

    def twice_on_sqlite(conn: Connection) -> tuple[str | None, str | None]:
        before = get_state(conn, "n")
        loop.call_soon_threadsafe(first_read.set)
        changed.wait(10)
        return before, get_state(conn, "n")

    def twice_on_postgres(conn: Connection) -> tuple[str | None, str | None]:
        from sqlalchemy.util import await_only

        before = get_state(conn, "n")
        await_only(change_it())
        return before, get_state(conn, "n")

    if db.dialect == "postgresql":
        seen = await db.read(twice_on_postgres)
    else:
        reading = asyncio.create_task(db.read(twice_on_sqlite))
        await first_read.wait()
        await change_it()
        changed.set()
        seen = await reading

    assert seen == ("1", "1")
    assert await db.read(get_state, "n") == "2"


async def test_a_cancelled_caller_leaves_whole_transactions_only(db: Database) -> None:
    def both(conn: Connection, number: int) -> None:
        set_state(conn, f"a{number}", "1")
        set_state(conn, f"b{number}", "1")

    writes = [asyncio.create_task(db.write(both, number)) for number in range(20)]
    for turn, write in enumerate(writes):
        if turn % 3 == 0:
            await asyncio.sleep(0)
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await db.write(set_state, "last", "1")

    def keys(conn: Connection) -> set[str]:
        return set(conn.execute(select(service_state.c.key)).scalars())

    found = await db.read(keys)
    assert {key[1:] for key in found if key[0] == "a"} == {key[1:] for key in found if key[0] == "b"}
    assert "last" in found


async def test_a_function_that_has_begun_commits_though_its_caller_is_gone(address: str) -> None:
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def work(conn: Connection) -> None:
        set_state(conn, "kept", "yes")
        loop.call_soon_threadsafe(begun.set)
        set_state(conn, "kept too", "yes")

    async with Database(address) as db:
        write = asyncio.create_task(db.write(work))
        await begun.wait()
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write

    async with Database(address) as db:  # closing waited for it
        assert await db.read(get_state, "kept") == "yes"
        assert await db.read(get_state, "kept too") == "yes"


async def test_concurrent_writers_do_not_lose_an_increment(db: Database) -> None:
    config = await add_config(db)

    def count_up(conn: Connection) -> None:
        change_config(
            conn,
            config.config_id,
            lambda before: before.model_copy(update={"description": str(int(before.description or 0) + 1)}),
            by="x",
            within="default",
        )

    await asyncio.gather(*(db.write(count_up) for _ in range(30)))

    counted = await db.read(get_config, config.config_id, within="default")
    assert counted is not None
    assert (counted.description, counted.version, counted.revision) == ("30", 31, 1)


async def test_the_database_opens_again_with_what_it_held(address: str) -> None:
    async with Database(address) as db:
        config = await add_config(db)
    async with Database(address) as db:
        assert await db.read(get_config, config.config_id, within="default") == config


async def test_two_that_open_a_new_database_at_once_both_succeed(address: str) -> None:
    first, second = Database(address), Database(address)
    await asyncio.gather(first.connect(), second.connect())
    try:
        await first.write(set_state, "a", "1")
        assert await second.read(get_state, "a") == "1"
        assert await second.ping()
    finally:
        await first.disconnect()
        await second.disconnect()


async def test_a_closed_database_says_so_and_may_be_closed_again(address: str) -> None:
    db = Database(address)
    with pytest.raises(RuntimeError, match="not connected"):
        await db.read(get_state, "a")
    await db.connect()
    with pytest.raises(RuntimeError, match="connected already"):
        await db.connect()
    await db.disconnect()
    await db.disconnect()
    with pytest.raises(RuntimeError, match="not connected"):
        await db.write(set_state, "a", "1")


# --- configs ---


async def test_a_config_comes_back_byte_for_byte(db: Database) -> None:
    config = await add_config(db, description="what it is", tags={"env": "dev"})

    found = await db.read(get_config, config.config_id, within="default")
    assert found == config
    assert found is not None
    assert (found.yaml_content, found.sha256) == (TEXT, sha256_of(TEXT))
    assert (found.revision, found.version, found.etag) == (1, 1, '"1.1"')


async def test_another_tenant_sees_and_changes_nothing(db: Database) -> None:
    config = await add_config(db)
    theirs = {"within": "other"}

    assert await db.read(get_config, config.config_id, **theirs) is None
    assert await db.read(get_revision, config.config_id, 1, **theirs) is None
    assert await db.read(list_revisions, config.config_id, PageRequest(), **theirs) is None
    assert (await db.read(list_configs, PageRequest(), **theirs)).total == 0
    assert await db.write(change_config, config.config_id, lambda it: it, by="x", **theirs) is None
    assert await db.write(delete_config, config.config_id, allow=allowed, cascade=True, **theirs) is None
    assert await db.read(get_config, config.config_id, within="default") == config


async def test_a_new_text_is_a_new_revision_and_the_old_one_stays(db: Database) -> None:
    config = await add_config(db)
    changed = await change(db, config, yaml_content="bundle: {name: new}\n")

    assert changed is not None
    assert (changed.revision, changed.version) == (2, 2)
    assert changed.sha256 == sha256_of("bundle: {name: new}\n")
    assert changed.updated_at > config.updated_at
    assert await db.read(get_config, config.config_id, within="default") == changed
    old = await db.read(get_revision, config.config_id, 1, within="default")
    assert old is not None
    assert (old.yaml_content, old.sha256, old.created_by) == (TEXT, config.sha256, "someone")
    new = await db.read(get_revision, config.config_id, 2, within="default")
    assert new is not None
    assert (new.created_by, new.created_at) == ("someone else", changed.updated_at)


async def test_an_equal_text_is_no_revision_and_nothing_new_is_no_change(db: Database) -> None:
    config = await add_config(db, tags={"a": "1"})

    renamed = await change(db, config, yaml_content=TEXT, name="other")
    assert renamed is not None
    assert (renamed.revision, renamed.version) == (1, 2)
    assert await change(db, config, yaml_content=TEXT, name="other", tags={"a": "1"}) == renamed
    revisions = await db.read(list_revisions, config.config_id, PageRequest(), within="default")
    assert revisions is not None
    assert revisions.total == 1


async def test_updated_at_grows_even_where_the_clock_is_behind_the_row(db: Database) -> None:
    config = await add_config(db)
    ahead = datetime(2999, 1, 1, tzinfo=UTC)

    def move(conn: Connection) -> None:
        from amplifier_app_api.storage.tables import configs

        conn.execute(configs.update().values(updated_at=ahead))

    await db.write(move)
    changed = await change(db, config, name="later")
    assert changed is not None
    assert changed.updated_at > ahead


async def test_a_refused_change_changes_nothing(db: Database) -> None:
    config = await add_config(db)

    def refuse(before: Config) -> Config:
        raise LookupError(before.name)

    with pytest.raises(LookupError, match="dev"):
        await db.write(change_config, config.config_id, refuse, by="x", within="default")
    with pytest.raises(LookupError):
        await db.write(delete_config, config.config_id, allow=refuse, cascade=True, within="default")
    assert await db.read(get_config, config.config_id, within="default") == config


async def test_what_is_not_there_is_none(db: Database) -> None:
    config = await add_config(db)

    assert await db.read(get_config, "nobody", within="default") is None
    assert await db.write(change_config, "nobody", lambda it: it, by="x", within="default") is None
    assert await db.write(delete_config, "nobody", allow=allowed, cascade=False, within="default") is None
    assert await db.read(list_revisions, "nobody", PageRequest(), within="default") is None
    for number in (0, 2, -1, 2**31, 2**70):
        assert await db.read(get_revision, config.config_id, number, within="default") is None


async def test_a_config_in_use_stays_and_the_count_is_told(db: Database) -> None:
    config = await add_config(db)
    for name in ("s1", "s2"):
        await db.write(add_session, config.config_id, name)

    with pytest.raises(ConfigInUse) as refusal:
        await db.write(delete_config, config.config_id, allow=allowed, cascade=False, within="default")
    assert refusal.value.facts == {"sessions": 2}
    assert await db.read(get_config, config.config_id, within="default") == config

    deleted = await db.write(delete_config, config.config_id, allow=allowed, cascade=True, within="default")
    assert deleted is not None
    assert sorted(deleted.session_ids) == ["s1", "s2"]
    assert await db.read(sessions_of_config, config.config_id, within="default") == []
    assert await db.read(get_revision, config.config_id, 1, within="default") is None


async def test_no_session_survives_its_config_whoever_is_first(db: Database) -> None:
    for number in range(10):
        config = await add_config(db)
        opened, deleted = await asyncio.gather(
            db.write(add_session, config.config_id, f"s{number}"),
            db.write(delete_config, config.config_id, allow=allowed, cascade=False, within="default"),
            return_exceptions=True,
        )
        there = await db.read(get_config, config.config_id, within="default")
        if there is None:
            assert isinstance(opened, IntegrityError)
        else:
            assert opened is None
            assert isinstance(deleted, ConfigInUse)


async def test_pages_by_offset_and_by_cursor_tell_the_same_story(db: Database) -> None:
    for number in range(7):
        await add_config(db, f"c{number}")
    await add_config(db, "theirs", within="other")
    newest_first = [f"c{number}" for number in reversed(range(7))]

    by_offset: list[str] = []
    for offset in range(0, 9, 3):
        page = await db.read(list_configs, PageRequest(3, offset), within="default")
        by_offset += [item.name for item in page.items]
        assert page.total == 7
    by_cursor: list[str] = []
    cursor = None
    while True:
        page = await db.read(list_configs, PageRequest(3, 0, cursor), within="default")
        by_cursor += [item.name for item in page.items]
        assert page.total == 7
        if (cursor := page.next_cursor) is None:
            break

    assert by_offset == newest_first
    assert by_cursor == newest_first


async def test_a_change_moves_a_config_to_the_top_of_the_list(db: Database) -> None:
    first = await add_config(db, "first")
    await add_config(db, "second")
    changed = await change(db, first, yaml_content="bundle: {name: x}\n")

    page = await db.read(list_configs, PageRequest(), within="default")
    assert [item.name for item in page.items] == ["first", "second"]
    assert changed is not None
    assert page.items[0].sha256 == changed.sha256


AWKWARD = ["plain", 'quote"', "back\\slash", "per%cent_", "apo'strophe", "ü", ",", ":", "new\nline", '{"a":"b"}', " "]


async def test_tags_are_found_exactly_whatever_is_in_them(db: Database) -> None:
    for key in AWKWARD:
        for value in AWKWARD:
            await add_config(db, f"{key}={value}", tags={key: value, "other": key + value})
    await add_config(db, "decoy", tags={"a": '"plain":"plain"', ":": ":", "x": "%"})

    for key in AWKWARD:
        for value in AWKWARD:
            page = await db.read(list_configs, PageRequest(), within="default", tag=(key, value))
            names = sorted(item.name for item in page.items)
            assert names == sorted([f"{key}={value}", *(["decoy"] if key == value == ":" else [])])
            assert page.total == len(names)


async def test_a_name_is_matched_whole_and_the_total_follows_the_filter(db: Database) -> None:
    for name in ("a", "ab", "a", "%"):
        await add_config(db, name, tags={"n": name})

    assert (await db.read(list_configs, PageRequest(1), within="default", name="a")).total == 2
    assert (await db.read(list_configs, PageRequest(), within="default", name="%")).total == 1
    both = await db.read(list_configs, PageRequest(), within="default", name="a", tag=("n", "ab"))
    assert (both.items, both.total) == ([], 0)


async def test_revisions_come_newest_first_in_pages(db: Database) -> None:
    config = await add_config(db)
    for number in range(2, 6):
        await change(db, config, yaml_content=f"bundle: {{name: v{number}}}\n")

    first = await db.read(list_revisions, config.config_id, PageRequest(2), within="default")
    assert first is not None
    assert ([it.revision for it in first.items], first.total) == ([5, 4], 5)
    rest = await db.read(list_revisions, config.config_id, PageRequest(5, 0, first.next_cursor), within="default")
    assert rest is not None
    assert ([it.revision for it in rest.items], rest.next_cursor) == ([3, 2, 1], None)
    skipped = await db.read(list_revisions, config.config_id, PageRequest(2, 4), within="default")
    assert skipped is not None
    assert [it.revision for it in skipped.items] == [1]


@pytest.mark.parametrize("key", ["", "yesterday", "2020-01-01", "0001-01-01T00:00:00+14:00", "\0", "9" * 99])
async def test_a_cursor_of_another_list_is_refused(db: Database, key: str) -> None:
    config = await add_config(db)
    cursor = make_cursor(key, "\0")

    with pytest.raises(InvalidPage):
        await db.read(list_configs, PageRequest(5, 0, cursor), within="default")
    with pytest.raises(InvalidPage):
        await db.read(list_revisions, config.config_id, PageRequest(5, 0, cursor), within="default")
