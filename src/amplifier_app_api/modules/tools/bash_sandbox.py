"""Bubblewrap: a command sees the system's programs, read only, the session's folders, and little else.

No home of anybody, no `/etc` but what programs need to start, no process but its own, no network unless allowed.
Whether bubblewrap works here is tried once per process: many containers have it and forbid what it needs.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amplifier_app_api.modules.tools.refusals import Refused

_TRIAL_SECONDS = 10
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
)  # fmt: skip
_NETWORK = ("/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf")
_USER = "1000"
_SEALED = ("--remount-ro", "/dev", "--remount-ro", "/")  # what is not bound lives in memory: nobody fills that


class Scratch:
    """A session's own folder for what is not kept: it is `/tmp` and `/dev/shm` in the sandbox."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        self.shm = folder / "shm"
        self.passwd = folder / "passwd"
        self.group = folder / "group"

    def make(self) -> None:
        self.tmp.mkdir(parents=True, exist_ok=True)
        self.shm.mkdir(exist_ok=True)
        self.passwd.write_text(f"user:x:{_USER}:{_USER}:user:/tmp:/bin/bash\n")
        self.group.write_text(f"user:x:{_USER}:\n")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A bubblewrap that works, with as much as this machine lets it do.

    Some containers let it do all but mount `/proc`, which is then missing inside; older versions cannot take away
    user namespaces from what runs inside.
    """

    program: str
    with_proc: bool
    nested: bool

    def around(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        scratch: Scratch,
        read: Iterable[Path] = (),
        write: Iterable[Path] = (),
        network: bool = False,
    ) -> list[str]:
        """The command line that runs `command` in `folder`; folders have the paths inside that they have outside."""
        if folder != Path("/tmp") and _is_ours(folder):
            raise Refused(f"Commands are not run in {folder}: it would open the sandbox")
        line = [self.program, *_isolation(self, network=network), *_devices(self)]
        line += ["--bind", str(scratch.tmp), "/tmp", "--bind", str(scratch.shm), "/dev/shm"]
        line += ["--ro-bind", str(scratch.passwd), "/etc/passwd", "--ro-bind", str(scratch.group), "/etc/group"]
        for way, paths in (("--ro-bind-try", read), ("--bind-try", write)):
            for path in paths:
                if not _is_ours(path):
                    line += [way, str(path), str(path)]
        line += ["--bind", str(folder), str(folder)]
        return [*line, *_SEALED, "--chdir", str(folder), "--", *command]


BARE = {"PATH": "/usr/bin:/bin"}
"""What bubblewrap itself has. It runs outside of the sandbox: what a config says (`LD_PRELOAD`) is not for it."""


def setting(environment: Mapping[str, str]) -> list[str]:
    """The arguments that give what runs in the sandbox its environment."""
    if "\0" in "".join((*environment, *environment.values())):
        raise Refused("The environment of a command holds a NUL character")  # it would end the argument
    return [part for name, value in environment.items() for part in ("--setenv", name, value)]


def find_bubblewrap() -> Bubblewrap | str:
    """The one of this machine, or a sentence that says why there is none. Blocks the first time."""
    program = shutil.which("bwrap")
    return _tried(program) if program else "bubblewrap (bwrap) is not installed"


@functools.cache
def _tried(program: str) -> Bubblewrap | str:
    said = ""
    for with_proc, nested in ((True, False), (True, True), (False, False), (False, True)):
        found = Bubblewrap(program, with_proc, nested)
        line = [*_isolation(found, network=False), *_devices(found), *_SEALED]
        command = [program, *line, "--", "/bin/sh", "-c", ":"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=_TRIAL_SECONDS, stdin=subprocess.DEVNULL, env={}, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not work here: {type(error).__name__}"
        if done.returncode == 0:
            return found
        said = said or done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"bubblewrap does not work here: {said[:200]}"


def _is_ours(path: Path) -> bool:
    """Whether the sandbox has something else there, which must not be covered by what is outside."""
    return path in (Path("/"), Path("/tmp")) or any(path.is_relative_to(top) for top in ("/proc", "/dev", "/sys"))


def _isolation(found: Bubblewrap, *, network: bool) -> list[str]:
    line = [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--uid", _USER, "--gid", _USER, "--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"),
    ]
    if not found.nested:
        line.append("--disable-userns")
    if not network:
        line.append("--unshare-net")
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            line += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            line += ["--ro-bind", str(path), str(path)]
    for path in (*_ETC, *(_NETWORK if network else ())):
        line += ["--ro-bind-try", path, path]
    return line


def _devices(found: Bubblewrap) -> list[str]:
    line = ["--proc", "/proc"] if found.with_proc else []
    return [*line, "--dev", "/dev", "--symlink", "/tmp", "/var/tmp"]
