"""Locks that hold between threads and between processes, and end with whoever holds them.

A lock is a file. It may be removed by whoever holds it alone: the others notice that the file they locked is
no longer the one of that name, and take the new one.
"""

import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Generator
from pathlib import Path

from .limits import Patience, failed

_STEP = 0.5


class FileLock:
    """A lock that is held, until `release`. Shared holders exclude an exclusive one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def try_take(cls, path: Path, *, shared: bool = False) -> "FileLock | None":
        """The lock, or `None` while others hold it."""
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _is_still(path, descriptor):
                return cls(path, descriptor)
            os.close(descriptor)

    @classmethod
    def take(cls, path: Path, patience: Patience, *, shared: bool = False) -> "FileLock":
        """The lock, waited for as long as there is patience."""
        while True:
            lock = cls.try_take(path, shared=shared)
            if lock is not None:
                return lock
            descriptor = _wait(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience)
            if _is_still(path, descriptor):
                return cls(path, descriptor)
            os.close(descriptor)

    def touch(self) -> None:
        """Note that what the lock protects was used now."""
        os.utime(self._descriptor)

    def remove(self) -> None:
        """Release the lock and take its file away; only for the exclusive holder."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.release()

    def release(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def locked(path: Path, patience: Patience) -> Generator[None]:
    """Hold a lock alone; its file is gone afterwards."""
    lock = FileLock.take(path, patience)
    try:
        yield
    finally:
        lock.remove()


def _wait(path: Path, mode: int, patience: Patience) -> int:
    """The descriptor of the locked file.

    The system knows no lock with a time limit, so a thread waits; when nobody wants the lock any more it lets go of
    it at once. It ends when those before it end, and their fetches have a deadline.
    """
    got: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()
    given_up = threading.Event()
    turn = threading.Lock()

    def wait() -> None:
        try:
            descriptor = _open(path)
            fcntl.flock(descriptor, mode)
        except OSError as error:
            got.put(error)
            return
        with turn:
            if given_up.is_set():
                os.close(descriptor)
            else:
                got.put(descriptor)

    threading.Thread(target=wait, name="lock", daemon=True).start()
    try:
        return _answer(got, patience)
    except BaseException:
        with turn:
            given_up.set()
            with contextlib.suppress(queue.Empty):
                descriptor = got.get_nowait()
                if isinstance(descriptor, int):
                    os.close(descriptor)
        raise


def _answer(got: "queue.SimpleQueue[int | OSError]", patience: Patience) -> int:
    while True:
        try:
            answer = got.get(timeout=min(_STEP, patience.left()))
        except queue.Empty:
            continue
        if isinstance(answer, OSError):
            raise failed(f"The cache of sources cannot be locked: {answer.strerror}.")
        return answer


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_still(path: Path, descriptor: int) -> bool:
    mine = os.fstat(descriptor)
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
