"""Where the data is: a path or a URL, checked before anything is opened."""

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SQLITE = {"sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"}
_POSTGRES = {"postgresql", "postgres", "postgresql+asyncpg"}
_POSTGRES_OPTIONS = {"host", "port", "ssl", "sslmode", "prepared_statement_cache_size"}


class InvalidDatabaseAddress(ValueError):
    """The text names no database that this service can use."""


def parse_address(address: str | Path) -> URL:
    """The URL of a database: `sqlite:///relative`, `sqlite:////absolute`, `postgresql://…`, or a file's path."""
    if isinstance(address, Path):
        return _sqlite(str(address))
    scheme = _SCHEME.match(address)
    if scheme is None:
        return _sqlite(address)
    if scheme[1] in _SQLITE:
        return _sqlite_url(address)
    if scheme[1] in _POSTGRES:
        return _postgres_url(address)
    raise InvalidDatabaseAddress(f"{scheme[1]}:// is no database of this service; use sqlite:///path or postgresql://…")


def _sqlite_url(address: str) -> URL:
    rest = address.partition("://")[2]
    if not rest.startswith("/"):
        raise InvalidDatabaseAddress("a SQLite URL has three slashes before a relative path and four before / itself")
    return _sqlite(rest[1:])


def _sqlite(path: str) -> URL:
    if not path.strip() or path == ":memory:" or path.startswith("file:") or "\0" in path:
        raise InvalidDatabaseAddress(
            "the database must be a file: an in-memory database would lose everything at the end of the process"
        )
    # Absolute from here on: a later change of the working folder must not move the database.
    return URL.create("sqlite", database=str(Path(path).absolute()))


def _postgres_url(address: str) -> URL:
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # The parser's own sentence would repeat the password.
        raise InvalidDatabaseAddress(
            "the PostgreSQL URL cannot be read; its form is postgresql://user@host/name"
        ) from None
    unknown = sorted(set(url.query) - _POSTGRES_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_POSTGRES_OPTIONS))
        raise InvalidDatabaseAddress(
            f"the PostgreSQL URL has an option that is unknown here ({unknown[0]}); known: {known}"
        )
    query = dict(url.query)
    if "sslmode" in query:  # libpq's name for what the driver calls `ssl`
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def shown(url: URL) -> str:
    """An address as people write it, its password hidden."""
    return url.set(drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=True)
