"""Running a command that may hang, fill the disk or outlive us.

It runs in a session of its own, below a small shell that leads the group and holds the other end of a pipe of
ours: when this process ends, however it ends, the pipe closes and the whole group is killed.
"""

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from .limits import Patience, failed

NOTHING = Path(os.devnull)

_STEP = 0.1
_MOST_OUTPUT = 8 * 2**20
_MOST_ERRORS = 16 * 2**10

# $0 is what the command reads; $1 and $2 are the largest file (in blocks of 512 bytes) and address space (in
# KiB), which a system that cannot limit them goes without. The reader of the pipe kills the group once it closes.
_LEADER = """
ulimit -f "$1" 2>/dev/null; ulimit -v "$2" 2>/dev/null; shift 2
exec 3<&0
( read -r _ <&3; kill -9 0 ) >/dev/null 2>&1 &
watch=$!
"$@" 3<&- <"$0" &
wait $!; code=$?
kill -9 $watch; wait $watch 2>/dev/null
exit $code
"""


class CommandFailed(Exception):
    """The command ended with another code than 0. The text is the end of what it said, in one line."""


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    patience: Patience,
    file_bytes: int,
    memory_bytes: int = 4 * 2**30,
    watch: Callable[[], None] = lambda: None,
    reads: Path = NOTHING,
    writes: Path | None = None,
) -> bytes:
    """What the command writes to its standard output, unless that goes to the file `writes`.

    `watch` is called every tenth of a second while it runs; what it raises ends the command. Raises
    `CommandFailed`, and `Unresolved` when it takes too long or says too much.
    """
    limits = (str(file_bytes // 512 + 1), str(memory_bytes // 1024))
    with contextlib.ExitStack() as files:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _LEADER, str(reads), *limits, *command],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=files.enter_context(writes.open("wb")) if writes else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    try:
        output, errors = _collect(process, patience, watch)
        code = process.wait(patience.left())
    except subprocess.TimeoutExpired:
        raise failed("The fetch took longer than it may.") from None
    finally:
        _end(process)
    if code != 0:
        raise CommandFailed(" ".join(errors.decode("utf-8", "replace").split())[-500:])
    return output


def _collect(process: "subprocess.Popen[bytes]", patience: Patience, watch: Callable[[], None]) -> tuple[bytes, bytes]:
    """Both outputs until the command has closed them."""
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as waiting:
        for pipe, collected in ((process.stdout, output), (process.stderr, errors)):
            if pipe is not None:
                waiting.register(pipe, selectors.EVENT_READ, collected)
        while waiting.get_map():
            for key, _ in waiting.select(min(_STEP, patience.left())):
                chunk = os.read(key.fd, 65536)
                if chunk:
                    key.data.extend(chunk)
                else:
                    waiting.unregister(key.fileobj)
            del errors[:-_MOST_ERRORS]
            if len(output) > _MOST_OUTPUT:
                raise failed("The source lists more than can be read.")
            watch()
    return bytes(output), bytes(errors)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Nothing of the group is left: a group is killed before its leader is reaped, so its number is still its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        _close(pipe)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
