"""The knobs of a process, from `AMPLIFIER_*` variables.

`Settings(data_dir=…)` takes real types (`timedelta`, `Path`, numbers) and reads the environment for what it is
not given; `load_settings` is the entry for processes: it turns a wrong value into one sentence that names the
variable. `unknown_variables` finds what looks like a setting and is none. No file is read.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from amplifier_app_api.errors import AppError

PREFIX = "AMPLIFIER_"
NOT_OURS = ("AMPLIFIER_TEST_", "AMPLIFIER_VECTORS", "AMPLIFIER_HOME")
PROVIDER_KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY")

DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
SWITCHES = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
LONGEST = timedelta(days=3650)
BOUNDS = {
    "tokens": r"\d{1,15}",
    "cost_usd": r"\d{1,6}(\.\d{1,9})?",
    "seconds": r"\d{1,9}(\.\d{1,6})?",
    "tool_calls": r"\d{1,9}",
    "iterations": r"\d{1,9}",
}
"""What a budget may bound, and how each bound is written."""


class InvalidSettings(AppError):
    """A setting has a value that the service cannot run with. The sentence names the variable."""

    code = "invalid_settings"
    title = "The settings are not valid"


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)(|ms|s|m|h|d)", value.strip())
    if match is None:
        raise ValueError("must be a number of seconds, or a number with ms, s, m, h or d")
    return timedelta(seconds=min(float(match[1]) * DURATION_UNITS[match[2]], LONGEST.total_seconds() + 1))


def _within_reason(value: timedelta) -> timedelta:
    if not timedelta(0) <= value <= LONGEST:
        raise ValueError("must be between 0 and 3650d")
    return value


def _some_time(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0")
    return value


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,15})(|kib|mib|gib)", value.strip().lower())
    if match is None:
        raise ValueError("must be a number of bytes, or a number with KiB, MiB or GiB")
    return int(match[1]) * SIZE_UNITS[match[2]]


def _switch(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return SWITCHES[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false, on or off, 1 or 0") from None


def _comma_list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _folders(value: Any) -> Any:
    if isinstance(value, str):
        value = tuple(part for part in value.split(os.pathsep) if part)
    return tuple(Path(part).expanduser().absolute() for part in value)


def _allowed_variable(entry: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(@[A-Za-z0-9.:\[\]-]+)?", entry):
        raise ValueError("must list entries NAME or NAME@host")
    return entry


def _source_pattern(entry: str) -> str:
    # Only the shape: what makes sense beyond it is known where sources are fetched.
    scheme, slashes, place = entry.rpartition("://")
    known = not slashes or re.fullmatch(r"(git\+|zip\+)(https?|file)|https?", scheme)
    if not known or not re.fullmatch(r"[^\s?#\\]+", place) or "@" in place.partition("/")[0]:
        raise ValueError("must list patterns such as git+https://github.com/my-org/* or example.com/bundles/*")
    return entry


def _origin(entry: str) -> str:
    if entry == "*":
        return entry
    parts = urlsplit(entry)
    if parts.scheme not in ("http", "https") or not parts.netloc or entry != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("must list origins such as https://app.example.com, or *")
    return entry.lower()


def _database_address(value: str) -> str:
    if not re.match(r"sqlite(\+aiosqlite)?:///.|postgres(ql(\+asyncpg)?)?://", value):
        raise ValueError("must be sqlite:///path or postgresql://…")
    return value


Grace = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_within_reason)]


def _for_ever(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("", "for ever", "forever") else value


def _bounds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found: dict[str, Decimal] = {}
    for part in value.split(","):
        name, _, number = part.strip().partition("=")
        if not part.strip():
            continue
        pattern = BOUNDS.get(name)
        if pattern is None:
            raise ValueError(f"must list bounds of {', '.join(BOUNDS)}")
        if name in found or not re.fullmatch(pattern, number):
            raise ValueError(f"must say {name} once, as a number above 0")
        found[name] = Decimal(number)
    if any(name != "tool_calls" and not number for name, number in found.items()):
        raise ValueError("must have bounds above 0; only tool_calls may be 0")
    return tuple(found.items())


Duration = Annotated[Grace, AfterValidator(_some_time)]
Bounds = Annotated[tuple[tuple[str, Decimal], ...], NoDecode, BeforeValidator(_bounds)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0, le=2**40)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Level = Annotated[int, Field(ge=0, le=32)]


class Settings(BaseSettings):
    """Every knob of this process. `docs/reference/settings.md` tells what each one does."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False
    )

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default_factory=lambda: Path(".amplifier-api").absolute()
    )
    database_url: Annotated[str, AfterValidator(_database_address)] | None = Field(default=None, repr=False)

    source_roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_folders)] = ()
    source_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_source_pattern)], ...], NoDecode, BeforeValidator(_comma_list)
    ] = ()
    private_addresses: Switch = False
    source_cache_bytes: Size = 2 * 2**30
    source_refresh: Grace = timedelta(seconds=60)
    install_dependencies: Switch = False
    env_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_allowed_variable)], ...], NoDecode, BeforeValidator(_comma_list)
    ] = PROVIDER_KEYS
    default_config: Switch = True
    commands_unsandboxed: Literal["refuse", "ask", "allow"] = "refuse"
    commands_network: Switch = False
    mcp_programs: Switch = True

    max_body_bytes: Size = 4 * 2**20
    max_document_bytes: Size = 2**20
    prepare_timeout: Duration = timedelta(seconds=60)
    prepared_cache: Count = 64
    live_sessions: Count = 500
    idle_close: Duration = timedelta(minutes=15)
    turn_timeout: Duration = timedelta(hours=1)
    max_running_turns: Count = 200
    delegation_depth: Level = 5
    self_delegation_depth: Level = 3
    delegation_tasks: Count = 100
    max_queued_turns: Count = 1000
    max_queued_turns_per_session: Count = 100
    approval_timeout: Duration = timedelta(hours=1)
    turn_budget: Bounds = ()
    session_budget: Bounds = ()
    tenant_budget: Bounds = ()
    shutdown_grace: Grace = timedelta(seconds=20)
    heartbeat: Duration = timedelta(seconds=2)
    node_dead_after: Duration = timedelta(seconds=8)

    stream_ping: Duration = timedelta(seconds=10)
    stream_buffer_bytes: Size = 2**20

    event_retention: Annotated[Duration | None, BeforeValidator(_for_ever)] = None
    idempotency_retention: Duration = timedelta(hours=24)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] | None = None
    allowed_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_comma_list)
    ] = ()

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address as one binds to, means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` wins over the environment.

    Raises InvalidSettings with a sentence per wrong value.
    """
    try:
        return Settings(**given)
    except ValidationError as problem:
        raise InvalidSettings("; ".join(dict.fromkeys(_sentences(problem)))) from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every variable that looks like a setting and is none, with the name it is close to."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    sentences: list[str] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.startswith(NOT_OURS) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        sentences.append(f"{name} is not a setting" + (f": did you mean {near[0]}?" if near else ""))
    return sentences


def _sentences(problem: ValidationError) -> list[str]:
    return [
        f"{PREFIX}{str(error['loc'][0]).upper()}: {error['msg'].removeprefix('Value error, ')}"
        for error in problem.errors(include_url=False, include_input=False)
    ]
