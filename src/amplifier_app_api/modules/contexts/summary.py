"""A summary, written by the model, of what a conversation no longer shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from amplifier_app_api.modules.contexts.tokens import CHARS_PER_TOKEN
from amplifier_app_api.modules.kernel import ChatRequest, ChatResponse, Message

Row = Mapping[str, Any]

LONGEST_ENTRY = 4_000
"""Letters of one message that the summary is made from; of a longer one the beginning and the end."""

PATIENCE = 180.0
"""Seconds for a whole summary; a turn does not wait longer for one."""

TASK = """You keep the memory of a conversation between a user and an assistant that works with tools. Parts of it no
longer fit and will be gone; the assistant goes on with nothing but your summary of them and with the newest messages.

Write down what it will need: what the user wants and how they want it done; decisions and their reasons; names, paths,
commands, figures and errors exactly as they were; what was changed and what came of it; what is unfinished. Leave out
greetings, repetition and what was overtaken by later events. Do not answer the conversation and do not address anybody.
Write in the language of the conversation, in short paragraphs or lists."""


def summary_message(text: str) -> dict[str, Any]:
    """The message that stands for what was left out."""
    return {"role": "system", "content": f"<summary of the conversation so far>\n{text}\n</summary>"}


async def summarize(provider: Any, earlier: str, rows: Sequence[Row], *, tokens: int, room: int) -> str:
    """A summary of `rows`, and of an `earlier` summary, of about as many `tokens` at most.

    It is made in steps when the rows need more than `room` tokens. What a provider raises passes through, and
    `TimeoutError` when it does not come to an end.
    """
    text = earlier
    async with asyncio.timeout(PATIENCE):
        for part in _parts(rows, max(room * CHARS_PER_TOKEN - len(TASK), LONGEST_ENTRY + 200)):
            text = _bounded(await _step(provider, text, part, tokens), tokens)
    return text


def _bounded(text: str, tokens: int) -> str:
    """A model may write more than it was told to, and a summary stays for good."""
    longest = 2 * tokens * CHARS_PER_TOKEN  # a token may hold more letters than are reckoned
    return text if len(text) <= longest else f"{text[:longest]}\n[…]"


async def _step(provider: Any, earlier: str, part: str, tokens: int) -> str:
    known = f"What was summarized before:\n{earlier}\n\n" if earlier else ""
    request = ChatRequest(
        messages=[
            Message(role="system", content=TASK),
            Message(role="user", content=f"{known}The part of the conversation that will be gone:\n{part}"),
        ],
        max_output_tokens=tokens,
        stream=False,
        metadata={"stream": False},
    )
    response = cast("ChatResponse", await provider.complete(request))
    blocks = [block.text for block in response.content if block.type == "text"]
    return "".join(blocks).strip() or earlier


def _parts(rows: Sequence[Row], longest: int) -> Iterator[str]:
    """The rows as text, in parts of at most so many letters."""
    part: list[str] = []
    size = 0
    for entry in map(_entry, rows):
        if part and size + len(entry) > longest:
            yield "\n".join(part)
            part, size = [], 0
        part.append(entry)
        size += len(entry) + 1
    if part:
        yield "\n".join(part)


def _entry(row: Row) -> str:
    content: Any = row.get("content")
    pieces = [content] if isinstance(content, str) else [_piece(block) for block in content or ()]
    text = "\n".join(piece for piece in pieces if piece)
    if len(text) > LONGEST_ENTRY:
        half = LONGEST_ENTRY // 2
        text = f"{text[:half]}\n[…]\n{text[-half:]}"
    return f"{row.get('role')}: {text}"


def _piece(block: Any) -> str:
    match block:
        case {"type": "text", "text": str() as text}:
            return text
        case {"type": "tool_call" | "tool_use", "name": name, "input": arguments}:
            return f"[calls {name} {json.dumps(arguments, ensure_ascii=False, default=str)}]"
        case {"type": "tool_result", "output": output}:
            return str(output)
        case {"type": "image"}:
            return "[an image]"
        case _:
            return ""
