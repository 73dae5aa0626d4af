"""Processes that die in the middle of a fetch, and several that want the same."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hostile.source_server import LONGEST_WAIT, Repository, SourceServer, content, source_server, zip_of

# What another server process does: fetch one source and say where it is.
FETCHING = """
import json, sys
from pathlib import Path
from amplifier_app_api.bundles.sources import SourceFetcher, SourcePolicy

cache, ca_file, uri, pin = sys.argv[1:]
host = uri.split("/")[2]
policy = SourcePolicy.of([f"git+https://{host}/*", f"zip+https://{host}/*"], private_addresses=True)
fetcher = SourceFetcher(Path(cache), policy, ca_file=Path(ca_file), resolver=lambda host, port: ["127.0.0.1"])
fetched = fetcher.fetch(uri, pin or None)
print(json.dumps([str(fetched.path), fetched.resolved]))
fetcher.close()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SourceServer]:
    with source_server(tmp_path / "server") as server:
        yield server


def start(server: SourceServer, cache: Path, uri: str, pin: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FETCHING, str(cache), str(server.ca_file), uri, pin]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: "subprocess.Popen[str]") -> list[str]:
    output, errors = process.communicate(timeout=LONGEST_WAIT)
    assert (process.returncode, errors) == (0, "")
    return json.loads(output)


class Held:
    """An answer that keeps its client waiting, and knows when that client is gone."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.left = threading.Event()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\nsome of it")
        self.reached.set()
        try:
            handler.rfile.read(1)
        finally:
            self.left.set()


@pytest.mark.parametrize("kind", ["git+", "zip+"])
def test_a_killed_fetch_leaves_nothing_that_counts_and_nothing_running(
    server: SourceServer, tmp_path: Path, kind: str
) -> None:
    held = Held()
    server.answers["/source/info/refs"] = server.answers["/source"] = held
    process = start(server, tmp_path / "cache", f"{kind}{server.url}/source")
    assert held.reached.wait(LONGEST_WAIT)
    left_behind = len(list((tmp_path / "cache" / "tmp").iterdir()))

    process.kill()
    process.communicate(timeout=LONGEST_WAIT)

    assert left_behind == 2  # the folder and its lock
    assert held.left.wait(LONGEST_WAIT)  # git died with us: nobody holds the connection any more
    assert list((tmp_path / "cache" / "entries").iterdir()) == []

    commit = Repository(server.repositories / "source").commit({"bundle.md": "whole"})
    server.answers["/source"] = content(zip_of({"bundle.md": b"whole"}))
    fetcher = server.fetcher(tmp_path / "cache")
    fetched = fetcher.fetch(f"{kind}{server.url}/{'git/' if kind == 'git+' else ''}source")
    fetcher.close()

    assert (fetched.path / "bundle.md").read_text() == "whole"
    assert fetched.commit == (commit if kind == "git+" else None)
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_two_processes_fetch_a_commit_once(server: SourceServer, tmp_path: Path) -> None:
    Repository(server.repositories / "bundles").commit({"bundle.md": "one"})

    both = [start(server, tmp_path / "cache", f"git+{server.url}/git/bundles") for _ in range(2)]
    first, second = (result(process) for process in both)

    assert first == second
    assert server.packs == 1


def test_two_processes_download_an_archive_once(server: SourceServer, tmp_path: Path) -> None:
    body = zip_of({"bundle.md": b"one"})
    server.answers["/x.zip"] = content(body)
    pin = hashlib.sha256(body).hexdigest()

    both = [start(server, tmp_path / "cache", f"zip+{server.url}/x.zip", pin) for _ in range(2)]
    first, second = (result(process) for process in both)

    assert first == second
    assert server.asked == ["/x.zip"]


def test_threads_that_want_the_same_share_one_download(server: SourceServer, tmp_path: Path) -> None:
    first_is_there, go_on = threading.Event(), threading.Event()
    ordinary = content(zip_of({"bundle.md": b"one"}))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        first_is_there.set()
        assert go_on.wait(LONGEST_WAIT)
        ordinary(handler)

    server.answers["/x.zip"] = answer
    fetcher = server.fetcher(tmp_path / "cache")
    found: list[Path] = []

    def fetch() -> None:
        found.append(fetcher.fetch(f"zip+{server.url}/x.zip").path)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    threads[0].start()
    assert first_is_there.wait(LONGEST_WAIT)
    for thread in threads[1:]:
        thread.start()
    _wait_for_waiters(3)
    go_on.set()
    for thread in threads:
        thread.join(LONGEST_WAIT)
    fetcher.close()

    assert (len(found), len(set(found)), server.asked) == (4, 1, ["/x.zip"])


def _wait_for_waiters(count: int) -> None:
    """Until so many threads of ours wait for a lock."""
    never = threading.Event()
    for _ in range(int(LONGEST_WAIT / 0.01)):
        if sum(thread.name == "lock" for thread in threading.enumerate()) == count:
            return
        never.wait(0.01)
    raise AssertionError("they never waited")
