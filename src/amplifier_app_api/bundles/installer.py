"""Installing what modules need, into folders of its own: never into the server's environment.

One folder holds the dependencies of one set of modules, and its name is a hash of everything they depend on. It is
filled beside its place and renamed into it, so it is whole or not there. `uv` does the work in a process group of its
own, with a time limit, an environment without any of the server's secrets, and a log that is kept. The versions of
the server itself are constraints: what cannot live with them is not installed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from .dependencies import LIBRARIES_MARK, InstallFailed, server_versions
from .folders import make_private

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
_PASSED_ON_PREFIX = "UV_"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_RETRY_SECONDS = 0.05
_CLOSING = "The server is shutting down."


class UvInstaller:
    """Installs with `uv` below a server's data folder. `close` ends what runs; nothing starts afterwards.

    `environment` is the server's own; `uv` sees how to reach package indexes of it and nothing else.
    """

    def __init__(
        self, data_dir: Path, *, environment: Mapping[str, str], limit: timedelta = timedelta(minutes=5)
    ) -> None:
        self._folders = data_dir / "modules"
        self._logs = data_dir / "logs"
        self._environment = environment
        self._limit = limit
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def install(self, origins: Sequence[str], requirements: Sequence[str]) -> Path:
        """The folder with the requirements of these modules, there already or made now. Blocks."""
        deadline = time.monotonic() + self._limit.total_seconds()
        key = _key(origins, requirements)
        folder = self._folders / key
        if folder.is_dir():
            return folder
        make_private(self._folders)
        make_private(self._logs)
        with _locked(self._folders / f"{key}.lock", deadline):
            if not folder.is_dir():
                self._fill(folder, requirements, deadline)
        return folder

    def _fill(self, folder: Path, requirements: Sequence[str], deadline: float) -> None:
        # Whoever holds the lock is alone here: what lies there was left by a process that is gone. Its name is not
        # used again, for the program that the process had started may still be writing there.
        for left in self._folders.glob(f"{folder.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        staging = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
        staging.mkdir(mode=0o700)
        try:
            self._run(folder.name, staging, requirements, deadline)
            (staging / LIBRARIES_MARK).write_text("\n".join(requirements) + "\n", "utf-8")
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _run(self, key: str, staging: Path, requirements: Sequence[str], deadline: float) -> None:
        uv = _find_uv(self._environment)
        log = self._logs / f"modules-{key}.log"
        constraints = staging / "server.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in server_versions().items()), "utf-8")
        command = [
            *(uv, "pip", "install", "--no-config", "--no-progress", "--color", "never", "--link-mode", "copy"),
            *("--python", sys.executable, "--target", str(staging), "--constraints", str(constraints)),
            *("--", *requirements),
        ]
        with log.open("wb") as output:
            output.write(f"installing {', '.join(requirements)}\n".encode())
            output.flush()
            process = self._start(command, staging, output.fileno())
            try:
                code = process.wait(timeout=max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                raise InstallFailed(f"Installing took longer than {self._limit.total_seconds():g} seconds.") from None
            finally:
                _end(process)
                with self._lock:
                    self._running.discard(process)
        constraints.unlink(missing_ok=True)
        if self._closed:
            raise InstallFailed(_CLOSING)
        if code != 0:
            raise InstallFailed(f"Installing failed; the server's log {log.parent.name}/{log.name} says why.")

    def _start(self, command: Sequence[str], cwd: Path, output: int) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise InstallFailed(_CLOSING)
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=self._clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def _clean_environment(self) -> dict[str, str]:
        kept = {*_PASSED_ON, *_PROXIES, *(name.lower() for name in _PROXIES)}
        passed = {
            name: value
            for name, value in self._environment.items()
            if name in kept or name.startswith(_PASSED_ON_PREFIX)
        }
        home = self._folders / "home"
        return {**passed, "HOME": str(home), "UV_CACHE_DIR": passed.get("UV_CACHE_DIR", str(home / "cache"))}

    def close(self) -> None:
        """End every installation that runs."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill_group(process)


def _key(origins: Sequence[str], requirements: Sequence[str]) -> str:
    """The name of the folder: another one when modules, their needs, the server or its Python differ."""
    depends_on = [sorted(origins), sorted(requirements), sorted(server_versions().items()), sys.version, sys.platform]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]


def _find_uv(environment: Mapping[str, str]) -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv", path=environment.get("PATH"))
    if found is None:
        raise InstallFailed("The program uv, which installs dependencies, is not on this server.")
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the process group behind, whatever became of its leader."""
    _kill_group(process)
    process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # the group is gone; macOS calls an ended one forbidden
        return


@contextmanager
def _locked(path: Path, deadline: float) -> Generator[None]:
    """Hold a file's lock: one installation of a folder at a time, in all processes. It ends with its holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise InstallFailed("Another process of this server has been installing the same for too long.")
            # The kernel can wake a waiter for a file lock, but not with a time limit.
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
