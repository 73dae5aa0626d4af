"""Locks between threads, and files of locks that come and go."""

import threading
import time
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources.limits import Patience
from amplifier_app_api.bundles.sources.locks import FileLock, locked


def patience(seconds: float = 30) -> Patience:
    return Patience(time.monotonic() + seconds)


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    lock = FileLock.take(tmp_path / "lock", patience())

    assert FileLock.try_take(tmp_path / "lock") is None
    lock.release()
    again = FileLock.try_take(tmp_path / "lock")
    assert again is not None
    again.release()


def test_many_share_a_lock_and_keep_others_out(tmp_path: Path) -> None:
    shared = [FileLock.take(tmp_path / "lock", patience(), shared=True) for _ in range(3)]

    assert FileLock.try_take(tmp_path / "lock") is None
    for lock in shared:
        lock.release()
    alone = FileLock.try_take(tmp_path / "lock")
    assert alone is not None
    assert FileLock.try_take(tmp_path / "lock", shared=True) is None
    alone.remove()


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    lock = FileLock.take(tmp_path / "lock", patience())

    with pytest.raises(Unresolved, match="longer than it may"):
        FileLock.take(tmp_path / "lock", patience(0.05))

    lock.release()
    # Whoever gave up holds nothing: not even the thread that still waited.
    FileLock.take(tmp_path / "lock", patience()).release()


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    first = FileLock.take(tmp_path / "lock", patience())
    got: list[FileLock] = []
    waiting = threading.Thread(target=lambda: got.append(FileLock.take(tmp_path / "lock", patience())))
    waiting.start()

    first.remove()
    waiting.join(30)

    assert FileLock.try_take(tmp_path / "lock") is None
    got[0].remove()
    assert list(tmp_path.iterdir()) == []


def test_threads_take_turns(tmp_path: Path) -> None:
    inside, most = 0, 0
    start = threading.Barrier(8)

    def work() -> None:
        nonlocal inside, most
        start.wait(30)
        for _ in range(20):
            with locked(tmp_path / "lock", patience()):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert (most, inside) == (1, 0)
    assert list(tmp_path.iterdir()) == []
