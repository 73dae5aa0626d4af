"""The cache: complete or not there, bounded, and never without what is in use."""

import json
import time
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources.cache import CacheName, Kept, SourceCache
from amplifier_app_api.bundles.sources.holds import Hold
from amplifier_app_api.bundles.sources.limits import Patience

BLOCK = 4096


def patience() -> Patience:
    return Patience(time.monotonic() + 30)


def put(cache: SourceCache, key: str, size: int = 1) -> Kept:
    with cache.fetching(key, patience()), cache.scratch(patience()) as scratch:
        tree = scratch / "tree"
        tree.mkdir()
        (tree / "file").write_bytes(b"x" * size)
        return cache.publish(key, "one", tree, patience())


def uses(cache: SourceCache, key: str) -> bool:
    kept = cache.use(key, "one", patience())
    if kept is not None:
        kept.lock.release()
    return kept is not None


def test_what_is_published_is_used_by_every_cache_of_the_folder(tmp_path: Path) -> None:
    kept = put(SourceCache(tmp_path, BLOCK), "a")
    kept.lock.release()

    again = SourceCache(tmp_path, BLOCK).use("a", "one", patience())

    assert again is not None
    again.lock.release()
    assert (again.tree, (again.tree / "file").read_bytes()) == (kept.tree, b"x")


def test_what_was_never_published_is_not_there(tmp_path: Path) -> None:
    assert not uses(SourceCache(tmp_path, BLOCK), "a")


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, 2 * BLOCK)
    put(cache, "a").lock.release()
    put(cache, "b").lock.release()
    assert uses(cache, "a")

    put(cache, "c").lock.release()

    assert [uses(cache, key) for key in "abc"] == [True, False, True]
    assert cache.size() == 2 * BLOCK


def test_what_is_in_use_stays_whoever_uses_it(tmp_path: Path) -> None:
    mine, theirs = SourceCache(tmp_path, 2 * BLOCK), SourceCache(tmp_path, 2 * BLOCK)
    used = put(theirs, "a")
    put(mine, "b").lock.release()

    put(mine, "c").lock.release()

    assert [uses(mine, key) for key in "abc"] == [True, False, True]
    used.lock.release()


def test_without_room_the_new_one_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, 2 * BLOCK)
    used = put(cache, "a", 2 * BLOCK)

    with pytest.raises(Unresolved, match="AMPLIFIER_SOURCE_CACHE_BYTES"):
        put(cache, "b")

    assert [uses(cache, key) for key in "ab"] == [True, False]
    assert list((tmp_path / "tmp").iterdir()) == []
    used.lock.release()


def test_what_dead_processes_left_is_removed_and_what_is_under_way_is_not(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, BLOCK)
    with cache.scratch(patience()) as scratch:
        dead = tmp_path / "tmp" / "dead"
        (dead / "tree").mkdir(parents=True)
        (dead / "tree" / "file").write_text("half")
        (dead / "tree").chmod(0o555)
        (tmp_path / "tmp" / "dead.lock").touch()

        SourceCache(tmp_path, BLOCK).sweep()

        assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == [scratch.name, f"{scratch.name}.lock"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("damage", ["file lost", "file emptied", "no marker", "half a marker", "another format"])
def test_an_entry_that_lost_something_is_not_used_and_is_replaced(tmp_path: Path, damage: str) -> None:
    kept = put(SourceCache(tmp_path, 8 * BLOCK), "a", 3 * BLOCK)
    kept.lock.release()
    file, marker = kept.tree / "file", kept.tree.parent / "entry.json"
    file.chmod(0o600)
    kept.tree.chmod(0o700)
    match damage:
        case "file lost":
            file.unlink()
        case "file emptied":
            file.write_bytes(b"")
        case "no marker":
            marker.unlink()
        case "half a marker":
            marker.write_text('{"format"')
        case _:
            marker.write_text(json.dumps({"format": 0, "files": 1, "bytes": 3 * BLOCK}))
    cache = SourceCache(tmp_path, 8 * BLOCK)

    assert not uses(cache, "a")
    put(cache, "a", 3 * BLOCK).lock.release()
    assert uses(SourceCache(tmp_path, 8 * BLOCK), "a")


def test_what_python_compiles_beside_a_source_does_not_count_as_damage(tmp_path: Path) -> None:
    kept = put(SourceCache(tmp_path, BLOCK), "a")
    kept.lock.release()
    kept.tree.chmod(0o700)
    (kept.tree / "__pycache__").mkdir()
    (kept.tree / "__pycache__" / "x.pyc").write_bytes(b"x")

    assert uses(SourceCache(tmp_path, BLOCK), "a")


def test_the_name_of_an_address_is_kept(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, BLOCK)
    assert cache.name("a") is None
    with cache.scratch(patience()) as scratch:
        cache.set_name("a", CacheName("0" * 64, '"one"', 5), scratch)

    assert SourceCache(tmp_path, BLOCK).name("a") == CacheName("0" * 64, '"one"', 5)


def test_a_hold_keeps_until_it_is_closed(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, BLOCK)
    with Hold() as hold:
        kept = put(cache, "a")
        hold.add("a", kept.lock)
        again = cache.use("a", "one", patience())
        assert again is not None
        hold.add("a", again.lock)
        assert not cache.discard("a")

    assert cache.discard("a")
    assert not uses(cache, "a")


def test_what_arrives_at_a_closed_hold_is_let_go(tmp_path: Path) -> None:
    cache = SourceCache(tmp_path, BLOCK)
    hold = Hold()
    hold.close()
    hold.close()

    hold.add("a", put(cache, "a").lock)

    assert cache.discard("a")
