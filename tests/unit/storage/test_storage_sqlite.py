"""What is particular to SQLite: the file, its settings, its one writer."""

import asyncio
import logging
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from amplifier_app_api.storage import Database, DatabaseUnavailable
from amplifier_app_api.storage.sqlite import warn_about_the_log
from amplifier_app_api.storage.state import get_state, set_state


def pragma(conn: Connection, name: str) -> Any:
    return conn.execute(text(f"PRAGMA {name}")).scalar_one()


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_file_and_its_folder_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "app.db"
    async with Database(path) as db:
        await db.write(set_state, "a", "1")

        assert mode(path.parent) == 0o700
        assert mode(path) == 0o600
        assert mode(path.with_name("app.db-wal")) == 0o600


async def test_a_name_full_of_url_characters_is_just_a_name(tmp_path: Path) -> None:
    path = tmp_path / "100% sure? #1 ü.db"
    async with Database(path) as db:
        await db.write(set_state, "a", "1")
        assert await db.read(get_state, "a") == "1"
    assert names_in(tmp_path) == [path.name]


async def test_the_writer_is_durable_and_the_readers_read_only(tmp_path: Path) -> None:
    async with Database(tmp_path / "app.db") as db:
        assert await db.write(pragma, "journal_mode") == "wal"
        assert await db.write(pragma, "synchronous") == 2
        assert await db.write(pragma, "journal_size_limit") == 64 * 1024 * 1024
        for run in (db.write, db.read):
            assert await run(pragma, "foreign_keys") == 1
            assert await run(pragma, "busy_timeout") == 5000
            assert await run(pragma, "temp_store") == 2
            assert await run(pragma, "mmap_size") == 0
        with pytest.raises(OperationalError, match="readonly"):
            await db.read(set_state, "a", "1")


async def test_every_table_of_ours_is_strict(tmp_path: Path) -> None:
    def loose(conn: Connection) -> list[str]:
        rows = conn.execute(text("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict"))
        return sorted(row.name for row in rows if not row.name.startswith("sqlite_"))

    async with Database(tmp_path / "app.db") as db:
        assert await db.read(loose) == ["alembic_version"]


async def test_all_writes_happen_in_one_thread(tmp_path: Path) -> None:
    def where(conn: Connection) -> str:
        return threading.current_thread().name

    async with Database(tmp_path / "app.db") as db:
        assert len(set(await asyncio.gather(*(db.write(where) for _ in range(8))))) == 1


async def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    writing, done = asyncio.Event(), threading.Event()

    def hold(conn: Connection) -> None:
        set_state(conn, "a", "2")
        loop.call_soon_threadsafe(writing.set)
        done.wait(10)

    async with Database(tmp_path / "app.db") as db:
        await db.write(set_state, "a", "1")
        write = asyncio.create_task(db.write(hold))
        await writing.wait()
        assert await db.read(get_state, "a") == "1"
        done.set()
        await write
        assert await db.read(get_state, "a") == "2"


async def test_closing_leaves_one_file_and_no_thread(tmp_path: Path) -> None:
    async with Database(tmp_path / "app.db") as db:
        await asyncio.gather(*(db.read(get_state, "a") for _ in range(20)))
        await db.write(set_state, "a", "1")

    assert names_in(tmp_path) == ["app.db"]
    assert {thread.name for thread in threading.enumerate() if "sqlite" in thread.name} == set()


async def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(b"nothing of SQLite's" * 100)

    with pytest.raises(DatabaseUnavailable, match="not a database"):
        await Database(path).connect()
    assert path.read_bytes() == b"nothing of SQLite's" * 100


async def test_a_folder_in_place_of_the_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be opened: Is a directory"):
        await Database(tmp_path).connect()


async def test_another_programs_lock_is_unavailable_for_now_and_not_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amplifier_app_api.storage.sqlite._WRITER_PRAGMAS", ("journal_mode = WAL", "busy_timeout = 1"))
    async with Database(tmp_path / "app.db") as db:
        other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await db.write(set_state, "a", "1")
        other.execute("ROLLBACK")
        other.close()

        await db.write(set_state, "a", "2")
        assert await db.read(get_state, "a") == "2"


async def test_a_wrong_statement_is_a_bug_and_looks_like_one(tmp_path: Path) -> None:
    def wrong(conn: Connection) -> None:
        conn.execute(text("SELECT * FROM absent"))

    async with Database(tmp_path / "app.db") as db:
        with pytest.raises(OperationalError, match="no such table"):
            await db.read(wrong)
        assert await db.ping()


@pytest.mark.parametrize(
    ("version", "warned"), [((3, 40, 1), True), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 52, 0), False)]
)
def test_a_sqlite_that_can_damage_its_log_is_warned_about(
    version: tuple[int, int, int], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_about_the_log(version)
    assert bool(caplog.records) is warned
