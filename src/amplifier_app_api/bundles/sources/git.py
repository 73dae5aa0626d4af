"""Repositories: a name to a commit, and a commit to a folder.

git only talks to the server and unpacks objects. It never checks out: the files are listed, measured and
written by us, so neither hooks, filters, attributes nor submodules of a repository have a say.
"""

import functools
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from amplifier_app_api.bundles.values import quoted

from .addresses import AddressBook
from .limits import FetchLimits, Patience, failed
from .process import NOTHING, CommandFailed, run
from .remote import Remote
from .tree import TreeWriter, checked_name

logger = logging.getLogger(__name__)

OLDEST_GIT = (2, 37)  # before it, git cannot be told which address to dial
COMMIT = re.compile(r"[0-9a-f]{40}")

_REF = re.compile(r"(?!-)(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))[^\x00-\x20\x7f~^:?*\[\\]+(?<![./])")
_CHUNK = 2**16
_LONGEST_TARGET = 4096
_LINK, _SUBMODULE = "120000", "160000"

_OPTIONS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.bigFileThreshold": "8m",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.followRedirects": "false",
    "http.proxy": "",
    "http.delegation": "none",
    "pack.threads": "1",
    "submodule.recurse": "false",
    "transfer.bundleURI": "false",
    "transfer.unpackLimit": "1",
}


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    object_id: str
    size: int
    name: str


class GitClient:
    """Asks repositories; the policy has been checked before."""

    def __init__(self, limits: FetchLimits, addresses: AddressBook, ca_file: Path | None = None) -> None:
        self._limits = limits
        self._addresses = addresses
        self._ca_file = ca_file

    def commit_of(self, remote: Remote, scratch: Path, patience: Patience) -> str:
        """The commit that a ref names now; without a ref, what the repository calls its head."""
        if COMMIT.fullmatch(remote.ref):
            return remote.ref
        if remote.ref and not _REF.fullmatch(remote.ref):
            raise failed(f"{quoted(remote.ref)} is no possible name of a branch or tag.")
        wanted = (f"refs/heads/{remote.ref}", f"refs/tags/{remote.ref}") if remote.ref else ("HEAD",)
        peeled = [f"{name}^{{}}" for name in wanted if name.startswith("refs/tags/")]
        output = self._told(remote, scratch, patience, "ls-remote", "--quiet", "--", _address(remote), *wanted, *peeled)
        known: dict[str, str] = {}
        for line in output.decode("utf-8", "replace").splitlines():
            object_id, _, name = line.partition("\t")
            known[name] = object_id
        # A branch wins over a tag, as it does for `git clone --branch`; a tag with a message counts as its commit.
        for name in (wanted[0], *peeled, *wanted[1:]):
            if COMMIT.fullmatch(known.get(name, "")):
                return known[name]
        raise failed(f"{remote.url} has no {'branch or tag ' + quoted(remote.ref) if remote.ref else 'head'}.")

    def checkout(self, remote: Remote, commit: str, tree: Path, scratch: Path, patience: Patience) -> TreeWriter:
        """The files of a commit, written to the empty folder `tree`."""
        repository = scratch / "repository"
        self._git(remote, scratch, patience, "init", "--quiet", "--bare", "--template=", str(repository))
        try:
            self._fetch(remote, repository, commit, patience)
            writer = self._write(remote, repository, commit, tree, patience)
        finally:
            shutil.rmtree(repository, ignore_errors=True)
        return writer

    def _fetch(self, remote: Remote, repository: Path, commit: str, patience: Patience) -> None:
        common = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance")
        try:
            self._git(remote, repository, patience, *common, "--depth=1", "--", _address(remote), commit)
        except CommandFailed:
            # Servers may refuse to give a commit by its id, and plain file servers know nothing of depth.
            everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            self._told(remote, repository, patience, *common, "--", _address(remote), *everything)
        try:
            found = self._git(remote, repository, patience, "cat-file", "-t", commit).strip()
        except CommandFailed:
            found = b""
        if found != b"commit":
            raise failed(f"{remote.url} has no commit {commit}.")

    def _write(self, remote: Remote, repository: Path, commit: str, tree: Path, patience: Patience) -> TreeWriter:
        listing = self._told(remote, repository, patience, "ls-tree", "-r", "-z", "-l", "--full-tree", commit)
        entries = [entry for entry in _entries(listing) if entry.mode != _SUBMODULE]
        self._check(entries)
        wanted, blobs = repository / "wanted", repository / "blobs"
        wanted.write_text("".join(f"{entry.object_id}\n" for entry in entries), encoding="ascii")
        self._told(remote, repository, patience, "cat-file", "--batch", "--buffer", reads=wanted, writes=blobs)
        writer = TreeWriter(tree, self._limits, patience)
        with blobs.open("rb") as file:
            for entry in entries:
                _write_entry(writer, file, entry)
        left_out = writer.close()
        if left_out:
            logger.warning("links that lead out of a repository were left out", extra={"links": left_out})
        return writer

    def _check(self, entries: list[_Entry]) -> None:
        """What can be known before a byte is written."""
        if len(entries) > self._limits.files:
            raise failed(f"The repository has more than {self._limits.files} files.")
        if sum(entry.size for entry in entries) > self._limits.tree_bytes:
            raise failed(f"The repository is larger than {self._limits.tree_bytes} bytes.")
        for entry in entries:
            checked_name(entry.name)
            if entry.size > self._limits.file_bytes:
                raise failed(f"{quoted(entry.name)} is larger than {self._limits.file_bytes} bytes.")

    def _told(
        self,
        remote: Remote,
        folder: Path,
        patience: Patience,
        *arguments: str,
        reads: Path = NOTHING,
        writes: Path | None = None,
    ) -> bytes:
        """The same as `_git`, where failing is the end."""
        try:
            return self._git(remote, folder, patience, *arguments, reads=reads, writes=writes)
        except CommandFailed as error:
            raise failed(f"git could not read {remote.url}: {error}.") from None

    def _git(
        self,
        remote: Remote,
        folder: Path,
        patience: Patience,
        *arguments: str,
        reads: Path = NOTHING,
        writes: Path | None = None,
    ) -> bytes:
        asks = arguments[0] in {"ls-remote", "fetch"}
        settings = _OPTIONS | (self._network(remote, patience) if asks else {})
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

        def watch() -> None:
            most = self._limits.download_bytes
            if _size_of(folder / "objects") > most or _size_of(folder) > most + self._limits.tree_bytes:
                raise failed(f"{remote.url} is larger than {most} bytes.")

        return run(
            [git_program(), *options, *arguments],
            environment=_environment(folder, remote.transport),
            cwd=folder,
            patience=patience,
            file_bytes=2 * max(self._limits.download_bytes, self._limits.tree_bytes),
            watch=watch,
            reads=reads,
            writes=writes,
        )

    def _network(self, remote: Remote, patience: Patience) -> dict[str, str]:
        settings = {"http.sslCAInfo": str(self._ca_file)} if self._ca_file else {}
        if remote.transport != "file":
            # git resolves names itself, so it is told what was found and checked.
            addresses = self._addresses.lookup(remote.host, remote.port, patience)
            if not remote.host.startswith("["):
                shown = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
                settings["http.curloptResolve"] = f"{remote.host}:{remote.port}:{shown}"
        return settings


def _address(remote: Remote) -> str:
    """What git is given. It takes % in a local address for an escape, and the path that was checked has none."""
    return f"file://{quote(remote.path)}" if remote.transport == "file" else remote.url


def _environment(folder: Path, transport: str) -> dict[str, str]:
    """Nothing of ours but the search path: no configuration, no credentials, no proxy, no prompt."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": transport,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }


@functools.cache
def git_program() -> str:
    """The git of this machine; `Unresolved` when there is none or it is too old to be confined."""
    program = shutil.which("git")
    if program is None:
        raise failed("git is not installed on this server.")
    said = subprocess.run([program, "version"], capture_output=True, text=True, timeout=10, check=False).stdout
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_GIT:
        raise failed("The git of this server is older than 2.37, which cannot be told which addresses to dial.")
    return program


def _entries(listing: bytes) -> Iterator[_Entry]:
    for line in listing.split(b"\0"):
        if line:
            about, _, name = line.partition(b"\t")
            mode, _, object_id, size = about.decode("ascii").split()
            yield _Entry(mode, object_id, int(size) if size.isdigit() else 0, os.fsdecode(name))


def _write_entry(writer: TreeWriter, blobs: IO[bytes], entry: _Entry) -> None:
    header = blobs.readline(200).decode("ascii", "replace").split()
    if header != [entry.object_id, "blob", str(entry.size)]:
        raise failed(f"{quoted(entry.name)} of the repository cannot be read.")
    start = blobs.tell()
    if entry.mode == _LINK:
        writer.link(entry.name, os.fsdecode(blobs.read(min(entry.size, _LONGEST_TARGET))))
    else:
        writer.file(entry.name, _exactly(blobs, entry.size), executable=entry.mode == "100755")
    blobs.seek(start + entry.size + 1)


def _exactly(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise failed("The repository ended early.")
        size -= len(chunk)
        yield chunk


def _size_of(folder: Path) -> int:
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(inner, name)).st_size  # noqa: PTH118  ten times a second
            except OSError:
                continue  # git moved it meanwhile
    return total
