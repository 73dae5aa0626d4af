"""The operations of the vectors on sources: on this machine, in archives, from a web server."""

import functools
import zipfile
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.locating import Sources, locate_path, source_root
from amplifier_app_api.bundles.sources import SourceFetcher, SourcePolicy
from amplifier_app_api.bundles.sources.remote import read_remote
from amplifier_app_api.bundles.uris import SourceUri

Answer = dict[str, Any]


def make_archives(archives: dict[str, dict[str, str]], root: Path) -> None:
    for name, members in archives.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / name, "w") as archive:
            for member, text in members.items():
                archive.writestr(member, text)


def resolved(item: dict[str, Any], base: Path, root: Path) -> Answer:
    """Active path and source root. Where in the cache a tree lies is ours; it is shown as the vectors write it."""
    text, uri = item["uri"], SourceUri.parse(item["uri"])
    if not uri.is_remote:
        allowed = AllowedFolders.of(root)
        path, outer = locate_path(text, base, allowed)
        around = source_root(path, outer, allowed)
        return {"active_path": path, "source_root": around, "is_subdirectory": path != around}
    fetcher = SourceFetcher(root.parent / "cache", SourcePolicy.of(roots=[root]))
    try:
        found = fetcher.fetch(text)
    finally:
        fetcher.close()
    shown = Path("<amplifier-home>/cache", f"{Path(uri.path).stem}-<hash16>")
    path = shown / found.path.relative_to(found.source_root)
    return {"active_path": path, "source_root": shown, "is_subdirectory": path != shown}


def clone_url(item: dict[str, Any], root: Path) -> Answer:
    return {"clone_url": read_remote(item["uri"]).url}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def over_http(spec: dict[str, Any], root: Path, load: Callable[[str, Sources], Answer]) -> Answer:
    """Load from a web server on this machine that serves the case's own files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    policy = SourcePolicy.of([f"{base}/*"], private_addresses=True)
    fetcher = SourceFetcher(root.parent / "cache", policy)
    try:
        items = [
            {"id": item["id"], **load(item["uri"].replace("<base>", base), Sources(fetch=fetcher.fetch))}
            for item in spec["items"]
        ]
        return {"ok": True, "result": items}
    finally:
        fetcher.close()
        server.shutdown()
        thread.join()
        server.server_close()
