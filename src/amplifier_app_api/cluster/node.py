"""This process among those that serve a database: who it is, and which of the others are alive."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from amplifier_app_api.storage.nodes import NodeIdentity, SeenNode

PROC = Path("/proc")


def this_process() -> NodeIdentity:
    """The identity of this process, with an id of its own."""
    pid = os.getpid()
    return NodeIdentity(str(uuid.uuid4()), _boot_id(), pid, process_start(pid) or "")


def _boot_id() -> str:
    """Which start of which machine this is, as far as process ids are the same in it.

    Containers of one machine see each other's boot id and not each other's processes.
    """
    if sys.platform == "darwin":
        return _said("sysctl", "-n", "kern.bootsessionuuid") or str(uuid.getnode())
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return str(uuid.uuid4())  # nobody can be compared with this process


def process_start(pid: int) -> str | None:
    """When a process of this machine was started, as the machine tells it. None: there is none."""
    if sys.platform == "darwin":
        return _said("ps", "-o", "lstart=", "-p", str(pid)) or None
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold anything; the start is the twenty-second.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else fields[18]


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class NodeWatch:
    """Tells of a node whether it is alive.

    `alone`: this process has the database to itself, so every other node has ended. `steady` says how long, in
    seconds, this node's own beats have been stored without a break: who cannot store its own knows nothing of others.
    """

    def __init__(
        self, me: NodeIdentity, *, alone: bool, dead_after: timedelta, steady: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.me = me
        self._alone = alone
        self._dead_after = dead_after.total_seconds()
        self._steady = steady

    def lives(self, seen: SeenNode) -> bool:
        """Whether a node is there still, as far as can be told."""
        other = seen.identity
        if other.node_id == self.me.node_id:
            return True
        if self._alone or self.has_exited(other):
            return False
        return seen.silent_ms <= self._dead_after * 1000 or self._steady() < self._dead_after

    def has_exited(self, other: NodeIdentity) -> bool:
        """Whether a node's process is known to have ended: it ran where this one runs, and is not there any more."""
        return other.boot_id == self.me.boot_id and process_start(other.pid) != other.process_started
