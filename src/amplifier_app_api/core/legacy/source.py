"""The predecessor's SQLite file, read and never written.

Two shapes are known. The newer one has `configs`, and sessions that refer to them; in the older one a session names
its bundle, provider, model and further options itself. A file may hold the older `sessions` beside `configs`,
because the newer program left a table alone that was there. So each table is judged by the columns it has.
"""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amplifier_app_api.core.legacy.row import Row

TEXT_COLUMNS = ("yaml_content", "config_json", "config_data")
"""Where a config's text stands. JSON, which later versions stored, is YAML too."""

KNOWN = {
    "configs": {"config_id", "name", "description", "created_at", "updated_at", "tags", *TEXT_COLUMNS},
    "sessions": {
        *("session_id", "config_id", "status", "created_at", "updated_at", "message_count", "transcript"),
        *("bundle", "provider", "model", "config", "metadata", "tags"),
    },
    "configuration": {"key", "value", "scope", "updated_at"},
}
_KEYS = {"configs": "config_id", "sessions": "session_id", "configuration": "key"}


class NotLegacy(Exception):
    """The file cannot be read, or is not one of the predecessor's; the text says which."""


class LegacyDatabase:
    """An open file of the predecessor's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = {table: self._columns_of(table) for table in self._tables()}

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Generator["LegacyDatabase"]:
        """Read a file, also one that is written meanwhile or has its newest pages in a log beside it."""
        if not path.is_file():
            raise NotLegacy(f"there is no file {path}")
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            # A text that is not UTF-8 spoils its row, not the whole table.
            connection.text_factory = _text
            connection.execute("BEGIN")  # one state of the file from the first row to the last
            database = cls(connection)
            database._check()
            yield database
        except sqlite3.Error as error:
            raise NotLegacy(f"{path} cannot be read: {error}") from error
        finally:
            if connection is not None:
                connection.close()

    def _check(self) -> None:
        if "alembic_version" in self._columns:
            raise NotLegacy("it is a database of this service already, not of its predecessor")
        if "session_id" not in self._columns.get("sessions", ()):
            raise NotLegacy("it is not a database of the predecessor: it has no table of sessions")

    def rows(self, table: str) -> Iterator[Row]:
        """The rows of a table, in the order they were made; none where there is no such table."""
        columns = self._columns.get(table, [])
        if _KEYS[table] not in columns:
            return
        by_age = "created_at, " if "created_at" in columns else ""
        for values in self._connection.execute(f"SELECT * FROM {table} ORDER BY {by_age}{_KEYS[table]}"):
            yield Row(dict(zip(columns, values, strict=True)))

    def unknown_tables(self) -> Iterator[tuple[str, int]]:
        """Tables that nothing here has a place for, with the number of their rows; empty ones are left out."""
        for table in self._columns:
            if table not in KNOWN and (count := self._count(table, "TRUE")):
                yield table, count

    def unknown_columns(self) -> Iterator[tuple[str, str, int]]:
        """Columns of the known tables that nothing here has a place for, with the number of rows that fill them."""
        for table, columns in self._columns.items():
            for column in columns:
                filled = f"{_quoted(column)} IS NOT NULL AND {_quoted(column)} NOT IN ('', '{{}}', '[]', 'null', 0)"
                if column not in KNOWN.get(table, columns) and (count := self._count(table, filled)):
                    yield table, column, count

    def _tables(self) -> list[str]:
        found = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [name for (name,) in found if not name.startswith("sqlite_")]

    def _columns_of(self, table: str) -> list[str]:
        return [str(column[1]) for column in self._connection.execute(f"PRAGMA table_info({_quoted(table)})")]

    def _count(self, table: str, condition: str) -> int:
        found = self._connection.execute(f"SELECT count(*) FROM {_quoted(table)} WHERE {condition}")
        count: Any = found.fetchone()[0]
        return count


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
