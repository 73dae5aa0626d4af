"""The options of `tool-mcp`: which servers, and what each of them may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.folders import READ_OPTION, WRITE_OPTION
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_address import WebAddress, read_address

MODULE_ID = "tool-mcp"

Unsandboxed = Literal["refuse", "allow"]

MAX_SERVERS = 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


@dataclass(frozen=True, slots=True)
class Program:
    """A server that is a program: it is started for one session and ended with it."""

    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    network: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server on the web, spoken to by streamable HTTP."""

    address: WebAddress
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Times in seconds. Without `allowed_tools` all tools of the server are mounted.

    `trust_annotations` believes a server that says of a tool that it only reads, or may be run twice.
    """

    name: str
    at: Program | Endpoint
    timeout: float
    connect_timeout: float
    allowed_tools: frozenset[str]
    trust_annotations: bool


@dataclass(frozen=True, slots=True)
class McpOptions:
    """Times in seconds, sizes in bytes, `max_content_size` in characters.

    `startup_timeout` is how long a session waits for its servers when it is opened; those that take longer are
    connected while it runs.
    """

    servers: tuple[ServerOptions, ...]
    startup_timeout: float
    max_content_size: int
    max_message_bytes: int
    max_tools: int
    unsandboxed: Unsandboxed
    max_memory_bytes: int
    max_processes: int
    read_paths: list[str]
    write_paths: list[str]

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> McpOptions:
        options = Options(MODULE_ID, values)
        unsandboxed = options.text("unsandboxed") or "refuse"
        if unsandboxed not in ("refuse", "allow"):
            raise options.problem("unsandboxed", "must be one of: refuse, allow")
        return cls(
            servers=_servers(options, values or {}),
            startup_timeout=options.number("startup_timeout", 5, minimum=0, maximum=60),
            max_content_size=options.integer("max_content_size", 50_000, minimum=100),
            max_message_bytes=options.integer("max_message_bytes", 4 * 2**20, minimum=1_000),
            max_tools=options.integer("max_tools", 100, minimum=1),
            unsandboxed=unsandboxed,
            max_memory_bytes=options.integer("max_memory_bytes", 4 * 2**30, minimum=2**20),
            max_processes=options.integer("max_processes", 256, minimum=8),
            read_paths=options.texts(READ_OPTION),
            write_paths=options.texts(WRITE_OPTION),
        )


def _servers(options: Options, values: Mapping[str, Any]) -> tuple[ServerOptions, ...]:
    given = _mapping(options, values, "servers", "servers")
    if len(given) > MAX_SERVERS:
        raise options.problem("servers", f"has more than {MAX_SERVERS} entries")
    timeout = options.number("timeout", 60, minimum=0.1)
    connect_timeout = options.number("connect_timeout", 30, minimum=0.1)
    found: list[ServerOptions] = []
    for name in given:
        where = f"servers.{name}"
        if not _NAME.fullmatch(name):
            raise options.problem(where, "must be named with up to 32 letters, digits, - and _")
        entry = _mapping(options, given, name, where)
        server = Options(f"{MODULE_ID}, server {name}", entry)
        if server.flag("enabled", True):
            found.append(
                ServerOptions(
                    name=name,
                    at=_at(options, server, entry, values, where),
                    timeout=server.number("timeout", timeout, minimum=0.1),
                    connect_timeout=server.number("connect_timeout", connect_timeout, minimum=0.1),
                    allowed_tools=frozenset(server.texts("allowed_tools")),
                    trust_annotations=server.flag("trust_annotations", False),
                )
            )
    return tuple(found)


def _at(
    options: Options, server: Options, entry: Mapping[str, Any], values: Mapping[str, Any], where: str
) -> Program | Endpoint:
    command, url = server.text("command"), server.text("url")
    if (command is None) == (url is None):
        raise options.problem(where, "must have either command or url")
    if command is not None:
        given: Any = entry.get("args") or []
        if not isinstance(given, list):
            raise options.problem(f"{where}.args", "must be a list")
        arguments = [str(item) for item in cast("list[Any]", given)]
        environment = _texts(options, entry, "env", f"{where}.env")
        if "\0" in "".join((command, *arguments, *environment, *environment.values())):
            raise options.problem(where, "holds a NUL character")
        network = server.flag("network", Options(MODULE_ID, values).flag("network", False))
        return Program(command, tuple(arguments), environment, network)
    headers = _texts(options, entry, "headers", f"{where}.headers")
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise options.problem(f"{where}.headers", "holds a header that no server can be sent")
    try:
        return Endpoint(read_address(url or ""), headers)
    except Refused:
        raise options.problem(f"{where}.url", "must be an http or https address") from None


def _mapping(options: Options, values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in cast("Mapping[Any, Any]", value)):
        raise options.problem(where, "must be a mapping")
    return cast("Mapping[str, Any]", value)


def _texts(options: Options, values: Mapping[str, Any], name: str, where: str) -> Mapping[str, str]:
    found = _mapping(options, values, name, where)
    for key, value in found.items():
        if not key or "=" in key or not isinstance(value, (str, int, float)):
            raise options.problem(where, "must be a mapping of names to texts")
    return {key: str(value) for key, value in found.items()}
