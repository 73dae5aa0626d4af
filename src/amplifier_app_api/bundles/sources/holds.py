"""What keeps sources on disk while something runs from them."""

import threading
from types import TracebackType
from typing import Self

from .locks import FileLock


class Hold:
    """Sources that must stay. Close it when nothing uses them any more; what arrives later is let go at once."""

    def __init__(self) -> None:
        self._locks: dict[str, FileLock] = {}
        self._closed = False
        self._changing = threading.Lock()

    def add(self, key: str, lock: FileLock) -> None:
        """Keep an entry; once is enough."""
        with self._changing:
            if self._closed or key in self._locks:
                lock.release()
            else:
                self._locks[key] = lock

    def close(self) -> None:
        """Let everything go. It may be closed twice."""
        with self._changing:
            self._closed = True
            for lock in self._locks.values():
                lock.release()
            self._locks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
