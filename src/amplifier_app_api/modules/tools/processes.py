"""Running other programs: each with an owner, a bound on what it may say, and an end.

A `Command` runs below a supervisor (`supervisor.py`), which ends everything that came of it. `answer_of` is for
helpers of our own that read one thing and write one thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amplifier_app_api.modules.tools.refusals import Refused

SUPERVISOR = Path(__file__).with_name("supervisor.py")
LATE = 5.0
"""Seconds that a supervisor gets to end a command whose time is up before it is ended itself."""
GIVEN_UP = 2.0
"""Seconds that a supervisor gets to end a command that nobody wants any more."""
_CHUNK = 65_536
_ENVIRONMENT = {"PATH": os.defpath}


class BoundedOutput:
    """The beginning and the end of what a program says; what lies between is counted and dropped."""

    def __init__(self, most: int) -> None:
        self._most_head = most // 2
        self._most_tail = most - self._most_head
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._in_tail = 0
        self.total = 0

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        free = self._most_head - len(self._head)
        self._head += chunk[:free]
        rest = chunk[free:] if free > 0 else chunk
        if not rest:
            return
        self._tail.append(rest)
        self._in_tail += len(rest)
        while self._in_tail - len(self._tail[0]) >= self._most_tail:
            self._in_tail -= len(self._tail.popleft())

    def text(self) -> str:
        """What was kept, with a note where something is missing."""
        tail = b"".join(self._tail)[-self._most_tail :]
        dropped = self.total - len(self._head) - len(tail)
        if not dropped:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        head = bytes(self._head).decode("utf-8", "replace")
        return f"{head}\n[{dropped:,} bytes left out]\n{tail.decode('utf-8', 'replace')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """Sizes in bytes, times in seconds. `output` is what is kept of each stream, `said` ends the command."""

    seconds: float
    cpu_seconds: int
    memory: int
    file: int
    processes: int
    output: int
    said: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended: its exit code or the signal that killed it, and why we ended it when we did.

    `ended_by`: `stopped`, `time`, `processes`, `memory` or `output`.
    """

    code: int | None
    signal: int | None
    ended_by: str | None


class Command:
    """A command that runs. Whoever starts it sees to it that it is waited for or stopped."""

    def __init__(self, process: asyncio.subprocess.Process, report: int, limits: CommandLimits) -> None:
        self._process = process
        self._report = report
        self._limits = limits
        self._too_much = False
        self.output = BoundedOutput(limits.output)
        self.errors = BoundedOutput(limits.output)
        self._running = asyncio.create_task(self._run(), name="command")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        limits: CommandLimits,
        arguments: Sequence[str] = (),
    ) -> Command:
        """`arguments` are further ones that no list of processes shows (`supervisor.Orders`)."""
        orders = {
            "command": list(command),
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
            "seconds": limits.seconds,
            "cpu_seconds": limits.cpu_seconds,
            "memory": limits.memory,
            "file": limits.file,
            "processes": limits.processes,
        }
        report, written = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(SUPERVISOR), str(written)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_ENVIRONMENT,
                pass_fds=(written,),
                start_new_session=True,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(written)
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        return cls(process, report, limits)

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it runs."""
        return self._running.result() if self._running.done() else None

    async def wait(self) -> Ending:
        """Wait for its end. Giving up the wait does not end the command."""
        return await asyncio.shield(self._running)

    async def stop(self) -> Ending:
        """End it and everything that came of it, and wait until that is done."""
        self._let_go()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVEN_UP):
                return await asyncio.shield(self._running)
        self._kill()
        return await asyncio.shield(self._running)

    async def _run(self) -> Ending:
        assert self._process.stdout is not None and self._process.stderr is not None
        try:
            async with asyncio.timeout(self._limits.seconds + LATE):
                await asyncio.gather(
                    self._collect(self._process.stdout, self.output), self._collect(self._process.stderr, self.errors)
                )
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        finally:
            self._let_go()
            told = os.read(self._report, 4096) if self._process.returncode is not None else b""
            os.close(self._report)
        ending = Ending(**json.loads(told)) if told else Ending(None, signal.SIGKILL, "stopped")
        return replace(ending, ended_by="output") if self._too_much else ending

    async def _collect(self, stream: asyncio.StreamReader, output: BoundedOutput) -> None:
        while chunk := await stream.read(_CHUNK):
            output.add(chunk)
            if self.output.total + self.errors.total > self._limits.said and not self._too_much:
                self._too_much = True
                self._let_go()

    def _let_go(self) -> None:
        """Close what the supervisor reads: it ends the command, and then itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _kill(self) -> None:
        """End the supervisor; the command goes with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def answer_of(
    command: Sequence[str], said: bytes, *, seconds: float, most: int, environment: Mapping[str, str] = _ENVIRONMENT
) -> bytes:
    """What a helper writes when it is given `said`; `Refused` when it takes too long or fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            process.stdin.write(said)
            process.stdin.close()
            answer = await _read(process.stdout, most)
            code = await process.wait()
    except TimeoutError:
        raise Refused(f"It took longer than {seconds:g} seconds and was given up") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
    if code:
        raise Refused("It failed, or needed more memory or time than it may have")
    return answer


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    answer = bytearray()
    while chunk := await stream.read(_CHUNK):
        answer += chunk
        if len(answer) > most:
            raise Refused("It found more than can be told")
    return bytes(answer)
