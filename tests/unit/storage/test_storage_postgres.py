"""What is particular to PostgreSQL: connections end, transactions fall victim, servers are away."""

import asyncio
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

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


class Relay:
    """A way to the server of `url` that passes everything on, and the end of what the server sends only when told."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._ways: set[asyncio.Task[None]] = set()
        self._pass_ends = asyncio.Event()
        self.an_end_is_held = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> "Relay":
        self._relay = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._relay.sockets[0].getsockname()[1]
        server = self._server
        netloc = server.netloc.replace(f"{server.hostname}:{server.port}", f"127.0.0.1:{port}")
        self.url = server._replace(netloc=netloc).geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pass_ends()
        self._relay.close()
        await asyncio.gather(*self._ways)

    def pass_ends(self) -> None:
        self._pass_ends.set()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        way = asyncio.current_task()
        assert way is not None
        self._ways.add(way)
        from_server, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)

        async def back() -> None:
            while data := await from_server.read(65536):
                to_client.write(data)
            await to_client.drain()
            self.an_end_is_held.set()
            await self._pass_ends.wait()
            to_client.close()

        answers = asyncio.create_task(back())
        with suppress(ConnectionError):
            while data := await from_client.read(65536):
                to_server.write(data)
        to_server.close()
        await answers
        for writer in (to_server, to_client):
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_a_connection_whose_end_is_announced_and_not_there_yet_is_replaced_unseen(postgres_url: str) -> None:
    async with Relay(postgres_url) as relay, Database(relay.url) as db:
        await db.write(set_state, "a", "1")
        await end_connections(postgres_url)
        await relay.an_end_is_held.wait()

        assert await db.read(get_state, "a") == "1"
        await db.write(set_state, "a", "2")
        assert await db.read(get_state, "a") == "2"
        relay.pass_ends()


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


async def test_a_transaction_whose_connection_ends_is_run_again_on_another_one(postgres_url: str) -> None:
    seen: list[str | None] = []

    def ended_once(conn: Connection) -> None:
        seen.append(get_state(conn, "a"))
        set_state(conn, "a", "1")
        if len(seen) == 1:
            conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with Database(postgres_url) as db:
        await db.write(ended_once)

        assert await db.read(get_state, "a") == "1"
        assert seen == [None, None]


async def test_a_transaction_whose_connection_ends_while_it_commits_is_not_run_again(postgres_url: str) -> None:
    """Nobody here knows whether it holds."""
    runs: list[int] = []

    def arrange(conn: Connection) -> None:
        conn.exec_driver_sql(
            "CREATE FUNCTION end_me() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        conn.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER end_at_commit AFTER INSERT ON service_state "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_me()"
        )

    def count(conn: Connection) -> None:
        runs.append(1)
        set_state(conn, "a", "1")

    async with Database(postgres_url) as db:
        await db.write(arrange)
        with pytest.raises(DatabaseUnavailable):
            await db.write(count)

        assert await db.read(get_state, "a") is None
        assert runs == [1]


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
