import threading
from pathlib import Path

import pytest

from amplifier_app_api.bundles import fetched
from amplifier_app_api.bundles.fetched import Fetched, FetchOnce, Unresolved


class Server:
    """Gives every source a folder, moves every branch with each fetch, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self._lock = threading.Lock()

    def fetch(self, uri: str, pin: str | None) -> Fetched:
        with self._lock:
            self.asked.append((uri, pin))
            commit = pin.partition("@")[2].partition("#")[0] if pin else f"{len(self.asked):040}"
        if "gone" in uri:
            raise Unresolved("bundle_not_found", f"{uri} is gone")
        address, mark, fragment = uri.partition("#")
        folder = Path("/cache", commit)
        return Fetched(
            uri=uri, resolved=f"{address}@{commit}{mark}{fragment}", path=folder, source_root=folder, commit=commit
        )


def test_a_source_is_fetched_once_and_remembered_in_the_order_it_was_needed() -> None:
    server = Server()
    once = FetchOnce(server.fetch)

    first, again, other = once("git+https://h/b", None), once("git+https://h/b", None), once("git+https://h/a", "x@1")

    assert first is again
    assert server.asked == [("git+https://h/b", None), ("git+https://h/a", "x@1")]
    assert once.met == (first, other)


def test_what_cannot_be_had_is_asked_for_once() -> None:
    server = Server()
    once = FetchOnce(server.fetch)

    for _ in range(2):
        with pytest.raises(Unresolved, match="is gone"):
            once("git+https://h/gone", None)

    assert len(server.asked) == 1
    assert once.met == ()


def test_what_was_fetched_ahead_counts_only_once_it_is_needed() -> None:
    server = Server()
    once = FetchOnce(server.fetch)
    once.ahead([("git+https://h/a", None), ("git+https://h/gone", None), ("git+https://h/b", None)])

    assert {uri for uri, _ in server.asked} == {"git+https://h/a", "git+https://h/gone", "git+https://h/b"}
    assert once.met == ()
    assert once("git+https://h/b", None).uri == "git+https://h/b"
    assert [source.uri for source in once.met] == ["git+https://h/b"]
    assert len(server.asked) == 3


def test_a_branch_does_not_move_between_two_parts_of_one_repository() -> None:
    server = Server()
    once = FetchOnce(server.fetch)
    once.ahead((f"git+https://h/{name}", None) for name in ("r#subdirectory=x", "r#subdirectory=y", "s"))

    x, y = once("git+https://h/r#subdirectory=x", None), once("git+https://h/r#subdirectory=y", None)

    assert x.commit == y.commit
    assert server.asked[-1] == ("git+https://h/r#subdirectory=y", f"git+https://h/r@{x.commit}#subdirectory=y")


def test_one_preparation_fetches_a_bounded_number_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "MAX_SOURCES", 2)
    server = Server()
    once = FetchOnce(server.fetch)
    once.ahead((f"git+https://h/{number}", None) for number in range(5))

    with pytest.raises(Unresolved, match="more than 2 remote sources"):
        once("git+https://h/4", None)

    assert len(server.asked) == 2
