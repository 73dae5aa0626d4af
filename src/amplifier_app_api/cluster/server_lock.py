"""One server for a data folder, and one for a SQLite file.

What a server finds in its data folder at its start it takes for left behind, and on SQLite every turn that runs as
well, so a second one on the same data must not start. The locks end with the process, however it ends. A PostgreSQL
database takes any number of servers: they know of each other by their beats.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from amplifier_app_api.errors import Conflict
from amplifier_app_api.storage.database import Database


class AlreadyServed(Conflict):
    """Another server holds the data folder or the database."""

    code = "already_served"
    title = "Another server is running"


class LockUnavailable(Conflict):
    """The lock file cannot be made, so nobody knows whether another server runs."""

    code = "lock_unavailable"
    title = "The data cannot be locked"


@asynccontextmanager
async def server_lock(db: Database, data_dir: Path) -> AsyncGenerator[None]:
    """Hold the data folder and the database file, or refuse with `AlreadyServed`."""
    with ExitStack() as held:
        held.enter_context(_file_lock(data_dir / "lock", f"the data folder {data_dir}"))
        if db.path is not None:
            # By its real name: two links to one file are one database.
            real = await asyncio.to_thread(db.path.resolve)
            held.enter_context(_file_lock(real.with_name(f"{real.name}.lock"), f"the database {db.path}"))
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
