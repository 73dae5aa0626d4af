"""The folders one session's tools may use.

The host's capability `session.working_dir` is the first; options add further ones, within what the host's
capability `host.file_limits` lets any session use (`{"readable": […], "writable": […]}`; a host without it sets
no limits). What may be written may be read.

Who may write a folder may put a link in its place. So a further folder counts where it was when the module was mounted,
and within the limits each time it is used; one that lies in a folder which may be written anyway is that folder's.
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
        self._places: dict[str, str] = {}  # by the path as it is written: where it was when it was first looked at

    @property
    def working_dir(self) -> Path:
        """The session's own folder; `Refused` where it has none."""
        folder = self._coordinator.get_capability("session.working_dir")
        if not folder:
            raise Refused("This session has no folder for files")
        return Path(folder)

    def readable(self) -> Sandbox:
        return self._sandbox(
            [*self._further(_all(self._write), "writable"), *self._further(_all(self._read), "readable")]
        )

    def writable(self) -> Sandbox:
        return self._sandbox(self._further(_all(self._write), "writable"))

    def further_read(self) -> list[Path]:
        """For programs, which are given folders by their path."""
        return [path for path in self._further(_all(self._read), "readable") if self._stays(path)]

    def further_write(self) -> list[Path]:
        """For programs, which are given folders by their path."""
        return [path for path in self._further(_all(self._write), "writable") if self._stays(path)]

    def _stays(self, path: Path) -> bool:
        """Whether no session can put a link in its place between now and its use: none may write what holds it."""
        writable = [Path(os.path.realpath(root)) for root in (self._limits() or {}).get("writable", ())]
        return all(path.parent == root or not path.is_relative_to(root) for root in writable)

    def _sandbox(self, further: list[Path]) -> Sandbox:
        if not self._coordinator.get_capability("session.working_dir"):
            return Sandbox([])
        own = os.path.realpath(self.working_dir)
        return Sandbox([own, *further], resolved=True)

    def _further(self, paths: Sequence[str], limit: str) -> list[Path]:
        if not paths:
            return []
        limits = self._limits()
        allowed = None if limits is None else Sandbox(limits[limit])
        return [Path(real) for path in paths if (real := self._place_of(path)) and _lies_in(allowed, real)]

    def _place_of(self, path: str) -> str | None:
        """Where a further folder is; None when it is another one's part, or is not where it was."""
        folder = self.working_dir
        named = Path(os.path.normpath(folder / path))
        writable = [Path(os.path.normpath(folder / other)) for other in _all(self._write)]
        if named.is_relative_to(os.path.normpath(folder)) or any(other in named.parents for other in writable):
            return None
        try:
            real = os.path.realpath(named)
        except OSError:  # it is being replaced at this moment
            return None
        return real if self._places.setdefault(path, real) == real else None

    def _limits(self) -> Mapping[str, list[str]] | None:
        return self._coordinator.get_capability("host.file_limits")

    def check_limits(self) -> None:
        """Refuse further folders that lie outside what the host lets any session use."""
        limits = self._limits()
        if self._coordinator.get_capability("session.working_dir"):
            for path in (*_all(self._write), *_all(self._read)):
                self._place_of(path)
        if limits is None:
            return
        for options, allowed in ((self._write, limits["writable"]), (self._read, limits["readable"])):
            for option, paths in options.items():
                if paths:
                    self._check(option, paths, Sandbox(allowed))

    def _check(self, option: str, paths: Sequence[str], allowed: Sandbox) -> None:
        folder = Path(self._coordinator.get_capability("session.working_dir") or "/")
        for path in paths:
            if not _lies_in(allowed, str(folder / path)):
                raise self._problem(option, f"names {path}, outside the folders this server allows")
            if (
                option in self._write
                and Path(os.path.realpath(folder / path)) in Path(os.path.realpath(folder)).parents
            ):
                raise self._problem(option, f"names {path}, which holds the session's own folder")

    def _problem(self, option: str, sentence: str) -> ConfigurationError:
        return ConfigurationError(f"{self._module}: option {option!r} {sentence}", provider=self._module)


def _lies_in(allowed: Sandbox | None, path: str) -> bool:
    try:
        return allowed is None or bool(allowed.locate(path))
    except FileRefused:
        return False


def _all(options: Mapping[str, Sequence[str]]) -> list[str]:
    return [path for paths in options.values() for path in paths]
