"""Servers that want to be somewhere else, or never to end."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources import FetchLimits
from hostile.source_server import HOST, LONGEST_WAIT, Answer, Repository, SourceServer, content, redirect, source_server

IMPATIENT = FetchLimits(timeout=timedelta(milliseconds=700))
SMALL = FetchLimits(download_bytes=2**20, tree_bytes=2**20, file_bytes=2**20, files=100)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SourceServer]:
    with source_server(tmp_path / "server") as server:
        yield server


def refusal(server: SourceServer, uri: str, limits: FetchLimits | None = None, **policy: object) -> Unresolved:
    """What fetching says, with nothing left of the attempt."""
    cache = server.ca_file.parent / "cache"
    fetcher = server.fetcher(cache, limits, **policy)
    try:
        with pytest.raises(Unresolved) as caught:
            fetcher.fetch(uri)
    finally:
        fetcher.close()
    assert list((cache / "tmp").iterdir()) == []
    assert list((cache / "entries").iterdir()) == []
    return caught.value


def dripping(begin: bytes, drop: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begin)
        server = handler.server
        assert isinstance(server, SourceServer)
        while not server.closing.wait(0.05):
            handler.wfile.write(drop)

    return answer


def endless(begin: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begin)
        server = handler.server
        assert isinstance(server, SourceServer)
        while not server.closing.is_set():
            handler.wfile.write(b"0001" * 2**14)

    return answer


def test_a_redirect_to_the_secrets_of_a_cloud_is_refused(server: SourceServer) -> None:
    server.addresses["metadata.test"] = ["169.254.169.254"]
    server.answers["/x.md"] = redirect("https://metadata.test/latest.md")

    refused = refusal(server, f"{server.url}/x.md", allow=[f"{server.url}/*", "https://metadata.test/*"])

    assert (refused.code, "AMPLIFIER_PRIVATE_ADDRESSES" in refused.detail) == ("source_not_allowed", True)


@pytest.mark.parametrize("target", ["https://127.0.0.1/x.md", "https://other.test/x.md", "//other.test/x.md"])
def test_a_redirect_to_a_place_that_is_not_allowed_is_refused(server: SourceServer, target: str) -> None:
    server.answers["/x.md"] = redirect(target)

    refused = refusal(server, f"{server.url}/x.md")

    assert (refused.code, "AMPLIFIER_SOURCE_ALLOW" in refused.detail) == ("source_not_allowed", True)


@pytest.mark.parametrize("target", ["http://sources.test/x.md", "file:///etc/passwd", "git://sources.test/x.md"])
def test_a_redirect_to_another_kind_of_address_is_refused(server: SourceServer, target: str) -> None:
    server.answers["/x.md"] = redirect(target)

    assert "redirects to another kind" in refusal(server, f"{server.url}/x.md").detail


def test_a_redirect_within_what_is_allowed_is_followed_with_its_query(server: SourceServer, tmp_path: Path) -> None:
    server.answers["/x.md"] = redirect("/moved/y.md?signature=1%2F2")
    server.answers["/moved/y.md"] = content(b"here")
    fetcher = server.fetcher(tmp_path / "cache")

    fetched = fetcher.fetch(f"{server.url}/x.md")
    fetcher.close()

    assert (fetched.path.name, fetched.path.read_text()) == ("x.md", "here")
    assert server.asked == ["/x.md", "/moved/y.md?signature=1%2F2"]


def test_redirects_end(server: SourceServer) -> None:
    server.answers["/x.md"] = redirect("/x.md")

    assert "more than 5 times" in refusal(server, f"{server.url}/x.md").detail
    assert len(server.asked) == 6


@pytest.mark.parametrize("kind", ["git+", "zip+", ""])
@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"]]
)
def test_a_name_with_a_private_address_is_not_dialled(server: SourceServer, kind: str, addresses: list[str]) -> None:
    server.addresses[HOST] = addresses

    refused = refusal(server, f"{kind}{server.url}/git/x.md", private_addresses=False)

    assert (refused.code, server.asked) == ("source_not_allowed", [])


def test_git_dials_the_address_that_was_checked(server: SourceServer, tmp_path: Path) -> None:
    # The system's resolver does not know the name: without ours, git would find nothing.
    commit = Repository(server.repositories / "bundles").commit({"bundle.md": "one"})
    fetcher = server.fetcher(tmp_path / "cache")

    assert fetcher.fetch(f"git+{server.url}/git/bundles").commit == commit
    fetcher.close()


@pytest.mark.parametrize("file", ["x.md", "x.zip"])
def test_an_endless_answer_ends(server: SourceServer, file: str) -> None:
    server.answers[f"/{file}"] = endless(b"HTTP/1.0 200 OK\r\n\r\n")

    kind = "zip+" if file.endswith(".zip") else ""
    assert "larger than 1048576 bytes" in refusal(server, f"{kind}{server.url}/{file}", SMALL).detail


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        pytest.param(b"", b"", id="says nothing"),
        pytest.param(b"HTTP/1.0 200 OK\r\n", b"X-A: b\r\n", id="drips headers"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", b"x", id="drips its content"),
    ],
)
@pytest.mark.parametrize("kind", ["", "git+"])
def test_a_server_that_drips_is_left(server: SourceServer, kind: str, begin: bytes, drop: bytes) -> None:
    server.answers["/x.md"] = server.answers["/x.md/info/refs"] = dripping(begin, drop)

    refused = refusal(server, f"{kind}{server.url}/x.md", IMPATIENT)

    assert (refused.code, "longer than it may" in refused.detail) == ("module_fetch_failed", True)


def test_content_that_is_encoded_unasked_is_refused(server: SourceServer) -> None:
    server.answers["/x.md"] = content(gzip.compress(b"0" * 2**20), headers={"Content-Encoding": "gzip"})

    assert "encoded content" in refusal(server, f"{server.url}/x.md").detail


def test_an_answer_that_ends_early_is_an_error(server: SourceServer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nshort")

    server.answers["/x.md"] = answer

    assert refusal(server, f"{server.url}/x.md").code == "module_fetch_failed"


@pytest.mark.parametrize("status", [204, 304, 401, 404, 500])
def test_an_answer_without_the_content_is_an_error(server: SourceServer, status: int) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()

    server.answers["/x.md"] = answer

    assert f"answered {status}" in refusal(server, f"{server.url}/x.md").detail


def test_git_does_not_follow_redirects(server: SourceServer) -> None:
    Repository(server.repositories / "bundles").commit({"bundle.md": "one"})
    server.answers["/moved/info/refs"] = redirect(f"{server.url}/git/bundles/info/refs?service=git-upload-pack")

    assert refusal(server, f"git+{server.url}/moved").code == "module_fetch_failed"
    assert server.asked == ["/moved/info/refs?service=git-upload-pack"]


def test_a_repository_that_asks_for_a_password_gets_none(server: SourceServer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", "Basic")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/private/info/refs"] = answer

    assert "terminal prompts disabled" in refusal(server, f"git+{server.url}/private").detail


def test_a_repository_that_lists_without_end_is_left(server: SourceServer) -> None:
    server.answers["/many/info/refs"] = endless(
        b"HTTP/1.0 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n"
        b"001e# service=git-upload-pack\n0000000eversion 2\n"
    )

    assert refusal(server, f"git+{server.url}/many", IMPATIENT).code == "module_fetch_failed"


async def test_a_fetch_that_nobody_waits_for_ends(server: SourceServer, tmp_path: Path) -> None:
    reached, left = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reached.set()
        handler.connection.settimeout(LONGEST_WAIT)
        try:
            handler.rfile.read(1)
        finally:
            left.set()

    server.answers["/x.md"] = answer
    fetcher = server.fetcher(tmp_path / "cache")
    fetch = asyncio.create_task(fetcher.fetch_async(f"{server.url}/x.md"))
    assert await asyncio.to_thread(reached.wait, LONGEST_WAIT)

    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch

    assert await asyncio.to_thread(left.wait, LONGEST_WAIT)
    await asyncio.to_thread(fetcher.close)


async def test_closing_ends_what_is_under_way(server: SourceServer, tmp_path: Path) -> None:
    reached = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reached.set()
        handler.rfile.read(1)

    server.answers["/x.md"] = answer
    fetcher = server.fetcher(tmp_path / "cache")
    fetch = asyncio.create_task(fetcher.fetch_async(f"{server.url}/x.md"))
    assert await asyncio.to_thread(reached.wait, LONGEST_WAIT)

    await asyncio.to_thread(fetcher.close)

    with pytest.raises(Unresolved, match="given up"):
        await fetch
    with pytest.raises(Unresolved, match="given up"):
        await fetcher.fetch_async(f"{server.url}/x.md")
