"""The options of `tool-bash`, and what the host lets any session have of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.folders import READ_OPTION, WRITE_OPTION

MODULE_ID = "tool-bash"

Unsandboxed = Literal["refuse", "ask", "allow"]
_STRICTEST_FIRST: tuple[Unsandboxed, ...] = ("refuse", "ask", "allow")

LIMITS_CAPABILITY = "host.command_limits"
"""`{"unsandboxed": "refuse" | "ask" | "allow", "network": bool}`: the most that an option may ask for.

A host without it sets no limits.
"""


@dataclass(frozen=True, slots=True)
class BashOptions:
    """Times in seconds, sizes in bytes.

    `unsandboxed` is what happens where there is no sandbox; `network` is for commands inside one. `max_memory_bytes`
    bounds each process and all of a command together.
    """

    unsandboxed: Unsandboxed
    network: bool
    timeout: float
    max_timeout: float
    background_timeout: float
    approval_timeout: float
    max_output_bytes: int
    max_total_output_bytes: int
    max_concurrent: int
    max_jobs: int
    max_processes: int
    max_memory_bytes: int
    max_file_bytes: int
    max_cpu_seconds: int
    environment: Mapping[str, str]
    read_paths: list[str]
    write_paths: list[str]

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> BashOptions:
        options = Options(MODULE_ID, values)
        timeout = options.number("timeout", 30, minimum=1)
        return cls(
            unsandboxed=_unsandboxed(options),
            network=options.flag("network", False),
            timeout=timeout,
            max_timeout=max(timeout, options.number("max_timeout", 600, minimum=1)),
            background_timeout=options.number("background_timeout", 3600, minimum=1),
            approval_timeout=options.number("approval_timeout", 3600, minimum=1),
            max_output_bytes=options.integer("max_output_bytes", 50_000, minimum=100),
            max_total_output_bytes=options.integer("max_total_output_bytes", 64 * 2**20, minimum=100),
            max_concurrent=options.integer("max_concurrent", 8, minimum=1),
            max_jobs=options.integer("max_jobs", 8, minimum=1),
            max_processes=options.integer("max_processes", 256, minimum=8),
            max_memory_bytes=options.integer("max_memory_bytes", 4 * 2**30, minimum=2**20),
            max_file_bytes=options.integer("max_file_bytes", 2**30, minimum=1),
            max_cpu_seconds=options.integer("max_cpu_seconds", 3600, minimum=1),
            environment=_environment(options, values or {}),
            read_paths=options.texts(READ_OPTION),
            write_paths=options.texts(WRITE_OPTION),
        )

    def within(self, limits: Mapping[str, Any] | None) -> BashOptions:
        """The same, with no more than the host lets any session have."""
        if limits is None:
            return self
        most = limits.get("unsandboxed", "refuse")
        allowed = _STRICTEST_FIRST.index(most) if most in _STRICTEST_FIRST else 0
        return replace(
            self,
            unsandboxed=_STRICTEST_FIRST[min(allowed, _STRICTEST_FIRST.index(self.unsandboxed))],
            network=self.network and limits.get("network") is True,
        )


def _unsandboxed(options: Options) -> Unsandboxed:
    value = options.text("unsandboxed") or "refuse"
    if value not in _STRICTEST_FIRST:
        raise options.problem("unsandboxed", f"must be one of: {', '.join(_STRICTEST_FIRST)}")
    return value


def _environment(options: Options, values: Mapping[str, Any]) -> Mapping[str, str]:
    given = values.get("environment")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise options.problem("environment", "must be a mapping of names to texts")
    named = cast("Mapping[Any, Any]", given)
    for name, value in named.items():
        if not isinstance(name, str) or not name.isidentifier() or not isinstance(value, (str, int, float)):
            raise options.problem("environment", "must be a mapping of names to texts")
        if "\0" in str(value):
            raise options.problem("environment", "holds a NUL character")
    return {str(name): str(value) for name, value in named.items()}
