"""The server as its users run it: a process of its own, a fresh data folder, a free port of the loopback address."""

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 30
STOP_SECONDS = 30
EXPECTED = ('"level":"info"', "SQLite can damage", "a turn was left and is taken over")
TROUBLE_LINES = 20


@dataclass(frozen=True)
class Server:
    """A server that is ready. `ready_after` is seconds from the start of the process."""

    port: int
    pid: int
    ready_after: float
    data_dir: Path


@asynccontextmanager
async def serving(
    *, bytecode: Path | None = None, data_dir: Path | None = None, **settings: str
) -> AsyncGenerator[Server]:
    """A server with these settings (`live_sessions="2000"`), which is stopped at the end. Its log goes to a file.

    `bytecode` is where Python keeps what it compiled, so that a first start can be told from the later ones.
    `data_dir` is that of a server before it; without one it is new.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data_dir = data_dir or Path(folder) / "data"
        log = Path(folder) / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AMPLIFIER_")}
        environment |= {f"AMPLIFIER_{name.upper()}": value for name, value in settings.items()}
        if bytecode is not None:
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
        command = [sys.executable, "-m", "amplifier_app_api", "serve", "--port", "0", "--data", str(data_dir)]
        began = time.perf_counter()
        with log.open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=log_file
            )
        try:
            port = await asyncio.wait_for(_port_said(process), READY_SECONDS)
            yield Server(port, process.pid, time.perf_counter() - began, data_dir)
        finally:
            await _stop(process)
            _tell_of_trouble(log)


async def _port_said(process: asyncio.subprocess.Process) -> int:
    if process.stdout is None:
        raise LookupError("the server's output is a pipe")
    async for line in process.stdout:
        said = re.search(rb"ready on http://127\.0\.0\.1:(\d+)", line)
        if said:
            return int(said[1])
    raise SystemExit("the server did not start")  # why is in its log, which is shown


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        print("the server did not stop and was killed", file=sys.stderr)


def _tell_of_trouble(log: Path) -> None:
    """What the server complained about belongs beside the figures."""
    lines = [line for line in log.read_text().splitlines() if not any(mark in line for mark in EXPECTED)]
    for line in lines[:TROUBLE_LINES]:
        print(f"server: {line}", file=sys.stderr)
    if len(lines) > TROUBLE_LINES:
        print(f"server: and {len(lines) - TROUBLE_LINES} lines more", file=sys.stderr)
