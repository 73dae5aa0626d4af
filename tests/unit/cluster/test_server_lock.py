"""One server on one set of data."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplifier_app_api.cluster.server_lock import AlreadyServed, LockUnavailable, server_lock
from amplifier_app_api.storage import Database

OTHER_SERVER = """
import asyncio, sys
from pathlib import Path
from amplifier_app_api.cluster.server_lock import server_lock
from amplifier_app_api.storage import Database

async def main():
    async with Database(sys.argv[1]) as db, server_lock(db, Path(sys.argv[2])):
        print("locked", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path / "app.db") as db:
        yield db


async def test_a_second_server_on_the_data_folder_hears_who_is_there(db: Database, tmp_path: Path) -> None:
    other_db = Database(tmp_path / "other.db")
    async with server_lock(db, tmp_path / "data"):
        with pytest.raises(AlreadyServed, match=rf"data folder .*/data is .*\(process {os.getpid()}\)\. Stop that one"):
            async with server_lock(other_db, tmp_path / "data"):
                pass


async def test_a_second_server_on_the_database_is_refused_though_its_folder_is_free(
    db: Database, tmp_path: Path
) -> None:
    async with server_lock(db, tmp_path / "one"):
        with pytest.raises(AlreadyServed, match=r"The database .*app\.db is in use"):
            async with server_lock(db, tmp_path / "two"):
                pass


async def test_a_link_to_the_database_is_the_same_database(db: Database, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
    async with server_lock(db, tmp_path / "one"):
        with pytest.raises(AlreadyServed):
            async with server_lock(Database(tmp_path / "link.db"), tmp_path / "two"):
                pass


async def test_a_refused_server_leaves_no_lock_behind(db: Database, tmp_path: Path) -> None:
    async with server_lock(db, tmp_path / "one"):
        with pytest.raises(AlreadyServed):
            async with server_lock(db, tmp_path / "two"):
                pass
        async with server_lock(Database(tmp_path / "other.db"), tmp_path / "two"):
            pass
    async with server_lock(db, tmp_path / "one"):
        pass


async def test_the_data_folder_is_made_for_the_owner_alone(db: Database, tmp_path: Path) -> None:
    async with server_lock(db, tmp_path / "a" / "data"):
        assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "a" / "data" / "lock").stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_cannot_be_made_is_named(db: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LockUnavailable, match="file/lock"):
        async with server_lock(db, tmp_path / "file"):
            pass


async def test_the_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    address, folder = str(tmp_path / "app.db"), tmp_path / "data"
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER_SERVER, address, str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"locked\n"
    async with Database(address) as db:
        with pytest.raises(AlreadyServed, match=f"process {other.pid}"):
            async with server_lock(db, folder):
                pass
        other.kill()
        await other.communicate()
        async with server_lock(db, folder):
            assert (folder / "lock").read_text() == f"{os.getpid()}\n"


async def test_a_postgresql_database_takes_several_servers_each_with_a_data_folder_of_its_own(
    postgres_url: str, tmp_path: Path
) -> None:
    async with Database(postgres_url) as db, server_lock(db, tmp_path / "one"):
        async with server_lock(db, tmp_path / "two"):
            pass
        with pytest.raises(AlreadyServed):
            async with server_lock(db, tmp_path / "one"):
                pass
