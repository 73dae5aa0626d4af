"""The schema: what migrations make is what `tables.py` says, on both engines."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from amplifier_app_api.storage import Database
from amplifier_app_api.storage.migrate import FOLDER, HEAD, SchemaTooNew, migrate, schema_version
from amplifier_app_api.storage.ownership import open_turns_of
from amplifier_app_api.storage.state import get_state, set_state
from amplifier_app_api.storage.tables import metadata


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "app.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
async def db(address: str) -> AsyncIterator[Database]:
    async with Database(address) as db:
        yield db


def test_the_newest_migration_is_the_one_this_program_names() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_the_migrations_make_exactly_the_described_tables(db: Database) -> None:
    def differences(conn: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata)

    assert await db.read(differences) == []
    assert await db.read(schema_version) == HEAD


async def test_indexes_conditions_and_foreign_keys_are_those_described(db: Database, tmp_path: Path) -> None:
    def shape(conn: Connection) -> dict[str, Any]:
        found = inspect(conn)
        return {
            table.name: (
                sorted(
                    (index["name"] or "", index["column_names"], index["unique"]) for index in _own(found, table.name)
                ),
                sorted(
                    (key["name"] or "", key["options"].get("ondelete")) for key in found.get_foreign_keys(table.name)
                ),
                found.get_pk_constraint(table.name)["name"],
            )
            for table in metadata.sorted_tables
        }

    def _own(found: Any, table: str) -> list[Any]:
        unique = {constraint["name"] for constraint in found.get_unique_constraints(table)}
        return [index for index in found.get_indexes(table) if index["name"] not in unique]

    engine = create_engine(f"sqlite:///{tmp_path / 'described.db'}")
    with engine.begin() as conn:
        metadata.create_all(conn)
        described = shape(conn)
    engine.dispose()
    assert await db.read(shape) == described


async def test_one_session_has_one_open_turn_in_the_database_too(db: Database) -> None:
    def condition(conn: Connection) -> str:
        indexes = {index["name"]: index for index in inspect(conn).get_indexes("turns")}
        found = indexes["uq_turns_one_open"]
        return str(found["dialect_options"][f"{conn.dialect.name}_where"])

    where = await db.read(condition)
    assert "running" in where
    assert "waiting" in where


async def test_a_newer_schema_is_refused_and_left_alone(address: str) -> None:
    def from_the_future(conn: Connection) -> None:
        set_state(conn, "a", "1")
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    async with Database(address) as db:
        await db.write(from_the_future)

    newer = Database(address)
    with pytest.raises(SchemaTooNew, match=f"schema 9999, this program knows up to {HEAD}"):
        await newer.connect()
    await newer.disconnect()


async def test_an_up_to_date_schema_is_not_touched_and_alembic_not_needed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(address) as db:
        await db.write(set_state, "a", "1")

    def never(connection: Connection, current: str | None) -> None:
        raise AssertionError(current)

    monkeypatch.setattr("amplifier_app_api.storage.migrate._upgrade", never)
    async with Database(address) as db:
        assert await db.read(get_state, "a") == "1"


async def test_a_migration_that_fails_leaves_nothing_behind(address: str) -> None:
    db = Database(address)
    async with db:

        def drop_all_but_one(conn: Connection) -> None:
            conn.execute(text("DROP TABLE alembic_version"))
            for table in reversed(metadata.sorted_tables):
                if table.name != "service_state":
                    table.drop(conn)

        await db.write(drop_all_but_one)
        with pytest.raises(Exception, match="already exists"):
            await db.write(migrate)  # the last table is there already

        def tables(conn: Connection) -> list[str]:
            return inspect(conn).get_table_names()

        assert await db.read(tables) == ["service_state"]


@pytest.mark.parametrize("open_status", ["running", "waiting"])
async def test_rows_of_the_schema_before_are_carried_over(address: str, open_status: str) -> None:
    """Turns get their numbers and messages; a call that was being made when the server stopped is not made again."""
    db = Database(address)
    async with db:

        def as_before(conn: Connection) -> None:
            conn.execute(text("DROP TABLE alembic_version"))
            for table in reversed(metadata.sorted_tables):
                table.drop(conn)
            config = Config(attributes={"connection": conn})
            config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
            command.upgrade(config, "0002")
            for statement in _ROWS_OF_0002:
                conn.exec_driver_sql(statement.replace("OPEN", open_status))

        await db.write(as_before)

    async with Database(address) as db:

        def carried(conn: Connection) -> list[Any]:
            return [
                conn.execute(text("SELECT turn_id, number, message_id FROM turns ORDER BY number")).all(),
                conn.execute(text("SELECT turn_count, depth, owner, pruned_seq FROM sessions")).all(),
                conn.execute(text("SELECT turn_id, call_id, tool, status, repeatable, runs FROM tool_calls")).all(),
            ]

        assert await db.read(carried) == [
            [("t-b", 1, "m-1"), ("t-a", 2, "m-3"), ("t-c", 3, "")],
            [(3, 0, None, 0)],
            [("t-a", "call-1", "count", "started", None, 1)],
        ]
        (found,) = await db.read(open_turns_of, "me", alive=[])
        assert (found.turn_id, found.owner, found.attempt, found.cancel) == ("t-a", None, 1, None)


_AT = "2026-11-01T00:00:0{}.000000Z"
_USAGE = '{"input_tokens":1}'


def _turn(turn_id: str, status: str, second: int) -> str:
    return (
        "INSERT INTO turns (turn_id, tenant_id, session_id, status, usage, iterations, tool_calls, attempt, epoch, "
        f"created_at) VALUES ('{turn_id}', 'default', 's', '{status}', '{_USAGE}', 1, 0, 1, 1, '{_AT.format(second)}')"
    )


def _message(message_id: str, turn_id: str, position: int, role: str) -> str:
    return (
        "INSERT INTO messages (message_id, tenant_id, session_id, turn_id, position, role, content, metadata, "
        f"interrupted, created_at) VALUES ('{message_id}', 'default', 's', '{turn_id}', {position}, '{role}', "
        f"'\"x\"', '{{}}', 0, '{_AT.format(5)}')"
    )


def _event(seq: int, turn_id: str, kind: str, data: str) -> str:
    return (
        "INSERT INTO events (session_id, seq, tenant_id, turn_id, type, at, data) VALUES "
        f"('s', {seq}, 'default', '{turn_id}', '{kind}', '{_AT.format(6)}', '{data}')"
    )


_ROWS_OF_0002 = [
    "INSERT INTO configs (config_id, tenant_id, name, tags, revision, version, last_revision, created_at, updated_at) "
    f"VALUES ('c', 'default', 'c', '{{}}', 1, 1, 1, '{_AT.format(0)}', '{_AT.format(0)}')",
    "INSERT INTO sessions (session_id, tenant_id, config_id, revision, status, activity, tags, degraded, "
    "allow_missing, message_count, last_position, last_seq, epoch, usage, created_at, updated_at) VALUES "
    "('s', 'default', 'c', 1, 'active', 'running', '{}', '[]', 0, 2, 3, 3, 1, "
    f"'{_USAGE}', '{_AT.format(0)}', '{_AT.format(1)}')",
    _turn("t-b", "completed", 1),
    _turn("t-a", "OPEN", 2),
    _turn("t-c", "failed", 3),
    _message("m-1", "t-b", 1, "user"),
    _message("m-2", "t-b", 2, "assistant"),
    _message("m-3", "t-a", 3, "user"),
    _event(1, "t-b", "tool.started", '{"call_id":"call-0","tool":"count"}'),
    _event(2, "t-a", "tool.started", '{"call_id":"call-1","tool":"count"}'),
    _event(3, "t-a", "tool.started", '{"call_id":"call-1","tool":"count"}'),
]
