"""Where benchmarks store: SQLite's file is made by whoever opens it, a database of PostgreSQL here."""

import os
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

POSTGRES = os.environ.get("AMPLIFIER_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")


@asynccontextmanager
async def fresh_postgres() -> AsyncGenerator[str | None]:
    """The address of a new, empty database, dropped at the end. None: no server answers, which is said."""
    try:
        maintenance = await asyncpg.connect(POSTGRES, timeout=10)
    except (OSError, asyncpg.PostgresError) as problem:
        print(f"PostgreSQL is not reachable, so it is left out: {problem}", file=sys.stderr)
        yield None
        return
    name = f"amplifier_bench_{secrets.token_hex(6)}"
    try:
        await maintenance.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlsplit(POSTGRES)._replace(path=f"/{name}").geturl()
        finally:
            await maintenance.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await maintenance.close()
