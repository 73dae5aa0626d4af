"""`hooks-logging`: what happened in a session, as one JSON object for each event and line.

The file is `<session id>.jsonl` in the folder that the host offers as the capability `host.log_dir`; a host that
offers none gets it as `.amplifier/logs/` in the session's own folder, where the session's tools can reach it. Full,
it becomes `<session id>.1.jsonl` and so on; the oldest goes. Lines are written at the end of each turn, and when many
have gathered.

A line is `{"at", "event", "session_id", "data"}`. Payloads of requests as vendors have them (`raw`) are left out,
members whose name says that they are secret are masked, and with `hooks-redaction` in the session everything is
redacted. Long texts are cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from amplifier_app_api.modules.hooks.redaction_secrets import names_secret
from amplifier_app_api.modules.hooks.registrations import (
    CONTINUE,
    KNOWN_EVENTS,
    STREAM_EVENTS,
    Registrations,
    masked_value,
    show,
)
from amplifier_app_api.modules.kernel import (
    CANCEL_COMPLETED,
    EXECUTION_END,
    ORCHESTRATOR_COMPLETE,
    STREAM_ABORTED,
    STREAM_BLOCK_DELTA,
    STREAM_BLOCK_END,
    STREAM_BLOCK_START,
    HookResult,
)
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-logging"
LOG_CAPABILITY = "host.log_dir"
OBSERVABLE = "observability.events"

_OWN_FOLDER = Path(".amplifier", "logs")
_FLUSH_BYTES = 64 * 1024
_MOST_WAITING = 1024 * 1024
_FLUSHED_AT = frozenset({ORCHESTRATOR_COMPLETE, EXECUTION_END, CANCEL_COMPLETED})
_NOT_LOGGED = STREAM_EVENTS | {STREAM_BLOCK_START, STREAM_BLOCK_DELTA, STREAM_BLOCK_END, STREAM_ABORTED}
_DEPTH = 16

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Sizes in bytes, `max_text` in characters."""

    max_file_bytes: int
    max_files: int
    max_text: int
    strip_raw: bool


class LogFile:
    """Appends to a file below `root`, following no link on the way, and bounds it. Functions block."""

    def __init__(self, root: Path, below: Path, session_id: str, options: LogOptions) -> None:
        self._root = root
        self._below = below
        self._stem = re.sub(r"[^A-Za-z0-9._-]", "_", session_id)[:150].lstrip(".") or "session"
        self._options = options

    def append(self, lines: bytes) -> None:
        folder = self._open_folder()
        try:
            self._append(lines, folder)
        finally:
            os.close(folder)

    def _append(self, lines: bytes, folder: int) -> None:
        if self._is_full(len(lines), folder):
            self._turn_over(folder)
        file = os.open(self._name(0), _APPEND, 0o600, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise FileExistsError("what is called like the log is no file")
            while lines:
                lines = lines[os.write(file, lines) :]
        finally:
            os.close(file)

    def _is_full(self, more: int, folder: int) -> bool:
        try:
            size = os.stat(self._name(0), dir_fd=folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return False
        return bool(size) and size + more > self._options.max_file_bytes

    def _turn_over(self, folder: int) -> None:
        for number in range(self._options.max_files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._name(number - 1), self._name(number), src_dir_fd=folder, dst_dir_fd=folder)
        if self._options.max_files == 1:
            os.unlink(self._name(0), dir_fd=folder)

    def _name(self, number: int) -> str:
        return f"{self._stem}.{number}.jsonl" if number else f"{self._stem}.jsonl"

    def _open_folder(self) -> int:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(self._root.resolve(), _FOLDER)
        for part in self._below.parts:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=folder)
                deeper = os.open(part, _FOLDER, dir_fd=folder)
            finally:
                os.close(folder)
            folder = deeper
        return folder


class SessionLog:
    def __init__(self, coordinator: Any, options: LogOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._writing = asyncio.Lock()
        self._said = False

    async def on_event(self, event: str, data: dict[str, Any]) -> HookResult:
        try:
            self._keep(event, data)
            if self._size >= _FLUSH_BYTES or (self._waiting and event in _FLUSHED_AT):
                await self._flush()
        except Exception:  # a log that cannot be written stops nobody
            logger.exception("an event could not be logged", extra={"event": event})
        return CONTINUE

    def _keep(self, event: str, data: Mapping[str, Any]) -> None:
        if self._size >= _MOST_WAITING:
            self._dropped += 1
            return
        line = {
            "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "event": event,
            "session_id": self._coordinator.session_id,
            "data": self._shown(masked_value(self._coordinator, data), _DEPTH),
        }
        if self._dropped:
            line["dropped_before"] = self._dropped
            self._dropped = 0
        written = json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
        self._waiting.append(written)
        self._size += len(written)

    def _shown(self, value: Any, depth: int) -> Any:
        most = self._options.max_text
        if isinstance(value, str):
            return value if len(value) <= most else f"{value[:most]} [… {len(value) - most:,} more characters]"
        if isinstance(value, dict):
            if not depth:
                return "[…]"
            items = cast("dict[str, Any]", value).items()
            kept = [(key, item) for key, item in items if not (self._options.strip_raw and key == "raw")]
            return {key: self._member(key, item, depth) for key, item in kept}
        if isinstance(value, list):
            return "[…]" if not depth else [self._shown(item, depth - 1) for item in cast("list[Any]", value)]
        return value

    def _member(self, key: str, value: Any, depth: int) -> Any:
        return "***" if isinstance(value, str) and value and names_secret(key) else self._shown(value, depth - 1)

    async def _flush(self) -> None:
        async with self._writing:
            lines = self._take()
            if not lines:
                return
            try:
                await asyncio.to_thread(self._file().append, lines)
            except OSError as problem:
                await self._failed(problem)

    def flush_now(self) -> None:
        lines = self._take()
        if lines:
            with contextlib.suppress(OSError):
                self._file().append(lines)

    def _take(self) -> bytes:
        lines, self._waiting, self._size = b"".join(self._waiting), [], 0
        return lines

    def _file(self) -> LogFile:
        offered = self._coordinator.get_capability(LOG_CAPABILITY)
        own = self._coordinator.get_capability("session.working_dir")
        if not offered and not own:
            raise FileNotFoundError("the host offers no folder for logs, and the session has none")
        root, below = (Path(offered), Path()) if offered else (Path(own), _OWN_FOLDER)
        return LogFile(root, below, str(self._coordinator.session_id), self._options)

    async def _failed(self, problem: OSError) -> None:
        logger.warning("the log of a session cannot be written", extra={"problem": problem.strerror or str(problem)})
        if not self._said:
            self._said = True
            await show(self._coordinator, "warning", "The log of this session cannot be written", MODULE_ID)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    options = Options(MODULE_ID, config)
    session_log = SessionLog(
        coordinator,
        LogOptions(
            max_file_bytes=options.integer("max_file_bytes", 16 * 2**20, minimum=4096),
            max_files=options.integer("max_files", 4, minimum=1),
            max_text=options.integer("max_text", 20_000, minimum=100),
            strip_raw=options.flag("strip_raw", True),
        ),
    )
    if options.has("session_log_template"):
        told = "session_log_template is not used: logs are kept where the server keeps them"
        await show(coordinator, "warning", told, MODULE_ID)
    handlers = Registrations(coordinator, MODULE_ID, options.integer("priority", 100))
    events = options.texts("events") if options.has("events") else [*KNOWN_EVENTS]
    events += options.texts("additional_events")
    if options.flag("auto_discover", True):
        events += await _announced(coordinator)
    handlers.on_all([event for event in dict.fromkeys(events) if event not in _NOT_LOGGED], session_log.on_event)

    def close() -> None:
        handlers.close()
        session_log.flush_now()

    return close


async def _announced(coordinator: Any) -> list[str]:
    """The events that other modules say they tell."""
    announced = await coordinator.collect_contributions(OBSERVABLE)
    lists = [cast("list[Any]", names) for names in announced if isinstance(names, list)]
    return [name for names in lists for name in names if isinstance(name, str)]
