"""The predecessor's file is read and stays as it is."""

import sqlite3
from pathlib import Path

import pytest

from amplifier_app_api.core.legacy import LegacyDatabase, NotLegacy
from amplifier_app_api.storage import Database
from legacy_databases import Legacy


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder. The index of a log is none: SQLite makes it anew whenever somebody reads."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".db-shm"}


def ids(path: Path) -> list[str]:
    with LegacyDatabase.open(path) as source:
        return [row.text("session_id") for row in source.rows("sessions")]


def test_reading_changes_no_file(tmp_path: Path) -> None:
    path = Legacy(tmp_path / "amplifier.db").config().session().close()
    before = contents(tmp_path)

    assert ids(path) == ["s1"]
    assert contents(tmp_path) == before


def test_what_stands_only_in_a_log_beside_the_file_is_read_and_stays_there(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    legacy = Legacy(made / "amplifier.db").run("PRAGMA journal_mode = WAL").run("PRAGMA wal_autocheckpoint = 0")
    legacy.config().session().run("COMMIT")
    # As a program that was killed leaves it: the file, and the log that was not yet copied into it.
    found = tmp_path / "found"
    found.mkdir()
    for name in ("amplifier.db", "amplifier.db-wal"):
        (found / name).write_bytes((made / name).read_bytes())
    legacy.close()
    before = contents(found)
    assert b"list the files" not in before["amplifier.db"]

    assert ids(found / "amplifier.db") == ["s1"]
    assert contents(found) == before


def test_a_file_that_somebody_writes_meanwhile_is_read_as_it_was(tmp_path: Path) -> None:
    path = Legacy(tmp_path / "amplifier.db").run("PRAGMA journal_mode = WAL").config().session("s1").close()

    with LegacyDatabase.open(path) as source:
        first = [row.text("session_id") for row in source.rows("sessions")]
        other = sqlite3.connect(path)
        other.execute("DELETE FROM sessions")
        other.commit()
        other.close()
        second = [row.text("session_id") for row in source.rows("sessions")]

    assert first == second == ["s1"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotLegacy, match="there is no file"), LegacyDatabase.open(tmp_path / "gone.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but notes\n" * 100)

    with pytest.raises(NotLegacy, match="file is not a database"), LegacyDatabase.open(path):
        pass


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = Legacy(tmp_path / "other.db", "CREATE TABLE sessions (id INTEGER);").close()

    with pytest.raises(NotLegacy, match="it has no table of sessions"), LegacyDatabase.open(path):
        pass


async def test_a_database_of_this_service_is_refused(tmp_path: Path) -> None:
    async with Database(tmp_path / "app.db"):
        pass

    with pytest.raises(NotLegacy, match="of this service already"), LegacyDatabase.open(tmp_path / "app.db"):
        pass
