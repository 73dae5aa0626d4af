"""Times are made here: in UTC, with microseconds, never twice the same in one process."""

import threading
from datetime import UTC, datetime, timedelta

_lock = threading.Lock()
_last = datetime.min.replace(tzinfo=UTC)


def utc_now() -> datetime:
    """Now, and later than every moment this process was given before.

    `updated_at` must grow with every change, also when two fall into one microsecond or the clock steps back.
    """
    global _last
    with _lock:
        now = datetime.now(UTC)
        if now <= _last:
            now = _last + timedelta(microseconds=1)
        _last = now
        return now
