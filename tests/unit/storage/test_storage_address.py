"""Where a database is, read from a path or a URL."""

from pathlib import Path

import pytest

from amplifier_app_api.storage import Database
from amplifier_app_api.storage.address import InvalidDatabaseAddress, parse_address


@pytest.mark.parametrize("address", ["a/b.db", "sqlite:///a/b.db", "sqlite+aiosqlite:///a/b.db", Path("a/b.db")])
def test_a_relative_path_is_made_absolute_at_once(
    address: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    db = Database(address)
    monkeypatch.chdir("/")

    assert (db.dialect, db.path) == ("sqlite", tmp_path / "a" / "b.db")


@pytest.mark.parametrize("address", ["/a/b.db", "sqlite:////a/b.db", "sqlite+aiosqlite:////a/b.db"])
def test_four_slashes_begin_an_absolute_path(address: str) -> None:
    assert Database(address).path == Path("/a/b.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_a_postgresql_url_never_shows_its_password(scheme: str) -> None:
    db = Database(f"{scheme}://user:hunter2@host:5433/name")

    assert (db.dialect, db.path) == ("postgresql", None)
    assert (db.url.host, db.url.port, db.url.database, db.url.password) == ("host", 5433, "name", "hunter2")
    assert "hunter2" not in f"{db!r} {db.url} {db.url!r}"


def test_the_usual_name_of_the_tls_option_is_understood() -> None:
    assert parse_address("postgresql://h/d?sslmode=require").query == {"ssl": "require"}


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (":memory:", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///", "must be a file"),
        ("sqlite://", "three slashes"),
        ("sqlite://host/a.db", "three slashes"),
        ("", "must be a file"),
        (" ", "must be a file"),
        ("file:a.db?mode=memory", "must be a file"),
        ("a\0b", "must be a file"),
        ("mysql://host/db", "mysql:// is no database of this service"),
        ("postgresql+psycopg://host/db", "is no database of this service"),
        ("postgresql://host:port/db", "cannot be read"),
        ("postgresql://host/db?pool=3", "unknown here"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(address: str, problem: str) -> None:
    with pytest.raises(InvalidDatabaseAddress, match=problem) as refusal:
        Database(address)
    assert isinstance(refusal.value, ValueError)


def test_a_refused_url_does_not_repeat_its_password() -> None:
    with pytest.raises(InvalidDatabaseAddress) as refusal:
        Database("postgresql://user:hunter2@host:port/db")
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__suppress_context__
