"""A program that speaks on its standard input and output for as long as a session lives.

It runs below the supervisor of commands (`supervisor.py`), in bubblewrap where there is one, and is ended with all
that came of it. The supervisor keeps its own standard input to know whether it is still wanted, so the program's
comes as a further descriptor, which a shell puts in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amplifier_app_api.modules.tools.bash_jobs import told
from amplifier_app_api.modules.tools.bash_options import LIMITS_CAPABILITY
from amplifier_app_api.modules.tools.bash_sandbox import BARE, Bubblewrap, Scratch, find_bubblewrap, setting
from amplifier_app_api.modules.tools.folders import SessionFolders
from amplifier_app_api.modules.tools.mcp_options import McpOptions, Program
from amplifier_app_api.modules.tools.processes import GIVEN_UP, SUPERVISOR, BoundedOutput, Ending
from amplifier_app_api.modules.tools.refusals import Refused

PROGRAMS_LIMIT = "mcp_programs"
"""The key of the host's capability `host.command_limits` that, when false, forbids servers that are programs."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEAVES = 0.5
"""Seconds that a program gets to end by itself once its input has."""
_FOREVER = 10 * 365 * 86_400.0
_CPU_SECONDS = 86_400
_FILE_BYTES = 2**30
_ERRORS = 4_000
_LAST_LINE = 300
_CHUNK = 65_536
_INPUT = 9  # the largest that every shell takes
_LOWERED = (
    "import os, sys; given, kept = map(int, sys.argv[1:3]); os.dup2(given, kept); "
    "given == kept or os.close(given); os.execv(sys.executable, [sys.executable, *sys.argv[3:]])"
)
"""The program that puts a descriptor where shells can name it, and becomes another one."""
_WITH_INPUT = f'exec "$@" <&{_INPUT} {_INPUT}<&-'


class ProgramSandbox:
    """How the programs of one session are started."""

    def __init__(self, coordinator: Any, folders: SessionFolders, options: McpOptions) -> None:
        self._coordinator = coordinator
        self._folders = folders
        self._options = options
        self._running: set[RunningProgram] = set()

    async def close(self) -> None:
        """End what may still run, because somebody gave up waiting for its end."""
        await asyncio.gather(*(program.stop() for program in list(self._running)), return_exceptions=True)

    async def start(self, program: Program) -> RunningProgram:
        """`Refused` when it may not run, or cannot be run as it should."""
        limits: Mapping[str, Any] | None = self._coordinator.get_capability(LIMITS_CAPABILITY)
        if os.name != "posix" or (limits is not None and limits.get(PROGRAMS_LIMIT) is False):
            raise Refused("this server does not start programs for sessions")
        found = await asyncio.to_thread(find_bubblewrap)
        if isinstance(found, str) and not self._may_go_without(limits):
            raise Refused(f"there is no sandbox to run it in: {found}")
        folder = self._folders.working_dir
        scratch = await asyncio.to_thread(_make_scratch, folder)
        try:
            running = await self._start(program, found, folder, scratch, limits)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, scratch.folder, ignore_errors=True))
            raise
        self._running.add(running)
        running.when_ended(lambda: self._running.discard(running))
        return running

    def _may_go_without(self, limits: Mapping[str, Any] | None) -> bool:
        allowed = limits is None or limits.get("unsandboxed") == "allow"
        return allowed and self._options.unsandboxed == "allow"

    async def _start(
        self,
        program: Program,
        found: Bubblewrap | str,
        folder: Path,
        scratch: Scratch,
        limits: Mapping[str, Any] | None,
    ) -> RunningProgram:
        ours, theirs = os.pipe()  # the program reads `ours`; we write `theirs`
        try:
            command = ["/bin/sh", "-c", _WITH_INPUT, "sh", program.command, *program.arguments]
            environment, arguments = _environment(folder, str(scratch.tmp), program), list[str]()
            if isinstance(found, Bubblewrap):
                command = found.around(
                    command,
                    folder=folder,
                    scratch=scratch,
                    read=self._folders.further_read(),
                    write=self._folders.further_write(),
                    network=program.network and (limits is None or limits.get("network") is True),
                )
                environment, arguments = BARE, setting(_environment(folder, "/tmp", program))  # the sandbox's own /tmp
            orders = {
                "command": command,
                "arguments": arguments,
                "environment": environment,
                "folder": str(folder),
                "seconds": _FOREVER,
                "cpu_seconds": _CPU_SECONDS,
                "memory": self._options.max_memory_bytes,
                "file": _FILE_BYTES,
                "processes": self._options.max_processes,
            }
            return await RunningProgram.start(orders, ours, theirs, scratch, self._options.max_message_bytes)
        except BaseException:
            os.close(theirs)
            raise
        finally:
            os.close(ours)


class RunningProgram:
    """A program that runs. Whoever starts it ends it with `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, report: int, scratch: Scratch) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._report = report
        self._scratch = scratch
        self._input: asyncio.StreamWriter | None = None
        self._tell: Callable[[], None] = lambda: None
        self._stopping: asyncio.Task[str] | None = None
        self._errors = BoundedOutput(_ERRORS)
        self._listening = asyncio.create_task(self._collect(process.stderr), name="mcp program's errors")
        self.output = process.stdout

    @classmethod
    async def start(
        cls, orders: Mapping[str, Any], ours: int, theirs: int, scratch: Scratch, most: int
    ) -> RunningProgram:
        """`most` bounds a line of its output. `theirs` belongs to the program from here on, unless this raises."""
        report, written = _pipe_besides(_INPUT)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LOWERED, str(ours), str(_INPUT)),
                *("-I", "-S", str(SUPERVISOR), str(written)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.defpath},
                pass_fds=(written, ours),
                start_new_session=True,
                limit=most,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(written)
        program = cls(process, report, scratch)
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        try:
            program._input = await _writer(os.dup(theirs))
        except BaseException:
            await program.stop()
            raise
        os.close(theirs)
        return program

    async def write(self, message: bytes) -> None:
        """Hand a message over; `ConnectionError` when the program takes none any more."""
        if self._input is None:
            raise ConnectionResetError
        self._input.write(message)
        await self._input.drain()

    async def stop(self, *users: asyncio.Task[Any]) -> str:
        """End it with all that came of it, and first the tasks that use it; what is known about its end.

        It is ended even if the wait is given up.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(users), name="ending an mcp program")
        return await asyncio.shield(self._stopping)

    def when_ended(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    async def _stop(self, users: Sequence[asyncio.Task[Any]]) -> str:
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
        if self._input is not None:
            self._input.close()
        drain = asyncio.create_task(_drained(self.output), name="mcp program's last words")
        try:
            if not await self._ended_within(LEAVES):
                self._let_go()
                if not await self._ended_within(GIVEN_UP):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            await self._listening
            return self._told()
        finally:
            self._let_go()
            os.close(self._report)
            drain.cancel()
            self._listening.cancel()
            await asyncio.gather(drain, self._listening, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, self._scratch.folder, ignore_errors=True)
            self._tell()

    def _let_go(self) -> None:
        """Close what the supervisor reads: it ends the program, and then itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _told(self) -> str:
        """How it ended, and the last line it wrote to its errors."""
        report = os.read(self._report, 4096)
        ending = Ending(**json.loads(report)) if report else None
        line = self._errors.text().strip().rpartition("\n")[2][-_LAST_LINE:]
        how = told(ending) if ending is not None and ending.ended_by != "stopped" else ""
        return ": ".join(part for part in (how, line) if part)

    async def _ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(_CHUNK):
            self._errors.add(chunk)


async def _drained(stream: asyncio.StreamReader) -> None:
    """What a program still says when nobody listens; it must not wait for us."""
    while await stream.read(_CHUNK):
        pass


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _pipe_besides(number: int) -> tuple[int, int]:
    """A pipe whose end for writing is not called `number`."""
    report, written = os.pipe()
    if written != number:
        return report, written
    other = os.dup(written)
    os.close(written)
    return report, other


def _make_scratch(folder: Path) -> Scratch:
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Scratch(Path(tempfile.mkdtemp(prefix="amplifier-mcp-")))
    scratch.make()
    return scratch


def _environment(folder: Path, temporary: str, program: Program) -> dict[str, str]:
    return {
        "PATH": PATH,
        "HOME": str(folder),
        "TMPDIR": temporary,
        "USER": "user",
        "LANG": "C.UTF-8",
        **program.environment,
    }
