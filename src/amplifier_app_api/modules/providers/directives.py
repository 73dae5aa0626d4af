"""The directives that script an answer: `[[name: arguments]]`, anywhere in a text.

    echo                          repeat the user's text after `echo: `
    text: anything                answer with exactly this
    long: tokens=N                answer `w0 w1 w2 ...` of N tokens
    slow: tokens=N delay_ms=D     the same, one token every D milliseconds
    json: {...}                   answer with this JSON text
    think: anything               think this first
    say: anything                 text in front of tool calls
    tool: name {arguments}        a round with one tool call; again for further rounds
    tools: a {...} | b {...}      a round with several calls at once
    then: anything                the answer after the last round
    error: status=S times=N retry_after=R type=T message=M
    midstream: after=K type=T     fail after K deltas
    delay: ms=D   pace: ms=D      wait before the first token, between tokens
    chunk: chars=K                size of a delta; a word when not given
    usage: input=A output=B cache_read=C cache_write=D reasoning=E
    stop: reason                  the reason the model stopped

A tool without arguments gets some that its schema allows. Brackets around any other name are ordinary
text, but for the directives that only a double with a network can play: those do nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, cast

_NAME = re.compile(r"\s*([a-z_]+)\s*(:?)")
_TOOL = re.compile(r"\s*([\w.:-]+)\s*")
_BAR = re.compile(r"\s*\|")
_PAIR = re.compile(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
_SPACE = re.compile(r"\s*")
_JSON = json.JSONDecoder()

_ANSWERS = {"echo", "text", "long", "slow", "json", "think", "say", "tool", "tools", "then", "stop", "usage"}
_TROUBLE = {"error", "midstream", "delay", "pace", "chunk"}
_KNOWN = _ANSWERS | _TROUBLE | {"disconnect", "headers"}

ScriptedCall = tuple[str, dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class ScriptedError:
    status: int
    times: int | None  # attempts that fail before one succeeds; None: all
    retry_after: float | None
    type: str | None
    message: str


@dataclass(slots=True)
class Script:
    """What to answer. None and empty stand for "not said"."""

    rounds: list[list[ScriptedCall]] = field(default_factory=list[list[ScriptedCall]])
    echo: bool = False
    text: str | None = None
    then: str | None = None
    say: str | None = None
    think: str | None = None
    stop: str | None = None
    tokens: int | None = None
    delay: float = 0.0  # seconds before the first token
    pace: float | None = None  # seconds between tokens
    chunk: int | None = None
    error: ScriptedError | None = None
    midstream_after: int | None = None
    midstream_type: str = "overloaded_error"
    usage: dict[str, int] = field(default_factory=dict[str, int])


class InvalidDirective(ValueError):
    """A directive whose arguments make no sense; the text names it."""


def parse(text: str) -> tuple[Script | None, str]:
    """The script written in `text`, None when there is none, and the text around the directives."""
    script: Script | None = None
    rest: list[str] = []
    position = 0
    while (start := text.find("[[", position)) >= 0:
        name = _NAME.match(text, start + 2)
        if name is None or name[1] not in _KNOWN:
            rest.append(text[position : start + 2])
            position = start + 2
            continue
        end = text.find("]]", _arguments_end(name[1], text, name.end()))
        if end < 0:
            break
        script = script or Script()
        try:
            _apply(script, name[1], text[name.end() : end])
        except (ValueError, KeyError) as error:
            raise InvalidDirective(f"[[{name[1]}: ...]] cannot be read: {error}") from error
        rest.append(text[position:start])
        position = end + 2
    rest.append(text[position:])
    return script, "".join(rest).strip()


def _arguments_end(name: str, text: str, position: int) -> int:
    """Where to look for the closing brackets: behind JSON arguments, which may hold brackets themselves."""
    try:
        if name in ("tool", "tools"):
            return _calls(text, position)[1]
        if name == "json":
            lead = _SPACE.match(text, position)
            return _JSON.raw_decode(text, lead.end() if lead else position)[1]
    except ValueError:
        pass
    return position


def _calls(text: str, position: int) -> tuple[list[ScriptedCall], int]:
    """`name {json} | name {json}` from `position` on, and where it ends."""
    calls: list[ScriptedCall] = []
    while True:
        name = _TOOL.match(text, position)
        if name is None:
            raise ValueError("it needs the name of a tool")
        position = name.end()
        arguments: dict[str, Any] | None = None
        if text.startswith("{", position):
            arguments, position = _JSON.raw_decode(text, position)
        calls.append((name[1], arguments))
        bar = _BAR.match(text, position)
        if bar is None:
            return calls, position
        position = bar.end()


def _pairs(arguments: str) -> dict[str, str]:
    return {m[1]: m[3] if m[2] is None else m[2] for m in _PAIR.finditer(arguments)}


def _apply(script: Script, name: str, arguments: str) -> None:
    match name:
        case "echo":
            script.echo = True
        case "text" | "json":
            script.text = arguments.strip()
        case "think" | "say" | "then" | "stop":
            setattr(script, name, arguments.strip())
        case "tool" | "tools":
            script.rounds.append(_calls(arguments, 0)[0])
        case "long" | "slow" | "delay" | "pace" | "chunk":
            _shape(script, name, _pairs(arguments))
        case "error":
            script.error = _error(_pairs(arguments))
        case "midstream":
            pairs = _pairs(arguments)
            script.midstream_after = int(pairs.get("after", 1))
            script.midstream_type = pairs.get("type", script.midstream_type)
        case "usage":
            script.usage |= {key: int(value) for key, value in _pairs(arguments).items()}
        case _:
            pass


def _shape(script: Script, name: str, pairs: dict[str, str]) -> None:
    match name:
        case "long":
            script.tokens = int(pairs.get("tokens", 200))
        case "slow":
            script.tokens = int(pairs.get("tokens", 20))
            script.pace = float(pairs.get("delay_ms", 50)) / 1000
        case "delay":
            script.delay = float(pairs.get("ms", 100)) / 1000
        case "pace":
            script.pace = float(pairs.get("ms", 10)) / 1000
        case _:
            script.chunk = max(1, int(pairs.get("chars", 8)))


def _error(pairs: dict[str, str]) -> ScriptedError:
    status = int(pairs.get("status", 500))
    return ScriptedError(
        status=status,
        times=int(pairs["times"]) if "times" in pairs else None,
        retry_after=float(pairs["retry_after"]) if "retry_after" in pairs else None,
        type=pairs.get("type"),
        message=pairs.get("message", f"scripted {status}"),
    )


def sample(schema: dict[str, Any]) -> Any:
    """A small value that a JSON schema allows, good enough for a tool's arguments."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return sample(schema[key][0])
    kind = schema.get("type")
    kind = cast("list[Any]", kind)[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        properties = cast("dict[str, dict[str, Any]]", schema.get("properties") or {})
        return {key: sample(properties.get(key, {})) for key in cast("list[str]", schema.get("required", []))}
    if kind == "array":
        return [sample(schema.get("items") or {})] if schema.get("minItems") else []
    return {"integer": 1, "number": 1, "boolean": True, "null": None}.get(kind or "string", "sample")
