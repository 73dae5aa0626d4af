"""The process between this server and one command: a program of its own, run by its path with `-I -S`.

It starts the command in a session of its own, with limits, and ends everything that came of it: when the command
itself ends, when it used too much or too long, and when standard input closes, be it that the command is given up
or that the server died. Orphans come to this process instead of to the system's first one, so that a command
cannot get away by leaving its group. Where the system has no `/proc` (macOS), the group is all that is ended.

The first line of standard input is what to run, as JSON (`Orders`). The file descriptor named by the only argument
gets the report, `{"code", "signal", "ended_by"}`: one of the first two is null, and the last says why the command
was ended, if it did not end by itself: `stopped`, `time`, `processes` or `memory`.

Only the standard library is here, and little of it: starting takes ten milliseconds.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, TypedDict

TICK = 0.05
FULL_LOOK = 0.5
CANNOT_START = 127

_PARENT_DEATH = 1  # PR_SET_PDEATHSIG
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Orders(TypedDict):
    """Sizes in bytes; `memory` counts twice: for one process its own data, for all together what they hold in RAM.

    `arguments` come first among those of the command, through a descriptor (`--args`, as bubblewrap reads it): what is
    in them stands in no list of processes.
    """

    command: list[str]
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    seconds: float
    cpu_seconds: int
    memory: int
    file: int
    processes: int


def main() -> None:
    report = int(sys.argv[1])
    orders: Orders = json.loads(sys.stdin.buffer.readline())
    os.set_inheritable(report, False)
    control = _process_control()
    if control is not None:
        control.prctl(_SUBREAPER, 1, 0, 0, 0)
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, _wake)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    _go_first()
    child = _start(orders, control)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)  # the outputs end when the command and its children are gone

    ended_by = _watch(child, orders, wake)
    status = _end(child)
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    told = {
        "code": code if code is not None and code >= 0 else None,
        "signal": -code if code is not None and code < 0 else None,
        "ended_by": ended_by,
    }
    os.write(report, json.dumps(told).encode())


def _wake(number: int, frame: object) -> None:
    """A handler there must be, for the signal to wake us."""


def _process_control() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # not everywhere, and not cheap

    return ctypes.CDLL(None, use_errno=True)


def _go_first() -> None:
    """Run before whatever the command starts, where that is allowed: among thousands of forks our turn comes late.

    It is allowed to root, whose processes are also the ones that the kernel does not count.
    """
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _start(orders: Orders, control: Any) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        if control is not None:
            control.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(CANNOT_START)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        command = _with_arguments(orders["command"], orders["arguments"])
        _limit(orders)
        os.chdir(orders["folder"])
        os.execve(command[0], command, orders["environment"])
    except OSError as error:
        os.write(2, f"{orders['command'][0]} cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_START)


def _with_arguments(command: "list[str]", arguments: "list[str]") -> "list[str]":
    if not arguments:
        return command
    file = os.memfd_create("arguments", 0)  # the command has it open, too
    with os.fdopen(file, "wb", closefd=False) as writing:
        writing.write("\0".join(arguments).encode("utf-8", "surrogateescape") + b"\0")
    os.lseek(file, 0, os.SEEK_SET)
    return [command[0], "--args", str(file), *command[1:]]


def _limit(orders: Orders) -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, orders["cpu_seconds"]),
        (resource.RLIMIT_DATA, orders["memory"]),
        (resource.RLIMIT_FSIZE, orders["file"]),
        (resource.RLIMIT_NOFILE, 1024),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most))


def _watch(child: int, orders: Orders, wake: int) -> "str | None":
    """Until the command has ended (None) or must be ended (why)."""
    deadline = time.monotonic() + orders["seconds"]
    looked, baseline = 0.0, _tasks_of_the_system()
    while True:
        ready, _, _ = select.select([0, wake], [], [], TICK)
        if 0 in ready and not os.read(0, 4096):
            return "stopped"
        if wake in ready:
            os.read(wake, 4096)
        if _reap_others(child):
            return None
        now = time.monotonic()
        if now >= deadline:
            return "time"
        # The number of tasks on the machine costs next to nothing to know; it tells when a closer look is due.
        tasks = _tasks_of_the_system()
        if now - looked < FULL_LOOK and tasks - baseline < orders["processes"] // 2:
            continue
        looked, baseline = now, tasks
        family = _family()
        if len(family) > orders["processes"]:
            return "processes"
        if sum(map(_memory_of, family)) > orders["memory"]:
            return "memory"


def _reap_others(child: int) -> bool:
    """Reap the orphans that ended; whether the command itself has. It stays, so that its number stays its own."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if ended is None:
            return False
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)


def _end(child: int) -> "int | None":
    """End everything; how the command itself ended."""
    _kill(child, group=True)
    status: int | None = None
    while True:
        for process in _family():
            _kill(process)
        try:
            ended, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if ended == child:
            status = how
        elif not ended:
            time.sleep(0.002)


def _kill(process: int, *, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(process, signal.SIGKILL)


def _family() -> "list[int]":
    """All that descend from this process and have not ended."""
    children: dict[int, list[int]] = {}
    for name in _processes():
        if not name.isdigit():
            continue
        try:
            state, parent = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        if state != b"Z":
            children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _processes() -> "list[str]":
    try:
        return os.listdir("/proc")  # noqa: PTH208 - pathlib is not cheap
    except OSError:
        return []


def _memory_of(process: int) -> int:
    """What a process holds in RAM and does not share, in bytes."""
    try:
        _, resident, shared = map(int, _read(f"/proc/{process}/statm").split()[:3])
    except (OSError, ValueError):
        return 0
    return (resident - shared) * resource.getpagesize()


def _tasks_of_the_system() -> int:
    try:
        return int(_read("/proc/loadavg").split()[3].partition(b"/")[2])
    except OSError:
        return 0


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


if __name__ == "__main__":
    main()
