#!/usr/bin/env python3
"""fake_llm.py - a deterministic, scriptable stand-in for hosted LLM APIs.

One small HTTP server that speaks, by path suffix:

    POST  .../messages                 Anthropic Messages        (JSON and SSE)
    POST  .../messages/count_tokens    Anthropic token counting
    POST  .../chat/completions         OpenAI Chat Completions   (JSON and SSE)
    POST  .../responses                OpenAI Responses          (JSON and SSE)
    POST  .../models/<id>:generateContent         Google Gemini  (JSON)
    POST  .../models/<id>:streamGenerateContent   Google Gemini  (SSE)
    GET   .../models[/<id>]            model listing (shape follows the caller)
    POST  .../api/chat                 Ollama chat               (JSON and lines of JSON)
    GET   .../api/tags, POST .../api/show   Ollama's models
    GET   /healthz                     liveness
    *     /__fake__/...                control plane, see below

Suffix matching means any base path works (``/v1``, ``/openai/v1``,
``/openai/deployments/x``), so Azure-style and gateway-style clients can be
pointed at it too.  Standard library only (``orjson`` is used when installed);
one process answers roughly 10,000 small requests per second, streamed or not.

    python fake_llm.py --port 8123
    python fake_llm.py --port 0 --workers 4          # 0 = pick a free port

When ready it prints exactly one line: ``READY http://127.0.0.1:8123``.

Choosing a behaviour
====================
A behaviour is written as directives.  They may appear

1. in the control-plane queue            (POST /__fake__/queue)
2. in the latest user message, as ``[[name: arguments]]``
3. in the model name, after ``@`` or after a leading ``fake-``:
   ``claude-sonnet-4-5@slow:tokens=50,delay_ms=20`` or ``fake-echo``
4. in the system prompt, as ``[[name: arguments]]``
5. in ``--default``                      (default: ``echo``)

The first place that has any directive wins; places are not merged.  Several
directives in one place combine (in a model name, join them with ``+``).
``<system-reminder>...</system-reminder>`` sections are ignored when looking
for the latest user message, because agent hooks append such messages.

Content
    echo                         repeat the user's text (this is the default)
    text: anything               answer with exactly this
    long: tokens=N               answer of N tokens "w0 w1 w2 ..."
    slow: tokens=N delay_ms=D    like long, one token every D milliseconds
    json: {...}                  answer with this JSON text
    think: anything              emit a thinking/reasoning block first
    say: anything                text placed before tool calls in that reply

Tools (stateless: progress is read off the conversation itself)
    tool: name {json args}       one round calling one tool; repeat the
                                 directive for further rounds
    tools: a {..} | b {..}       one round calling several tools in parallel
    tool: name                   arguments are synthesised from the schema the
                                 client sent
    then: anything               final answer once all rounds are done
                                 (default: a preview of the tool results)

Failure
    error: status=S times=N retry_after=R type=T code=C message=M
                                 answer with an HTTP error.  With ``times`` the
                                 first N *identical* request bodies fail and
                                 the next succeeds; without it every one fails
    midstream: after=K type=T    in-band stream error after K deltas
    disconnect: after=K          drop the TCP connection after K deltas

Shape
    delay: ms=D                  wait before the first byte
    pace: ms=D                   wait between streamed deltas
    chunk: chars=K               delta size in characters (default: one word)
    usage: input=A output=B cache_read=C cache_write=D reasoning=E
    headers: name=value ...      extra response headers
    stop: reason                 override stop_reason / finish_reason

Control plane (process-local when --workers > 1)
    GET  /__fake__/stats         counters (requests, in flight, aborted, ...)
    GET  /__fake__/requests      the last --record requests with their bodies
    POST /__fake__/queue         {"specs": ["error: status=500", "text: hi"]}
                                 each entry is used by one LLM request, FIFO
    POST /__fake__/reset         forget counters, queue, recordings, attempts

In tests
========
    with FakeLLM() as llm:                    # own thread, free port
        client = Anthropic(base_url=llm.url, api_key="x")
        ...
        assert llm.stats()["requests"] == 3
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

try:  # optional accelerators
    import orjson

    _loads = orjson.loads

    def _dumps(obj: Any) -> bytes:
        return orjson.dumps(obj)

except ImportError:  # pragma: no cover - depends on the environment
    _loads = json.loads
    _encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode

    def _dumps(obj: Any) -> bytes:
        return _encode(obj).encode()


# --------------------------------------------------------------------------
# Directives
# --------------------------------------------------------------------------

_NAME = re.compile(r"\s*([a-z_]+)\s*(:?)")
_REMINDER = re.compile(r"<system-reminder.*?</system-reminder>", re.DOTALL)
_DECODER = json.JSONDecoder()

#: Directives whose argument is free text rather than key=value pairs.
_FREE_TEXT = {"text", "think", "say", "then", "stop"}


@dataclass
class Failure:
    status: int = 500
    times: int | None = None
    retry_after: str | None = None
    type: str | None = None
    code: str | None = None
    message: str | None = None


@dataclass
class Plan:
    """What to answer, independent of which API is being spoken."""

    rounds: list[list[tuple[str, dict | None]]] = field(default_factory=list)
    text: str | None = None
    then: str | None = None
    say: str | None = None
    think: str | None = None
    tokens: int | None = None
    delay_s: float = 0.0
    pace_s: float = 0.0
    chunk: int | None = None
    error: Failure | None = None
    midstream_after: int | None = None
    midstream_type: str = "overloaded_error"
    disconnect_after: int | None = None
    usage: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    stop: str | None = None


def _pairs(arg: str) -> dict[str, str]:
    """``a=1 b=2, c="x y"`` -> dict.  Values may be double-quoted."""
    return {
        m[1]: (m[2] if m[2] is not None else m[3]) for m in re.finditer(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s,]+))', arg)
    }


def _tool_call(text: str, pos: int) -> tuple[tuple[str, dict | None], int]:
    """Parse ``name`` or ``name {json}`` at *pos*; return (call, next position)."""
    m = re.compile(r"\s*([\w.:-]+)\s*").match(text, pos)
    if not m:
        raise ValueError("tool directive needs a tool name")
    pos = m.end()
    if pos < len(text) and text[pos] == "{":
        args, pos = _DECODER.raw_decode(text, pos)
        return (m[1], args), pos
    return (m[1], None), pos


def _apply(plan: Plan, name: str, arg: str) -> None:
    """Fold one directive into *plan*.  Unknown names are ignored."""
    if name == "echo":
        return
    if name in _FREE_TEXT:
        setattr(plan, name, arg.strip())
        return
    if name == "json":
        plan.text = arg.strip()
        return
    if name in ("tool", "tools"):
        if arg.lstrip().startswith("name="):  # model-name friendly form
            plan.rounds.append([(_pairs(arg)["name"], None)])
            return
        calls, pos = [], 0
        while True:
            call, pos = _tool_call(arg, pos)
            calls.append(call)
            rest = arg[pos:].lstrip()
            if not rest.startswith("|"):
                break
            pos = arg.index("|", pos) + 1
        plan.rounds.append(calls)
        return

    kv = _pairs(arg)
    if name in ("long", "slow"):
        plan.tokens = int(kv.get("tokens", 200 if name == "long" else 20))
        if name == "slow":
            plan.pace_s = float(kv.get("delay_ms", 50)) / 1000
    elif name == "delay":
        plan.delay_s = float(kv.get("ms", 100)) / 1000
    elif name == "pace":
        plan.pace_s = float(kv.get("ms", 10)) / 1000
    elif name == "chunk":
        plan.chunk = max(1, int(kv.get("chars", 8)))
    elif name == "error":
        plan.error = Failure(
            status=int(kv.get("status", 500)),
            times=int(kv["times"]) if "times" in kv else None,
            retry_after=kv.get("retry_after"),
            type=kv.get("type"),
            code=kv.get("code"),
            message=kv.get("message"),
        )
    elif name == "midstream":
        plan.midstream_after = int(kv.get("after", 1))
        plan.midstream_type = kv.get("type", plan.midstream_type)
    elif name == "disconnect":
        plan.disconnect_after = int(kv.get("after", 1))
    elif name == "usage":
        plan.usage.update({k: int(v) for k, v in kv.items()})
    elif name == "headers":
        plan.headers.update(kv)


def parse_markers(text: str) -> tuple[Plan | None, str]:
    """Extract ``[[...]]`` directives.  Returns (plan or None, remaining text)."""
    if "[[" not in text:
        return None, text
    plan: Plan | None = None
    out, pos = [], 0
    while (start := text.find("[[", pos)) >= 0:
        m = _NAME.match(text, start + 2)
        if not m:
            out.append(text[pos : start + 2])
            pos = start + 2
            continue
        body_at = m.end()
        scan = body_at
        try:  # step over JSON arguments so that "]]" inside them is harmless
            if m[1] in ("tool", "tools"):
                while True:
                    _, scan = _tool_call(text, scan)
                    gap = re.compile(r"\s*\|").match(text, scan)
                    if not gap:
                        break
                    scan = gap.end()
            elif m[1] == "json":
                lead = re.compile(r"\s*").match(text, scan)
                _, scan = _DECODER.raw_decode(text, lead.end() if lead else scan)
        except ValueError:
            scan = body_at
        end = text.find("]]", scan)
        if end < 0:
            break
        plan = plan or Plan()
        _apply(plan, m[1], text[body_at:end])
        out.append(text[pos:start])
        pos = end + 2
    out.append(text[pos:])
    return plan, "".join(out).strip()


@lru_cache(maxsize=4096)
def _model_spec(model: str) -> str | None:
    if "@" in model:
        return model.split("@", 1)[1]
    for prefix in ("fake-", "fake:"):
        if model.startswith(prefix):
            return model[len(prefix) :]
    return None


def parse_spec(spec: str) -> Plan:
    """Directives in the compact form: ``slow:tokens=5,delay_ms=2+think:hmm``."""
    if "[[" in spec:
        return parse_markers(spec)[0] or Plan()
    plan = Plan()
    for part in spec.split("+"):
        name, _, arg = part.partition(":")
        _apply(plan, name.strip(), arg)
    return plan


# --------------------------------------------------------------------------
# Requests, normalised
# --------------------------------------------------------------------------


@dataclass
class Call:
    """One LLM request, in terms every API shares."""

    model: str
    stream: bool
    prompt: str  # latest user text, reminders removed
    system: str
    results: list[str]  # tool results that followed that prompt
    rounds_done: int  # assistant tool-call turns that followed it
    tools: dict[str, dict]  # name -> JSON schema
    input_tokens: int
    schema: dict | None = None  # structured output requested
    include_usage: bool = True
    body: dict = field(default_factory=dict)


def _blocks_text(content: Any) -> str:
    """Text of a content value: a string, or a list of typed blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        b.get("text", "")
        for b in content
        if isinstance(b, dict) and b.get("type") in ("text", "input_text", "output_text")
    )


def _result_text(content: Any) -> str:
    return content if isinstance(content, str) else _blocks_text(content) or json.dumps(content)


def _strip(text: str) -> str:
    return _REMINDER.sub("", text).strip() if "<system-reminder" in text else text.strip()


def _walk(turns: list[tuple[str, str, list[str]]]) -> tuple[str, list[str], int]:
    """Find the latest real user text and what tools did after it.

    *turns* holds ``(kind, text, results)`` with kind ``user``, ``calls``
    (an assistant turn that called tools), ``results`` or ``other``.
    """
    results: list[str] = []
    rounds = 0
    for kind, text, res in reversed(turns):
        if res:
            results[:0] = res
        if kind == "calls":
            rounds += 1
        elif kind == "user" and (prompt := _strip(text)):
            return prompt, results, rounds
    return "", results, rounds


def parse_anthropic(body: dict, size: int) -> Call:
    turns: list[tuple[str, str, list[str]]] = []
    for msg in body.get("messages", ()):
        content = msg.get("content", "")
        blocks = content if isinstance(content, list) else []
        kinds = {b.get("type") for b in blocks if isinstance(b, dict)}
        if msg.get("role") == "assistant":
            turns.append(("calls" if "tool_use" in kinds else "other", "", []))
        else:
            res = [
                _result_text(b.get("content", ""))
                for b in blocks
                if isinstance(b, dict) and b.get("type") == "tool_result"
            ]
            turns.append(("user", _blocks_text(content), res))
    prompt, results, rounds = _walk(turns)
    fmt = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Call(
        model=str(body.get("model", "")),
        stream=bool(body.get("stream")),
        prompt=prompt,
        system=_blocks_text(body.get("system") or ""),
        results=results,
        rounds_done=rounds,
        tools={t["name"]: t.get("input_schema") or {} for t in body.get("tools") or () if "name" in t},
        input_tokens=max(1, size // 4),
        schema=fmt.get("schema") if fmt.get("type") == "json_schema" else None,
        body=body,
    )


def parse_chat(body: dict, size: int) -> Call:
    turns: list[tuple[str, str, list[str]]] = []
    system = ""
    for msg in body.get("messages", ()):
        role = msg.get("role")
        text = _blocks_text(msg.get("content") or "")
        if role in ("system", "developer"):
            system += text + "\n"
        elif role == "assistant":
            turns.append(("calls" if msg.get("tool_calls") else "other", "", []))
        elif role in ("tool", "function"):
            turns.append(("results", "", [text]))
        else:
            turns.append(("user", text, []))
    prompt, results, rounds = _walk(turns)
    fmt = body.get("response_format") or {}
    schema = (fmt.get("json_schema") or {}).get("schema") if fmt.get("type") == "json_schema" else None
    if fmt.get("type") == "json_object":
        schema = {"type": "object"}
    tools = {}
    for t in body.get("tools") or ():
        fn = t.get("function") or {}
        if "name" in fn:
            tools[fn["name"]] = fn.get("parameters") or {}
    return Call(
        model=str(body.get("model", "")),
        stream=bool(body.get("stream")),
        prompt=prompt,
        system=system,
        results=results,
        rounds_done=rounds,
        tools=tools,
        input_tokens=max(1, size // 4),
        schema=schema,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        body=body,
    )


def parse_responses(body: dict, size: int) -> Call:
    items = body.get("input", [])
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    system = body.get("instructions") or ""
    turns: list[tuple[str, str, list[str]]] = []
    previous = ""
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            if previous != "function_call":  # parallel calls are one round
                turns.append(("calls", "", []))
        elif kind == "function_call_output":
            turns.append(("results", "", [_result_text(item.get("output", ""))]))
        elif kind == "message":
            role = item.get("role")
            text = _blocks_text(item.get("content", ""))
            if role in ("system", "developer"):
                system += "\n" + text
            elif role == "user":
                turns.append(("user", text, []))
            else:
                turns.append(("other", "", []))
        if kind != "reasoning":
            previous = kind
    prompt, results, rounds = _walk(turns)
    fmt = (body.get("text") or {}).get("format") or {}
    schema = fmt.get("schema") if fmt.get("type") == "json_schema" else None
    if fmt.get("type") == "json_object":
        schema = {"type": "object"}
    return Call(
        model=str(body.get("model", "")),
        stream=bool(body.get("stream")),
        prompt=prompt,
        system=system,
        results=results,
        rounds_done=rounds,
        tools={
            t["name"]: t.get("parameters") or {}
            for t in body.get("tools") or ()
            if t.get("type") == "function" and "name" in t
        },
        input_tokens=max(1, size // 4),
        schema=schema,
        body=body,
    )


def parse_ollama(body: dict, size: int) -> Call:
    turns: list[tuple[str, str, list[str]]] = []
    system = ""
    for msg in body.get("messages", ()):
        role, text = msg.get("role"), msg.get("content") or ""
        if role == "system":
            system += text + "\n"
        elif role == "assistant":
            turns.append(("calls" if msg.get("tool_calls") else "other", "", []))
        elif role == "tool":
            turns.append(("results", "", [text]))
        else:
            turns.append(("user", text, []))
    prompt, results, rounds = _walk(turns)
    fmt = body.get("format")
    functions = [t.get("function") or {} for t in body.get("tools") or ()]
    return Call(
        model=str(body.get("model", "")),
        stream=bool(body.get("stream", True)),
        prompt=prompt,
        system=system,
        results=results,
        rounds_done=rounds,
        tools={fn["name"]: fn.get("parameters") or {} for fn in functions if "name" in fn},
        input_tokens=max(1, size // 4),
        schema=fmt if isinstance(fmt, dict) else {"type": "object"} if fmt == "json" else None,
        body=body,
    )


# --------------------------------------------------------------------------
# Replies, normalised
# --------------------------------------------------------------------------


def sample_from_schema(schema: dict) -> Any:
    """Smallest plausible instance of a JSON schema (enough for tool arguments)."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return sample_from_schema(schema[key][0])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or "properties" in schema:
        props = schema.get("properties") or {}
        return {k: sample_from_schema(props.get(k) or {}) for k in schema.get("required", ())}
    if kind == "array":
        return [sample_from_schema(schema.get("items") or {})] if schema.get("minItems") else []
    return {"integer": 1, "number": 1, "boolean": True, "null": None}.get(kind or "string", "sample")


@lru_cache(maxsize=64)
def numbered_words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


@lru_cache(maxsize=2048)
def pieces(text: str, chunk: int | None) -> tuple[str, ...]:
    """Split *text* into stream deltas; joining them gives *text* back."""
    if not text:
        return ()
    if chunk:
        return tuple(text[i : i + chunk] for i in range(0, len(text), chunk))
    return tuple(re.findall(r"\s*\S+(?:\s+$)?", text)) or (text,)


@dataclass
class Reply:
    thinking: str | None
    text: str
    calls: list[tuple[str, str, dict]]  # (call id, tool name, arguments)
    chunk: int | None
    input_tokens: int
    output_tokens: int
    cache_read: int
    cache_write: int
    reasoning: int
    stop: str | None

    @property
    def text_pieces(self) -> tuple[str, ...]:
        return pieces(self.text, self.chunk)

    @property
    def thinking_pieces(self) -> tuple[str, ...]:
        return pieces(self.thinking or "", self.chunk)


class Ids:
    """Sequential ids: stable across runs, unique within a server."""

    def __init__(self, worker: int = 0) -> None:
        self._n = worker << 32

    def __call__(self, prefix: str) -> str:
        self._n += 1
        return f"{prefix}{self._n:012x}"


def build_reply(plan: Plan, call: Call, ids: Ids, call_prefix: str) -> Reply:
    calls: list[tuple[str, str, dict]] = []
    if call.rounds_done < len(plan.rounds):
        for name, args in plan.rounds[call.rounds_done]:
            if args is None:
                args = sample_from_schema(call.tools.get(name) or {})
                args = args if isinstance(args, dict) else {}
            calls.append((ids(call_prefix), name, args))
        text = plan.say or ""
    elif plan.rounds:
        preview = " | ".join(r if len(r) <= 200 else r[:200] + "..." for r in call.results)
        text = plan.then or plan.text or f"Tool results: {preview}"
    elif plan.text is not None:
        text = plan.text
    elif plan.tokens is not None:
        text = numbered_words(plan.tokens)
    elif call.schema is not None:
        text = json.dumps(sample_from_schema(call.schema))
    else:
        text = f"echo: {call.prompt}"

    use = plan.usage
    think_tokens = len(pieces(plan.think, plan.chunk)) if plan.think else 0
    produced = len(pieces(text, plan.chunk)) + 8 * len(calls) + think_tokens
    return Reply(
        thinking=plan.think,
        text=text,
        calls=calls,
        chunk=plan.chunk,
        input_tokens=use.get("input", call.input_tokens),
        output_tokens=use.get("output", max(1, produced)),
        cache_read=use.get("cache_read", 0),
        cache_write=use.get("cache_write", 0),
        reasoning=use.get("reasoning", think_tokens),
        stop=plan.stop,
    )


# A renderer yields ``(bytes, is_delta)``.  ``is_delta`` marks the points where
# pacing, mid-stream errors and disconnects apply.
Stream = Iterator[tuple[bytes, bool]]


def _sse(event: str | None, data: Any) -> bytes:
    payload = _dumps(data)
    if event is None:
        return b"data: " + payload + b"\n\n"
    return b"event: " + event.encode() + b"\ndata: " + payload + b"\n\n"


# ---- Anthropic Messages ---------------------------------------------------


def _anthropic_usage(r: Reply, output: int) -> dict:
    return {
        "input_tokens": r.input_tokens,
        "cache_creation_input_tokens": r.cache_write,
        "cache_read_input_tokens": r.cache_read,
        "output_tokens": output,
        "service_tier": "standard",
    }


def _signature(text: str) -> str:
    return "sig_" + hashlib.sha256(text.encode()).hexdigest()[:24]


def anthropic_full(r: Reply, call: Call, rid: str) -> dict:
    content: list[dict] = []
    if r.thinking:
        content.append({"type": "thinking", "thinking": r.thinking, "signature": _signature(r.thinking)})
    if r.text or not r.calls:
        content.append({"type": "text", "text": r.text})
    content += [{"type": "tool_use", "id": i, "name": n, "input": a} for i, n, a in r.calls]
    return {
        "id": rid,
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": r.stop or ("tool_use" if r.calls else "end_turn"),
        "stop_sequence": None,
        "usage": _anthropic_usage(r, r.output_tokens),
    }


def anthropic_stream(r: Reply, call: Call, rid: str) -> Stream:
    start = {
        "id": rid,
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _anthropic_usage(r, 1),
    }
    yield _sse("message_start", {"type": "message_start", "message": start}), False
    index = 0

    def opened(block: dict) -> tuple[bytes, bool]:
        return _sse(
            "content_block_start", {"type": "content_block_start", "index": index, "content_block": block}
        ), False

    def delta(value: dict) -> tuple[bytes, bool]:
        return _sse("content_block_delta", {"type": "content_block_delta", "index": index, "delta": value}), True

    def closed() -> tuple[bytes, bool]:
        return _sse("content_block_stop", {"type": "content_block_stop", "index": index}), False

    if r.thinking:
        yield opened({"type": "thinking", "thinking": "", "signature": ""})
        for piece in r.thinking_pieces:
            yield delta({"type": "thinking_delta", "thinking": piece})
        yield delta({"type": "signature_delta", "signature": _signature(r.thinking)})
        yield closed()
        index += 1
    if r.text or not r.calls:
        yield opened({"type": "text", "text": ""})
        if index == 0:
            yield _sse("ping", {"type": "ping"}), False
        for piece in r.text_pieces:  # hot path: only the text itself needs encoding
            yield (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'  # noqa: E501
                % (
                    index,
                    _dumps(piece),
                ),
                True,
            )
        yield closed()
        index += 1
    for cid, name, args in r.calls:
        yield opened({"type": "tool_use", "id": cid, "name": name, "input": {}})
        yield delta({"type": "input_json_delta", "partial_json": ""})
        for piece in pieces(json.dumps(args), 16):
            yield delta({"type": "input_json_delta", "partial_json": piece})
        yield closed()
        index += 1
    stop = r.stop or ("tool_use" if r.calls else "end_turn")
    yield (
        _sse(
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop, "stop_sequence": None},
                "usage": _anthropic_usage(r, r.output_tokens),
            },
        ),
        False,
    )
    yield _sse("message_stop", {"type": "message_stop"}), False


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_error(f: Failure, rid: str) -> dict:
    kind = f.type or _ANTHROPIC_TYPES.get(f.status, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": f.message or f"scripted {f.status}"},
        "request_id": rid,
    }


def anthropic_midstream(kind: str) -> bytes:
    return _sse("error", {"type": "error", "error": {"type": kind, "message": "scripted mid-stream error"}})


# ---- OpenAI Chat Completions ---------------------------------------------


def _chat_usage(r: Reply) -> dict:
    return {
        "prompt_tokens": r.input_tokens,
        "completion_tokens": r.output_tokens,
        "total_tokens": r.input_tokens + r.output_tokens,
        "prompt_tokens_details": {"cached_tokens": r.cache_read},
        "completion_tokens_details": {"reasoning_tokens": r.reasoning},
    }


def _chat_finish(r: Reply) -> str:
    return r.stop or ("tool_calls" if r.calls else "stop")


def chat_full(r: Reply, call: Call, rid: str) -> dict:
    message: dict = {"role": "assistant", "content": r.text or (None if r.calls else ""), "refusal": None}
    if r.thinking:
        message["reasoning_content"] = r.thinking
    if r.calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for i, n, a in r.calls
        ]
    return {
        "id": rid,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _chat_finish(r)}],
        "usage": _chat_usage(r),
    }


def chat_stream(r: Reply, call: Call, rid: str) -> Stream:
    head = {"id": rid, "object": "chat.completion.chunk", "created": int(time.time()), "model": call.model}

    def chunk(delta: dict, finish: str | None = None) -> bytes:
        return _sse(None, {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""}), False
    for piece in r.thinking_pieces:
        yield chunk({"reasoning_content": piece}), True
    before, after = chunk({"content": "\0"}).split(b'"\\u0000"')  # hot path, as above
    for piece in r.text_pieces:
        yield before + _dumps(piece) + after, True
    for n, (cid, name, args) in enumerate(r.calls):
        first = {"index": n, "id": cid, "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [first]}), True
        for piece in pieces(json.dumps(args), 16):
            yield chunk({"tool_calls": [{"index": n, "function": {"arguments": piece}}]}), True
    yield chunk({}, _chat_finish(r)), False
    if call.include_usage:
        yield _sse(None, {**head, "choices": [], "usage": _chat_usage(r)}), False
    yield b"data: [DONE]\n\n", False


_OPENAI_CODES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def openai_error(f: Failure, rid: str) -> dict:
    kind, code = _OPENAI_CODES.get(f.status, ("invalid_request_error" if f.status < 500 else "server_error", None))
    return {
        "error": {
            "message": f.message or f"scripted {f.status}",
            "type": f.type or kind,
            "param": None,
            "code": f.code or code,
        }
    }


def chat_midstream(kind: str) -> bytes:
    return _sse(None, {"error": {"message": "scripted mid-stream error", "type": kind, "code": None}})


# ---- OpenAI Responses -----------------------------------------------------


def _responses_usage(r: Reply) -> dict:
    return {
        "input_tokens": r.input_tokens,
        "input_tokens_details": {"cached_tokens": r.cache_read},
        "output_tokens": r.output_tokens,
        "output_tokens_details": {"reasoning_tokens": r.reasoning},
        "total_tokens": r.input_tokens + r.output_tokens,
    }


def _responses_items(r: Reply, call: Call, rid: str) -> list[dict]:
    tail = rid.rsplit("_", 1)[-1]
    items: list[dict] = []
    if r.thinking:
        item = {
            "id": f"rs_{tail}",
            "type": "reasoning",
            "status": "completed",
            "summary": [{"type": "summary_text", "text": r.thinking}],
        }
        if "reasoning.encrypted_content" in (call.body.get("include") or ()):
            item["encrypted_content"] = _signature(r.thinking)
        items.append(item)
    if r.text or not r.calls:
        items.append(
            {
                "id": f"msg_{tail}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": r.text, "annotations": [], "logprobs": []}],
            }
        )
    for n, (cid, name, args) in enumerate(r.calls):
        items.append(
            {
                "id": f"fc_{tail}_{n}",
                "type": "function_call",
                "status": "completed",
                "call_id": cid,
                "name": name,
                "arguments": json.dumps(args),
            }
        )
    return items


def responses_full(r: Reply, call: Call, rid: str, status: str = "completed") -> dict:
    done = status == "completed"
    return {
        "id": rid,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": call.body.get("instructions"),
        "max_output_tokens": call.body.get("max_output_tokens"),
        "metadata": call.body.get("metadata") or {},
        "model": call.model,
        "output": _responses_items(r, call, rid) if done else [],
        "parallel_tool_calls": True,
        "previous_response_id": call.body.get("previous_response_id"),
        "reasoning": call.body.get("reasoning") or {"effort": None, "summary": None},
        "store": call.body.get("store", True),
        "temperature": call.body.get("temperature") or 1.0,
        "text": call.body.get("text") or {"format": {"type": "text"}},
        "tool_choice": call.body.get("tool_choice") or "auto",
        "tools": call.body.get("tools") or [],
        "top_p": call.body.get("top_p") or 1.0,
        "truncation": call.body.get("truncation") or "disabled",
        "usage": _responses_usage(r) if done else None,
    }


def responses_stream(r: Reply, call: Call, rid: str) -> Stream:
    seq = -1

    def ev(kind: str, is_delta: bool = False, /, **data: Any) -> tuple[bytes, bool]:
        nonlocal seq
        seq += 1
        return _sse(kind, {"type": kind, "sequence_number": seq, **data}), is_delta

    pending = responses_full(r, call, rid, "in_progress")
    yield ev("response.created", response=pending)
    yield ev("response.in_progress", response=pending)
    for index, item in enumerate(_responses_items(r, call, rid)):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "reasoning":
            yield ev(
                "response.output_item.added", output_index=index, item={**item, "summary": [], "status": "in_progress"}
            )
            part = {**at, "summary_index": 0}
            yield ev("response.reasoning_summary_part.added", **part, part={"type": "summary_text", "text": ""})
            for piece in r.thinking_pieces:
                yield ev("response.reasoning_summary_text.delta", True, **part, delta=piece)
            yield ev("response.reasoning_summary_text.done", **part, text=r.thinking)
            yield ev("response.reasoning_summary_part.done", **part, part=item["summary"][0])
        elif item["type"] == "message":
            yield ev(
                "response.output_item.added", output_index=index, item={**item, "content": [], "status": "in_progress"}
            )
            part = {**at, "content_index": 0}
            empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield ev("response.content_part.added", **part, part=empty)
            for piece in r.text_pieces:
                yield ev("response.output_text.delta", True, **part, delta=piece, logprobs=[])
            yield ev("response.output_text.done", **part, text=r.text, logprobs=[])
            yield ev("response.content_part.done", **part, part=item["content"][0])
        else:
            yield ev(
                "response.output_item.added",
                output_index=index,
                item={**item, "arguments": "", "status": "in_progress"},
            )
            for piece in pieces(item["arguments"], 16):
                yield ev("response.function_call_arguments.delta", True, **at, delta=piece)
            yield ev("response.function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"])
        yield ev("response.output_item.done", output_index=index, item=item)
    yield ev("response.completed", response=responses_full(r, call, rid))


def responses_midstream(kind: str) -> bytes:
    return _sse(
        "error",
        {"type": "error", "sequence_number": 9999, "code": kind, "message": "scripted mid-stream error", "param": None},
    )


# ---- Ollama ----------------------------------------------------------------


def _line(data: Any) -> bytes:
    return _dumps(data) + b"\n"


def _ollama_head(call: Call) -> dict:
    return {"model": call.model, "created_at": "2026-01-01T00:00:00.000000Z"}


def _ollama_calls(r: Reply) -> list[dict]:
    return [{"function": {"name": name, "arguments": args}} for _, name, args in r.calls]  # without ids, as Ollama does


def _ollama_end(r: Reply) -> dict:
    return {
        "done": True,
        "done_reason": r.stop or "stop",
        "total_duration": 1_000_000,
        "load_duration": 1_000,
        "prompt_eval_count": r.input_tokens,
        "prompt_eval_duration": 1_000,
        "eval_count": r.output_tokens,
        "eval_duration": 1_000,
    }


def ollama_full(r: Reply, call: Call, rid: str) -> dict:
    message: dict = {"role": "assistant", "content": r.text}
    if r.thinking:
        message["thinking"] = r.thinking
    if r.calls:
        message["tool_calls"] = _ollama_calls(r)
    return {**_ollama_head(call), "message": message, **_ollama_end(r)}


def ollama_stream(r: Reply, call: Call, rid: str) -> Stream:
    head = _ollama_head(call)

    def part(**message: Any) -> bytes:
        return _line({**head, "message": {"role": "assistant", "content": "", **message}, "done": False})

    for piece in r.thinking_pieces:
        yield part(thinking=piece), True
    for piece in r.text_pieces:
        yield part(content=piece), True
    for one in _ollama_calls(r):
        yield part(tool_calls=[one]), True
    yield _line({**head, "message": {"role": "assistant", "content": ""}, **_ollama_end(r)}), False


def ollama_error(f: Failure, rid: str) -> dict:
    return {"error": f.message or f"scripted {f.status}"}


def ollama_midstream(kind: str) -> bytes:
    return _line({"error": f"scripted mid-stream error: {kind}"})


# ---- Google Gemini --------------------------------------------------------


def parse_gemini(body: dict, size: int) -> Call:
    """*body* also holds ``model`` and ``stream``, which the path says."""
    turns: list[tuple[str, str, list[str]]] = []
    for content in body.get("contents", ()):
        parts = [p for p in content.get("parts", ()) if isinstance(p, dict)]
        text = "\n".join(p["text"] for p in parts if "text" in p)
        if content.get("role") == "model":
            turns.append(("calls" if any("functionCall" in p for p in parts) else "other", "", []))
            continue
        res = []
        for part in parts:
            if "functionResponse" in part:
                response = part["functionResponse"].get("response") or {}
                res.append(_result_text(response.get("output", response.get("error", response))))
        turns.append(("results" if res and not text else "user", text, res))
    prompt, results, rounds = _walk(turns)
    config = body.get("generationConfig") or {}
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is None and config.get("responseMimeType") == "application/json":
        schema = {"type": "object"}
    declared = [d for t in body.get("tools") or () for d in t.get("functionDeclarations") or ()]
    return Call(
        model=str(body.get("model", "")),
        stream=bool(body.get("stream")),
        prompt=prompt,
        system="\n".join(p.get("text", "") for p in (body.get("systemInstruction") or {}).get("parts") or ()),
        results=results,
        rounds_done=rounds,
        tools={d["name"]: _gemini_schema(d) for d in declared},
        input_tokens=max(1, size // 4),
        schema=schema,
        body=body,
    )


def _gemini_schema(declaration: dict) -> dict:
    """The API takes names in both spellings; its SDK leaves this one as it is."""
    named = ("parameters_json_schema", "parametersJsonSchema", "parameters")
    return next((declaration[name] for name in named if name in declaration), {})


_GEMINI_FINISH = {"end_turn": "STOP", "tool_use": "STOP", "max_tokens": "MAX_TOKENS"}


def _gemini_signature(text: str) -> str:
    return base64.b64encode(_signature(text).encode()).decode()


def _gemini_chunk(call: Call, rid: str, parts: list[dict], more: dict | None = None, usage: dict | None = None) -> dict:
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **(more or {})}
    chunk = {"candidates": [candidate], "modelVersion": call.model, "responseId": rid}
    return {**chunk, "usageMetadata": usage} if usage else chunk


def _gemini_usage(r: Reply) -> dict:
    """The prompt's tokens include what came from the cache; what was written to it is not told."""
    given = r.input_tokens + r.cache_read + r.cache_write
    return {
        "promptTokenCount": given,
        "candidatesTokenCount": max(0, r.output_tokens - r.reasoning),
        "thoughtsTokenCount": r.reasoning,
        "cachedContentTokenCount": r.cache_read,
        "totalTokenCount": given + r.output_tokens,
    }


def _gemini_finish(r: Reply) -> dict:
    stop = r.stop or "end_turn"
    return {"finishReason": _GEMINI_FINISH.get(stop, stop)}


def _gemini_calls(r: Reply) -> list[dict]:
    """As the real thing: the first of parallel calls carries the signature of what was thought."""
    parts: list[dict] = [{"functionCall": {"id": i, "name": n, "args": a}} for i, n, a in r.calls]
    if parts and r.thinking:
        parts[0]["thoughtSignature"] = _gemini_signature(r.thinking)
    return parts


def gemini_full(r: Reply, call: Call, rid: str) -> dict:
    parts: list[dict] = [{"text": r.thinking, "thought": True}] if r.thinking else []
    if r.text or not r.calls:
        text: dict = {"text": r.text}
        if r.thinking and not r.calls:
            text["thoughtSignature"] = _gemini_signature(r.thinking)
        parts.append(text)
    return _gemini_chunk(call, rid, parts + _gemini_calls(r), _gemini_finish(r), _gemini_usage(r))


def gemini_stream(r: Reply, call: Call, rid: str) -> Stream:
    for piece in r.thinking_pieces:
        yield _sse(None, _gemini_chunk(call, rid, [{"text": piece, "thought": True}])), True
    for piece in r.text_pieces:
        yield _sse(None, _gemini_chunk(call, rid, [{"text": piece}])), True
    for part in _gemini_calls(r):
        yield _sse(None, _gemini_chunk(call, rid, [part])), True
    last: list[dict] = [{"text": ""}]
    if r.thinking and not r.calls:  # the signature comes alone, behind the text it belongs to
        last[0]["thoughtSignature"] = _gemini_signature(r.thinking)
    yield _sse(None, _gemini_chunk(call, rid, last, _gemini_finish(r), _gemini_usage(r))), False


_GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def gemini_error(f: Failure, rid: str) -> dict:
    """``code`` becomes the reason (API_KEY_INVALID) or the quota (...PerDay...) in the error's details."""
    info = "type.googleapis.com/google.rpc."
    details: list[dict] = []
    if f.code and "PerDay" in f.code:
        details.append({"@type": f"{info}QuotaFailure", "violations": [{"quotaId": f.code}]})
    elif f.code:
        details.append({"@type": f"{info}ErrorInfo", "reason": f.code, "domain": "googleapis.com"})
    if f.retry_after is not None:
        details.append({"@type": f"{info}RetryInfo", "retryDelay": f"{f.retry_after}s"})
    error = {
        "code": f.status,
        "message": f.message or f"scripted {f.status}",
        "status": f.type or _GEMINI_STATUS.get(f.status, "UNKNOWN"),
    }
    return {"error": {**error, "details": details} if details else error}


_GEMINI_KINDS = {kind: status for status, kind in _ANTHROPIC_TYPES.items()}


def gemini_midstream(kind: str) -> bytes:
    status = {529: 503}.get(_GEMINI_KINDS.get(kind, 500), _GEMINI_KINDS.get(kind, 500))
    return _sse(None, gemini_error(Failure(status, message="scripted mid-stream error"), ""))


@dataclass(frozen=True)
class Api:
    """Everything that differs between the dialects."""

    name: str
    parse: Callable[[dict, int], Call]
    full: Callable[[Reply, Call, str], dict]
    stream: Callable[[Reply, Call, str], Stream]
    error: Callable[[Failure, str], dict]
    midstream: Callable[[str], bytes]
    id_prefix: str
    call_prefix: str
    content_type: str = "text/event-stream; charset=utf-8"  # of a stream


ANTHROPIC = Api(
    "messages",
    parse_anthropic,
    anthropic_full,
    anthropic_stream,
    anthropic_error,
    anthropic_midstream,
    "msg_",
    "toolu_",
)
CHAT = Api("chat", parse_chat, chat_full, chat_stream, openai_error, chat_midstream, "chatcmpl_", "call_")
RESPONSES = Api(
    "responses", parse_responses, responses_full, responses_stream, openai_error, responses_midstream, "resp_", "call_"
)
OLLAMA = Api(
    "ollama",
    parse_ollama,
    ollama_full,
    ollama_stream,
    ollama_error,
    ollama_midstream,
    "ollama_",
    "call_",
    content_type="application/x-ndjson",
)

GEMINI = Api("gemini", parse_gemini, gemini_full, gemini_stream, gemini_error, gemini_midstream, "gem_", "call_")

DEFAULT_MODELS = (
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "claude-opus-4-8",
    "gpt-5.2",
    "gpt-5-mini",
    "gpt-4o-mini",
    "fake-echo",
)


# --------------------------------------------------------------------------
# Server state
# --------------------------------------------------------------------------


@dataclass
class Options:
    host: str = "127.0.0.1"
    port: int = 0
    default: str = "echo"
    delay_ms: float = 0.0
    pace_ms: float = 0.0
    record: int = 0
    api_key: str | None = None
    models: tuple[str, ...] = DEFAULT_MODELS
    windows: dict[str, int] = field(default_factory=dict)  # told in the listing, as vLLM does


class State:
    def __init__(self, options: Options, worker: int = 0) -> None:
        self.options = options
        self.ids = Ids(worker)
        self.default_plan = parse_spec(options.default)
        self.hung_up = threading.Condition()
        self.transports: set[asyncio.Transport] = set()
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.streamed = 0
        self.aborted = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = getattr(self, "connections", 0)
        self.by_endpoint: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.queue: deque[Plan] = deque()
        self.recorded: deque[dict] = deque(maxlen=self.options.record or None)
        self.attempts: dict[bytes, int] = {}
        #: response id -> accumulated input items, for ``previous_response_id``
        self.chains: OrderedDict[str, list] = OrderedDict()

    def stats(self) -> dict:
        return {
            "requests": self.requests,
            "streamed": self.streamed,
            "aborted": self.aborted,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "connections": self.connections,
            "by_endpoint": dict(self.by_endpoint),
            "by_status": {str(k): v for k, v in self.by_status.items()},
            "pid": os.getpid(),
        }

    def choose(self, call: Call) -> Plan:
        if self.queue:
            return self.queue.popleft()
        plan, text = parse_markers(call.prompt)
        if plan is not None:
            call.prompt = text
            return plan
        spec = _model_spec(call.model)
        if spec is not None:
            return parse_spec(spec)
        if call.system:
            plan, _ = parse_markers(call.system)
            if plan is not None:
                return plan
        return self.default_plan

    def still_failing(self, failure: Failure, raw: bytes) -> bool:
        """Count identical bodies so ``times=N`` fails N times, then succeeds."""
        if failure.times is None:
            return True
        key = hashlib.sha1(raw).digest()
        seen = self.attempts.get(key, 0)
        if seen >= failure.times:
            self.attempts.pop(key, None)
            return False
        self.attempts[key] = seen + 1
        return True

    def remember(self, rid: str, items: list) -> None:
        self.chains[rid] = items
        if len(self.chains) > 10_000:
            self.chains.popitem(last=False)


# --------------------------------------------------------------------------
# HTTP/1.1
# --------------------------------------------------------------------------

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
            405: "Method Not Allowed", 413: "Payload Too Large", 429: "Too Many Requests",
            500: "Internal Server Error", 503: "Service Unavailable", 529: "Overloaded"}  # fmt: skip


def _head(status: int, fields: str) -> bytes:
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{fields}\r\n".encode("latin-1")


class Connection(asyncio.Protocol):
    """Keep-alive HTTP/1.1 connection.  Undelayed replies are sent synchronously."""

    __slots__ = ("_continued", "_writable", "buffer", "busy", "closed", "last", "state", "task", "transport")

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = b""
        self.busy = False
        self.closed = False
        self.last = False  # the client asked for "connection: close"
        self.task: asyncio.Task | None = None
        self._writable: asyncio.Event | None = None
        self._continued = False

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.state.connections += 1
        self.state.transports.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.state.connections -= 1
        self.state.transports.discard(self.transport)
        if self._writable:
            self._writable.set()
        if self.task and not self.task.done():
            self.task.cancel()

    def pause_writing(self) -> None:
        self._writable = self._writable or asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        if self._writable:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not self.busy:
            self._drain()

    def _drain(self) -> None:
        while self.buffer and not self.busy and not self.closed:
            parsed = self._take_request()
            if parsed is None:
                return
            self.last = parsed[2].get("connection", "").lower() == "close"
            self._dispatch(*parsed)
            if self.last and not self.busy:
                self.transport.close()  # flushes what was written first

    # -- request parsing

    def _take_request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        try:
            method, target, _ = lines[0].split(" ", 2)
        except ValueError:
            self._send(400, b"bad request line", "text/plain")
            self.transport.close()
            return None
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        start = end + 4
        if "chunked" in headers.get("transfer-encoding", "").lower():
            got = self._take_chunked(start)
            if got is None:
                return None
            body, rest = got
        else:
            length = int(headers.get("content-length") or 0)
            if len(self.buffer) - start < length:
                if headers.get("expect", "").lower() == "100-continue" and not self._continued:
                    self._continued = True
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return None
            body, rest = self.buffer[start : start + length], start + length
        self.buffer = self.buffer[rest:]
        self._continued = False
        return method, target, headers, body

    def _take_chunked(self, pos: int) -> tuple[bytes, int] | None:
        out, buf = [], self.buffer
        while True:
            eol = buf.find(b"\r\n", pos)
            if eol < 0:
                return None
            size = int(buf[pos:eol].split(b";")[0], 16)
            pos = eol + 2
            if len(buf) < pos + size + 2:
                return None
            if size == 0:
                tail = buf.find(b"\r\n", pos)
                return (b"".join(out), tail + 2) if tail >= 0 else None
            out.append(buf[pos : pos + size])
            pos += size + 2

    # -- routing

    def _dispatch(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        path, _, query = target.partition("?")
        if len(path) > 1:
            path = path.rstrip("/")
        headers[":path"] = target  # recorded with the others, as HTTP/2 has it
        try:
            if path.startswith("/__fake__"):
                self._control(method, path, query, body)
            elif method == "POST" and path.endswith("/messages"):
                self._llm(ANTHROPIC, headers, body)
            elif method == "POST" and path.endswith("/chat/completions"):
                self._llm(CHAT, headers, body)
            elif method == "POST" and path.endswith("/responses"):
                self._llm(RESPONSES, headers, body)
            elif method == "POST" and path.endswith("/api/chat"):
                self._llm(OLLAMA, headers, body)
            elif method == "GET" and path.endswith("/api/tags"):
                self._ollama_models()
            elif method == "POST" and path.endswith("/api/show"):
                self._ollama_model(_loads(body))
            elif method == "POST" and path.endswith("/api/pull"):
                self.state.by_endpoint["ollama-pull"] += 1
                self._send(200, _line({"status": "pulling"}) + _line({"status": "success"}), OLLAMA.content_type)
            elif method == "POST" and path.endswith("/messages/count_tokens"):
                self._json(200, {"input_tokens": max(1, len(body) // 4)})
            elif method == "POST" and path.endswith((":generateContent", ":streamGenerateContent")):
                model, _, verb = unquote(path).rpartition("/models/")[2].rpartition(":")
                self._llm(GEMINI, headers, body, {"model": model, "stream": verb == "streamGenerateContent"})
            elif method in ("GET", "HEAD") and path == "/healthz":
                self._json(200, {"status": "ok"})
            elif method == "GET" and (path.endswith("/models") or "/models/" in path):
                if "x-goog-api-key" in headers:
                    self._gemini_models()
                else:
                    self._models(path, "anthropic-version" in headers)
            else:
                self._json(404, {"error": {"type": "not_found_error", "message": f"no route for {method} {path}"}})
        except Exception as exc:  # a test double must say what it choked on
            self._json(500, {"error": {"type": "fake_llm_bug", "message": f"{type(exc).__name__}: {exc}"}})

    def _models(self, path: str, anthropic: bool) -> None:
        def entry(name: str) -> dict:
            if anthropic:
                return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}
            made = {"id": name, "object": "model", "created": 1735689600, "owned_by": "fake"}
            window = self.state.options.windows.get(name)
            return made if window is None else made | {"max_model_len": window}

        if not path.endswith("/models"):
            self._json(200, entry(path.split("/models/", 1)[1]))
            return
        data = [entry(m) for m in self.state.options.models]
        if anthropic:
            self._json(200, {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})
        else:
            self._json(200, {"object": "list", "data": data})

    def _ollama_models(self) -> None:
        entry = {"modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": "0", "details": {"family": "fake"}}
        models = [{"name": name, "model": name, **entry} for name in self.state.options.models]
        self._json(200, {"models": models})

    def _ollama_model(self, body: dict) -> None:
        if body.get("model") not in self.state.options.models:
            self._json(404, {"error": f"model '{body.get('model')}' not found"})
            return
        facts = {"general.architecture": "fake", "fake.context_length": 131_072}
        capabilities = ["completion", "tools", "thinking", "vision"]
        self._json(200, {"details": {"family": "fake"}, "model_info": facts, "capabilities": capabilities})

    def _gemini_models(self) -> None:
        models = [
            {
                "name": f"models/{name}",
                "displayName": name,
                "inputTokenLimit": 1_048_576,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
            }
            for name in self.state.options.models
        ]
        embedding = {"name": "models/embedding", "supportedGenerationMethods": ["embedContent"]}
        self._json(200, {"models": [*models, embedding]})

    def _control(self, method: str, path: str, query: str, body: bytes) -> None:
        state, what = self.state, path.rsplit("/", 1)[-1]
        if what == "stats":
            self._json(200, state.stats())
        elif what == "requests":
            self._json(200, {"requests": list(state.recorded)})
        elif what == "reset" and method == "POST":
            state.reset()
            self._json(200, {"ok": True})
        elif what == "queue" and method == "POST":
            specs = _loads(body).get("specs", [])
            state.queue.extend(parse_spec(s if "[[" in s else f"[[{s}]]") for s in specs)
            self._json(200, {"queued": len(state.queue)})
        else:
            self._json(404, {"error": f"unknown control endpoint {path}"})

    # -- LLM endpoints

    def _llm(self, api: Api, headers: dict[str, str], raw: bytes, told: dict | None = None) -> None:
        """*told*: what the path says and the body does not."""
        state = self.state
        with state.hung_up:
            state.requests += 1
            state.hung_up.notify_all()
        state.by_endpoint[api.name] += 1
        rid = state.ids("req_")
        key = state.options.api_key
        if key is not None:
            given = headers.get("x-api-key") or headers.get("api-key") or headers.get("authorization", "")[7:]
            given = given or headers.get("x-goog-api-key")
            if given != key:
                self._fail(api, Failure(401, message="invalid api key"), rid)
                return
        try:
            body = {**_loads(raw), **(told or {})}
        except ValueError:
            self._fail(api, Failure(400, message="request body is not JSON"), rid)
            return
        chain: list | None = None
        if api is RESPONSES:
            chain = body.get("input", [])
            chain = [{"role": "user", "content": chain}] if isinstance(chain, str) else list(chain)
            if prior := body.get("previous_response_id"):
                if prior not in state.chains:
                    msg = f"Previous response with id '{prior}' not found."
                    self._fail(api, Failure(400, code="previous_response_not_found", message=msg), rid)
                    return
                chain = state.chains[prior] + chain
            call = api.parse({**body, "input": chain}, len(raw))
        else:
            call = api.parse(body, len(raw))
        if state.options.record:
            state.recorded.append({"endpoint": api.name, "stream": call.stream, "headers": headers, "body": body})

        plan = state.choose(call)
        delay = plan.delay_s + state.options.delay_ms / 1000
        pace = plan.pace_s or state.options.pace_ms / 1000
        if plan.error and state.still_failing(plan.error, raw):
            if delay:
                self._later(self._fail_later(delay, api, plan.error, rid))
            else:
                self._fail(api, plan.error, rid)
            return
        reply = build_reply(plan, call, state.ids, api.call_prefix)
        mid = state.ids(api.id_prefix)
        if chain is not None:
            state.remember(mid, chain + _responses_items(reply, call, mid))

        extra = f"request-id: {rid}\r\nx-request-id: {rid}\r\n"
        for name, value in plan.headers.items():
            extra += f"{name}: {value}\r\n"
        interrupted = plan.midstream_after is not None or plan.disconnect_after is not None
        if not call.stream:
            payload = _dumps(api.full(reply, call, mid))
            wait = delay + pace * len(reply.text_pieces)
            if plan.disconnect_after is not None:
                self._later(self._hang_up(wait))
            elif wait:
                self._later(self._send_later(wait, payload, extra))
            else:
                self._send(200, payload, "application/json", extra)
            return
        state.streamed += 1
        if delay or pace or interrupted:
            self._later(self._stream_slowly(api, plan, reply, call, mid, delay, pace, extra))
            return
        data = b"".join(part for part, _ in api.stream(reply, call, mid))
        state.by_status[200] += 1
        self.transport.write(
            _head(
                200,
                f"content-type: {api.content_type}\r\ncache-control: no-cache\r\n{extra}transfer-encoding: chunked\r\n",
            )
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        )

    def _fail(self, api: Api, failure: Failure, rid: str) -> None:
        extra = f"request-id: {rid}\r\nx-request-id: {rid}\r\n"
        if failure.retry_after is not None:
            extra += f"retry-after: {failure.retry_after}\r\n"
        self._send(failure.status, _dumps(api.error(failure, rid)), "application/json", extra)

    # -- delayed replies run as tasks

    def _later(self, work: Any) -> None:
        self.busy = True
        self.task = asyncio.ensure_future(self._run(work))

    async def _run(self, work: Any) -> None:
        state = self.state
        state.in_flight += 1
        state.max_in_flight = max(state.max_in_flight, state.in_flight)
        with state.hung_up:
            state.hung_up.notify_all()
        try:
            await work
        except asyncio.CancelledError:
            with state.hung_up:
                state.aborted += 1  # the client went away mid-reply
                state.hung_up.notify_all()
        finally:
            state.in_flight -= 1
            self.busy = False
            if self.last:
                self.transport.close()
            elif not self.closed:
                self._drain()

    async def _fail_later(self, delay: float, api: Api, failure: Failure, rid: str) -> None:
        await asyncio.sleep(delay)
        self._fail(api, failure, rid)

    async def _send_later(self, delay: float, payload: bytes, extra: str) -> None:
        await asyncio.sleep(delay)
        self._send(200, payload, "application/json", extra)

    async def _hang_up(self, delay: float) -> None:
        await asyncio.sleep(delay)
        self.transport.abort()

    async def _stream_slowly(
        self, api: Api, plan: Plan, reply: Reply, call: Call, mid: str, delay: float, pace: float, extra: str
    ) -> None:
        if delay:
            await asyncio.sleep(delay)
        write = self.transport.write
        self.state.by_status[200] += 1
        write(
            _head(
                200,
                f"content-type: {api.content_type}\r\ncache-control: no-cache\r\n{extra}transfer-encoding: chunked\r\n",
            )
        )
        deltas = 0
        for data, is_delta in api.stream(reply, call, mid):
            if is_delta:
                if plan.disconnect_after is not None and deltas >= plan.disconnect_after:
                    self.transport.abort()
                    return
                if plan.midstream_after is not None and deltas >= plan.midstream_after:
                    data = api.midstream(plan.midstream_type)
                    write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
                    return
                deltas += 1
                if pace:
                    await asyncio.sleep(pace)
            if self._writable and not self._writable.is_set():
                await self._writable.wait()
            write(b"%x\r\n%b\r\n" % (len(data), data))
        write(b"0\r\n\r\n")

    # -- plain replies

    def _json(self, status: int, obj: Any) -> None:
        self._send(status, _dumps(obj), "application/json")

    def _send(self, status: int, payload: bytes, content_type: str, extra: str = "") -> None:
        self.state.by_status[status] += 1
        self.transport.write(
            _head(status, f"content-type: {content_type}\r\n{extra}content-length: {len(payload)}\r\n") + payload
        )


# --------------------------------------------------------------------------
# Running it
# --------------------------------------------------------------------------


async def serve(options: Options, sock: socket.socket | None = None, worker: int = 0) -> tuple[asyncio.Server, State]:
    """Start serving on the running loop; returns the asyncio server and its state."""
    state = State(options, worker)
    loop = asyncio.get_running_loop()
    where = {"sock": sock} if sock else {"host": options.host, "port": options.port}
    server = await loop.create_server(lambda: Connection(state), backlog=4096, **where)
    return server, state


class FakeLLM:
    """The server in a background thread, as a context manager, for tests."""

    def __init__(self, **options: Any) -> None:
        self.options = Options(**options)
        self.url = ""
        self.state: State | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> FakeLLM:
        ready = threading.Event()

        def run() -> None:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            server, self.state = loop.run_until_complete(serve(self.options))
            port = server.sockets[0].getsockname()[1]
            self.url, self._loop = f"http://{self.options.host}:{port}", loop
            ready.set()
            try:
                loop.run_forever()
            finally:
                server.close()
                for transport in list(self.state.transports):
                    transport.abort()
                tasks = asyncio.all_tasks(loop)
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
                loop.run_until_complete(asyncio.sleep(0))  # aborted transports close on the next pass
                loop.close()

        self._thread = threading.Thread(target=run, name="fake-llm", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("fake LLM did not start")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread:
            self._thread.join(5)

    def stats(self) -> dict:
        assert self.state is not None
        return self.state.stats()

    def wait_for_abort(self, timeout: float = 10.0) -> int:
        """Wait until a client went away in the middle of a reply; how many have."""
        assert self.state is not None
        with self.state.hung_up:
            self.state.hung_up.wait_for(lambda: self.state is not None and self.state.aborted > 0, timeout)
            return self.state.aborted

    def wait_for_request(self, timeout: float = 10.0) -> int:
        """Wait until a request is being answered; how many are."""
        assert self.state is not None
        with self.state.hung_up:
            self.state.hung_up.wait_for(lambda: self.state is not None and self.state.in_flight > 0, timeout)
            return self.state.in_flight

    def recorded(self) -> list[dict]:
        assert self.state is not None
        return list(self.state.recorded)

    def queue(self, *specs: str) -> None:
        assert self.state is not None
        self.state.queue.extend(parse_spec(f"[[{s}]]") for s in specs)

    def reset(self) -> None:
        assert self.state is not None
        self.state.reset()


def _listen(options: Options, shared: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((options.host, options.port))
    sock.setblocking(False)
    return sock


def _worker(options: Options, sock: socket.socket, index: int, announce: str | None) -> None:
    async def main() -> None:
        server, _ = await serve(options, sock, index)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, stop.set)
        if announce:
            print(announce, flush=True)
        await stop.wait()
        server.close()

    asyncio.run(main())


def main(argv: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    ap.add_argument("--host", default="127.0.0.1")
    ap.add_argument("--port", type=int, default=8123, help="0 picks a free port")
    ap.add_argument("--workers", type=int, default=1, help="processes sharing the port (state is per process)")
    ap.add_argument("--default", default="echo", help="directives used when a request names none")
    ap.add_argument("--delay-ms", type=float, default=0.0, help="extra latency before every reply")
    ap.add_argument("--pace-ms", type=float, default=0.0, help="extra latency between streamed deltas")
    ap.add_argument("--record", type=int, default=0, help="keep the last N request bodies")
    ap.add_argument("--api-key", help="require this key (401 otherwise)")
    ap.add_argument("--models", help="comma-separated ids for the model listing")
    args = ap.parse_args(argv)

    options = Options(
        host=args.host, port=args.port, default=args.default, delay_ms=args.delay_ms,
        pace_ms=args.pace_ms, record=args.record, api_key=args.api_key,
        models=tuple(args.models.split(",")) if args.models else DEFAULT_MODELS,
    )  # fmt: skip
    shared = args.workers > 1
    sock = _listen(options, shared)
    options.port = sock.getsockname()[1]
    announce = f"READY http://{options.host}:{options.port}"
    if not shared:
        _worker(options, sock, 0, announce)
        return 0

    children = []
    for index in range(args.workers):
        pid = os.fork()
        if pid == 0:
            own = sock if index == 0 else _listen(options, True)
            _worker(options, own, index, None)
            os._exit(0)
        children.append(pid)
    sock.close()
    print(announce, flush=True)
    stop = lambda *_: [os.kill(p, signal.SIGTERM) for p in children]  # noqa: E731
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for pid in children:
        with contextlib.suppress(ChildProcessError, InterruptedError):
            os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
