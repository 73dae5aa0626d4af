"""What is particular to PostgreSQL: connections end, transactions fall victim, servers are away."""

import asyncio
import socket
import time

import asyncpg
import pytest
from sqlalchemy import Connection, text

from amplifier_app_api.storage import Database, DatabaseUnavailable
from amplifier_app_api.storage.state import get_state, set_state


async def end_connections(url: str) -> None:
    """What a restart of the server does to everybody else."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        async with asyncio.timeout(30):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ):
                pass
    finally:
        await connection.close()


async def test_connections_that_ended_while_idle_are_replaced_unseen(postgres_url: str) -> None:
    async with Database(postgres_url) as db:
        await db.write(set_state, "a", "1")
        await end_connections(postgres_url)

        assert await db.read(get_state, "a") == "1"
        await db.write(set_state, "a", "2")
        assert await db.read(get_state, "a") == "2"


async def test_a_connection_that_ends_in_a_transaction_is_unavailable_and_the_next_one_works(postgres_url: str) -> None:
    def own_end(conn: Connection) -> None:
        set_state(conn, "a", "1")
        conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with Database(postgres_url) as db:
        with pytest.raises(DatabaseUnavailable) as failure:
            await db.write(own_end)
        assert (failure.value.status, failure.value.code) == (503, "database_unavailable")
        assert await db.read(get_state, "a") is None


async def test_a_server_that_is_away_is_unavailable(postgres_server: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DatabaseUnavailable, match="Connect call failed") as failure:
            await Database(f"postgresql://someone:hunter2@127.0.0.1:{port}/x").connect()
        assert "hunter2" not in failure.value.detail


async def test_a_database_that_does_not_exist_is_unavailable(postgres_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=r'_not cannot be used: database ".*_not" does not exist'):
        await Database(f"{postgres_url}_not").connect()


async def test_the_victim_of_a_deadlock_is_run_again(postgres_url: str) -> None:
    each_holds_one = asyncio.Barrier(2)
    runs: list[str] = []

    def both(conn: Connection, mine: str, other: str) -> None:
        from sqlalchemy.util import await_only

        runs.append(mine)
        conn.execute(text("UPDATE service_state SET value = value || 'x' WHERE key = :key"), {"key": mine})
        if len(runs) <= 2:
            await_only(each_holds_one.wait())
        conn.execute(text("UPDATE service_state SET value = value || 'y' WHERE key = :key"), {"key": other})

    async with Database(postgres_url) as db:
        await db.write(set_state, "a", "")
        await db.write(set_state, "b", "")
        await asyncio.gather(db.write(both, "a", "b"), db.write(both, "b", "a"))

        assert {await db.read(get_state, "a"), await db.read(get_state, "b")} == {"xy", "yx"}
        assert len(runs) == 3


async def test_a_transaction_that_says_nothing_more_gives_its_rows_back(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is paused in the middle of one keeps a session from nobody for long."""
    monkeypatch.setattr("amplifier_app_api.storage.postgres.IDLE_TIMEOUT", 1)
    hold = text("SELECT pg_advisory_xact_lock(7)")

    def paused(conn: Connection) -> None:
        conn.execute(hold)
        time.sleep(2)  # as a process does that gets SIGSTOP
        conn.execute(hold)

    async with Database(postgres_url) as db:
        with pytest.raises(DatabaseUnavailable):
            await db.write(paused)

        assert await db.write(lambda conn: conn.execute(text("SELECT pg_try_advisory_xact_lock(7)")).scalar_one())
