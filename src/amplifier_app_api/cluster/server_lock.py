"""One server at a time.

What a server finds at its start (turns that run, folders of sessions) it takes for left behind, so a second one
on the same data must not start. The locks end with the process, however it ends: two file locks, on the data
folder and beside a SQLite file; on PostgreSQL an advisory lock that lasts as long as its connection.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from amplifier_app_api.errors import Conflict
from amplifier_app_api.storage.address import shown
from amplifier_app_api.storage.database import Database

SERVER_LOCK = 0x616D_706C_6901


class AlreadyServed(Conflict):
    """Another server holds the data folder or the database."""

    code = "already_served"
    title = "Another server is running"


class LockUnavailable(Conflict):
    """The lock file cannot be made, so nobody knows whether another server runs."""

    code = "lock_unavailable"
    title = "The data cannot be locked"


@asynccontextmanager
async def server_lock(
    db: Database, data_dir: Path, *, on_lost: Callable[[], None] | None = None
) -> AsyncGenerator[None]:
    """Hold the data folder and the database, or refuse with `AlreadyServed`.

    `on_lost` is called at most once, in the event loop, when PostgreSQL ends the lock early: from then on
    another server may start.
    """
    async with AsyncExitStack() as held:
        held.enter_context(_file_lock(data_dir / "lock", f"the data folder {data_dir}"))
        if db.path is not None:
            # By its real name: two links to one file are one database.
            real = await asyncio.to_thread(db.path.resolve)
            held.enter_context(_file_lock(real.with_name(f"{real.name}.lock"), f"the database {db.path}"))
        else:
            from amplifier_app_api.storage.advisory import advisory_lock  # brings the PostgreSQL driver with it

            holder = await held.enter_async_context(advisory_lock(db.url, SERVER_LOCK, on_lost=on_lost))
            if holder is not None:
                raise AlreadyServed(
                    f"The database {shown(db.url)} is in use by another server ({holder}). "
                    "Stop that one, or give this one another database."
                )
        yield


@contextmanager
def _file_lock(path: Path, what: str) -> Generator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LockUnavailable(f"The lock file {path} cannot be opened: {error.strerror}.") from error
    try:
        _take(descriptor, path, what)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        # The file stays: removing it would let two servers lock two files of one name.
        os.close(descriptor)


def _take(descriptor: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise LockUnavailable(f"The file {path} cannot be locked: {error.strerror}.") from error
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        holder = f"process {pid}" if pid.isdigit() else "another process"
        raise AlreadyServed(
            f"{what[0].upper()}{what[1:]} is in use by another server ({holder}). "
            "Stop that one, or give this one another data folder and database."
        ) from None
