"""`tool-bash`: commands in the session's folder.

They run in bubblewrap (`bash_sandbox.py`), below a supervisor that limits and ends them (`supervisor.py`). Where
there is no bubblewrap the option `unsandboxed` decides: `refuse` (so it is unless told otherwise), `ask`, which puts
each command before the host's approval system, or `allow`. Nothing of the server's own environment reaches a command.

Whatever a command leaves running ends with it. Jobs in the background go on until they end, are stopped, take too
long, or the session is closed.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from amplifier_core.approval import ApprovalTimeoutError  # pyright: ignore[reportMissingTypeStubs]

from amplifier_app_api.modules.kernel import ConfigurationError, ToolResult
from amplifier_app_api.modules.tools.bash_jobs import Jobs, told
from amplifier_app_api.modules.tools.bash_options import LIMITS_CAPABILITY, MODULE_ID, BashOptions
from amplifier_app_api.modules.tools.bash_sandbox import BARE, Bubblewrap, Scratch, find_bubblewrap, setting
from amplifier_app_api.modules.tools.folders import READ_OPTION, WRITE_OPTION, SessionFolders
from amplifier_app_api.modules.tools.processes import Command, CommandLimits, Ending
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

MAX_COMMAND_BYTES = 100_000  # the system takes 128 KiB as one argument
_SHOWN_IN_QUESTION = 2_000
_SHOWN_IN_LIST = 200

# What runs in the sandbox: the number of processes is limited from in there, where only its own ones count.
_LIMITED = 'ulimit -u "$1" 2>/dev/null; exec "$0" -c "$2"'


class Shell:
    """Runs the commands of one session."""

    def __init__(self, coordinator: Any, options: BashOptions) -> None:
        self._coordinator = coordinator
        self.options = options
        self.folders = SessionFolders(
            coordinator,
            MODULE_ID,
            read={READ_OPTION: options.read_paths},
            write={WRITE_OPTION: options.write_paths},
        )
        self.jobs = Jobs(options.max_jobs)
        self._turns = asyncio.Semaphore(options.max_concurrent)
        self._running: set[Command] = set()
        self._scratch: Scratch | None = None
        self._preparing = asyncio.Lock()
        self._starting_job = asyncio.Lock()
        self._closed = False

    async def run(self, line: str, seconds: float) -> tuple[Command, Ending]:
        """Run a command to its end. Cancelled, it ends the command first."""
        async with self._turns:
            command = await self._start(line, seconds)
            self._running.add(command)
            try:
                return command, await command.wait()
            finally:
                await command.stop()
                self._running.discard(command)

    async def start_job(self, line: str) -> str:
        async with self._starting_job:
            self.jobs.check_room()
            command = await self._start(line, self.options.background_timeout)
            return self.jobs.add(line, command).id

    async def close(self) -> None:
        """End everything and remove what was temporary. What is just being started ends itself."""
        self._closed = True
        await asyncio.gather(
            self.jobs.stop_all(), *(command.stop() for command in list(self._running)), return_exceptions=True
        )
        if self._scratch is not None:
            await asyncio.to_thread(shutil.rmtree, self._scratch.folder, ignore_errors=True)
            self._scratch = None

    async def _start(self, line: str, seconds: float) -> Command:
        options = self.options.within(self._coordinator.get_capability(LIMITS_CAPABILITY))
        folder = self.folders.working_dir
        found = await asyncio.to_thread(find_bubblewrap)
        if isinstance(found, str):
            await self._permit(line, found, options)
        scratch = await self._make_scratch(folder)
        shell = _shell()
        if isinstance(found, Bubblewrap):
            command = found.around(
                [shell, "-c", _LIMITED, shell, str(options.max_processes), line],
                folder=folder,
                scratch=scratch,
                read=self.folders.further_read(),
                write=self.folders.further_write(),
                network=options.network,
            )
            environment, arguments = BARE, setting(_environment("/tmp", options))  # the sandbox's own /tmp
        else:
            command, arguments = [shell, "-c", line], list[str]()
            environment = _environment(str(scratch.tmp), options)
        started = await Command.start(
            command, environment=environment, folder=folder, limits=_limits(seconds, options), arguments=arguments
        )
        if self._closed:
            await started.stop()
            raise Refused("The session is closed")
        return started

    async def _permit(self, line: str, problem: str, options: BashOptions) -> None:
        """Return when the command may run without a sandbox; else `Refused`."""
        if options.unsandboxed == "allow":
            return
        system = self._coordinator.approval_system if options.unsandboxed == "ask" else None
        if system is None:
            raise Refused(f"Commands are not run here: there is no sandbox for them ({problem})")
        shown = line if len(line) <= _SHOWN_IN_QUESTION else f"{line[:_SHOWN_IN_QUESTION]} […]"
        prompt = f"Run this command without a sandbox ({problem})?\n{shown}"
        try:
            answer = system.request_approval(prompt, ["allow", "deny"], options.approval_timeout, "deny")
            if inspect.isawaitable(answer):
                answer = await answer
        except ApprovalTimeoutError:
            raise Refused("Nobody allowed the command in time") from None
        if str(answer).strip().lower() not in ("allow", "allow once", "allow always"):
            raise Refused("The command was not allowed")

    async def _make_scratch(self, folder: Path) -> Scratch:
        async with self._preparing:
            if self._scratch is None:

                def make() -> Scratch:
                    folder.mkdir(parents=True, exist_ok=True)
                    scratch = Scratch(Path(tempfile.mkdtemp(prefix="amplifier-bash-")))
                    scratch.make()
                    return scratch

                self._scratch = await asyncio.to_thread(make)
            return self._scratch


def _shell() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def _environment(temporary: str, options: BashOptions) -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": temporary,
        "TMPDIR": temporary,
        "USER": "user",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        **options.environment,
    }


def _limits(seconds: float, options: BashOptions) -> CommandLimits:
    return CommandLimits(
        seconds=seconds,
        cpu_seconds=options.max_cpu_seconds,
        memory=options.max_memory_bytes,
        file=options.max_file_bytes,
        processes=options.max_processes,
        output=options.max_output_bytes,
        said=options.max_total_output_bytes,
    )


class Bash(Tool):
    name = "bash"
    description = (
        "Run a command with bash in the session's folder. Commands run in a sandbox without network (unless it was "
        "allowed): they see the system's programs and the session's folder; /tmp is kept between commands. Each has "
        "a time limit, and whatever it leaves running ends with it. For servers and long work set run_in_background "
        "and use bash_jobs. Long output is cut in the middle."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "command": {"type": "string", "description": "What to run"},
            "timeout": {"type": "number", "description": "After how many seconds to give up"},
            "run_in_background": {"type": "boolean", "description": "Start it as a job and answer at once"},
        },
        "required": ["command"],
    }
    read_only = False
    idempotent = False

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def _run(self, given: Arguments) -> ToolResult:
        line = _line(given)
        if given.flag("run_in_background"):
            job = await self._shell.start_job(line)
            return ToolResult(output={"job_id": job, "state": "running"})
        options = self._shell.options
        seconds = given.seconds("timeout", most=options.max_timeout) or options.timeout
        command, ending = await self._shell.run(line, seconds)
        return _result(command, ending)


class BashJobs(Tool):
    name = "bash_jobs"
    description = "Jobs that bash started in the background: list them, read what one has said so far, or stop one."
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["list", "read", "stop"]},
            "job_id": {"type": "string", "description": "Which job to read or stop"},
        },
        "required": ["action"],
    }
    read_only = False
    idempotent = True

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def _run(self, given: Arguments) -> Any:
        action = given.choice("action", ("list", "read", "stop"))
        if action == "list":
            return [
                {"job_id": job.id, "command": job.line[:_SHOWN_IN_LIST], "state": job.state()}
                for job in self._jobs.all()
            ]
        job = self._jobs.named(given.text("job_id"))
        if action == "stop":
            await job.command.stop()
        return {
            "job_id": job.id,
            "state": job.state(),
            "stdout": job.command.output.text(),
            "stderr": job.command.errors.text(),
        }


def _line(given: Arguments) -> str:
    line = given.text("command")
    try:
        size = len(line.encode())
    except UnicodeEncodeError:
        raise Refused("The command is no text: it holds half a character") from None
    if not line.strip() or "\0" in line:
        raise Refused("The command is empty or holds a NUL character")
    if size > MAX_COMMAND_BYTES:
        raise Refused(f"A command has at most {MAX_COMMAND_BYTES:,} bytes; write a file and run that")
    return line


def _result(command: Command, ending: Ending) -> ToolResult:
    output: dict[str, Any] = {
        "stdout": command.output.text(),
        "stderr": command.errors.text(),
        "returncode": ending.code if ending.signal is None else 128 + ending.signal,
    }
    if ending.ended_by is None and ending.code == 0:
        return ToolResult(output=output)
    output["state"] = told(ending)
    return ToolResult(success=False, output=output, error={"message": f"The command {output['state']}"})


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    if os.name != "posix":
        raise ConfigurationError(f"{MODULE_ID} needs a system with process groups", provider=MODULE_ID)
    shell = Shell(coordinator, BashOptions.read(config))
    shell.folders.check_limits()
    for tool in (Bash(shell), BashJobs(shell.jobs)):
        await coordinator.mount("tools", tool, name=tool.name)
    return shell.close
