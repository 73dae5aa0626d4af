"""Where the servers are that some tests talk to.

A test asks for a fixture (`postgres_url`) and never for an address. Where no server answers, it is skipped by
name on a developer's machine; with `AMPLIFIER_TEST_REQUIRE_SERVICES` set, as in `.ci/run`, it fails.
"""

import asyncio
import os
import secrets
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

# Read when this file is imported: a test itself sees no AMPLIFIER_ variable (`conftest.py`).
POSTGRES = os.environ.get("AMPLIFIER_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REQUIRED = os.environ.get("AMPLIFIER_TEST_REQUIRE_SERVICES", "") not in ("", "0")


def reach_postgres() -> str:
    """The address of the server's maintenance database; skips, or fails, where nobody answers there."""
    try:
        _finish(_execute("SELECT 1"))
        return POSTGRES
    except (OSError, asyncpg.PostgresError) as problem:
        sentence = f"PostgreSQL is not reachable at {_without_password(POSTGRES)} ({problem})"
    if REQUIRED:
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@contextmanager
def fresh_postgres_database() -> Iterator[str]:
    """The address of a new, empty database, dropped at the end with whatever is still connected to it."""
    name = f"amplifier_test_{secrets.token_hex(6)}"
    _finish(_execute(f'CREATE DATABASE "{name}"'))
    try:
        yield urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
    finally:
        _finish(_execute(f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(POSTGRES, timeout=10, command_timeout=60)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` in a loop of its own: a fixture may be asked for while a test's loop is running."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return address if parts.password is None else address.replace(f":{parts.password}@", ":…@", 1)
