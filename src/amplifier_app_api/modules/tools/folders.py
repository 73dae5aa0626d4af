"""The folders one session's tools may use.

The host's capability `session.working_dir` is the first; options add further ones, within what the host's
capability `host.file_limits` lets any session use (`{"readable": […], "writable": […]}`; a host without it sets
no limits). What may be written may be read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.sandbox import FileRefused, Sandbox

READ_OPTION = "allowed_read_paths"
WRITE_OPTION = "allowed_write_paths"


class SessionFolders:
    """Further folders are relative to the session's, or absolute."""

    def __init__(
        self, coordinator: Any, module: str, *, read: Mapping[str, Sequence[str]], write: Mapping[str, Sequence[str]]
    ) -> None:
        """`read` and `write` are the further folders, by the option that names them."""
        self._coordinator = coordinator
        self._module = module
        self._read = read
        self._write = write

    @property
    def working_dir(self) -> Path:
        """The session's own folder; `Refused` where it has none."""
        folder = self._coordinator.get_capability("session.working_dir")
        if not folder:
            raise Refused("This session has no folder for files")
        return Path(folder)

    def readable(self) -> Sandbox:
        return self._sandbox([*_all(self._write), *_all(self._read)])

    def writable(self) -> Sandbox:
        return self._sandbox(_all(self._write))

    def further_read(self) -> list[Path]:
        return [Path(os.path.realpath(self.working_dir / path)) for path in _all(self._read)]

    def further_write(self) -> list[Path]:
        return [Path(os.path.realpath(self.working_dir / path)) for path in _all(self._write)]

    def _sandbox(self, further: list[str]) -> Sandbox:
        folder = self._coordinator.get_capability("session.working_dir")
        return Sandbox([folder, *(Path(folder) / path for path in further)] if folder else [])

    def check_limits(self) -> None:
        """Refuse further folders that lie outside what the host lets any session use."""
        limits: Mapping[str, list[str]] | None = self._coordinator.get_capability("host.file_limits")
        if limits is None:
            return
        for options, allowed in ((self._write, limits["writable"]), (self._read, limits["readable"])):
            for option, paths in options.items():
                if paths:
                    self._check(option, paths, Sandbox(allowed))

    def _check(self, option: str, paths: Sequence[str], allowed: Sandbox) -> None:
        folder = Path(self._coordinator.get_capability("session.working_dir") or "/")
        for path in paths:
            try:
                allowed.locate(str(folder / path))
            except FileRefused:
                problem = f"{self._module}: option {option!r} names {path}, outside the folders this server allows"
                raise ConfigurationError(problem, provider=self._module) from None


def _all(options: Mapping[str, Sequence[str]]) -> list[str]:
    return [path for paths in options.values() for path in paths]
