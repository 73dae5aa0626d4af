"""The answer a script gives at one point of a conversation, and the response made of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

from amplifier_app_api.modules.kernel import (
    ChatRequest,
    ChatResponse,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.conversation import Standing, text_of
from amplifier_app_api.modules.providers.directives import Script, sample

PREVIEW_CHARS = 200

_PIECE = re.compile(r"\s*\S+(?:\s+$)?")


@dataclass(frozen=True, slots=True)
class Answer:
    thinking: str
    text: str
    calls: list[ToolCall]


def echoing(script: Script, text: str) -> Script:
    """Directives that say nothing about the answer repeat the user's text behind `echo: `."""
    if script.text is None and script.tokens is None and not script.rounds:
        script.text = f"echo: {text}"
    return script


def with_text(script: Script, text: str) -> Script:
    """A written reply: what stands around its directives is the answer unless they say another."""
    if script.text is None and script.tokens is None and (text or not script.rounds):
        script.text = text
    return script


def answer_to(script: Script, where: Standing, request: ChatRequest) -> Answer:
    thinking = script.think or ""
    if where.rounds < len(script.rounds):
        calls = [_call(name, arguments, request) for name, arguments in script.rounds[where.rounds]]
        return Answer(thinking, script.say or "", calls)
    if script.rounds:
        preview = " | ".join(r if len(r) <= PREVIEW_CHARS else r[:PREVIEW_CHARS] + "..." for r in where.results)
        return Answer(thinking, script.then or script.text or f"Tool results: {preview}", [])
    if script.text is None:
        return Answer(thinking, " ".join(f"w{number}" for number in range(script.tokens or 0)), [])
    return Answer(thinking, script.text, [])


def _call(name: str, arguments: dict[str, Any] | None, request: ChatRequest) -> ToolCall:
    if arguments is None:
        schemas = [tool.parameters for tool in request.tools or [] if tool.name == name]
        made: Any = sample(schemas[0]) if schemas else None
        arguments = cast("dict[str, Any]", made) if isinstance(made, dict) else {}
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", name=name, arguments=arguments)


def stream_blocks(answer: Answer) -> list[tuple[str, str, str | None]]:
    """The answer's blocks as the stream names them: type, text, tool name."""
    blocks: list[tuple[str, str, str | None]] = []
    if answer.thinking:
        blocks.append(("thinking", answer.thinking, None))
    if answer.text or not answer.calls:
        blocks.append(("text", answer.text, None))
    return blocks + [("tool_use", "", call.name) for call in answer.calls]


def pieces(text: str, chunk: int | None) -> list[str]:
    """A text as its deltas: words with the space before them, or `chunk` letters at a time."""
    if chunk is not None:
        return [text[start : start + chunk] for start in range(0, len(text), chunk)]
    return _PIECE.findall(text) or ([text] if text else [])


def response_of(answer: Answer, script: Script, characters: int) -> ChatResponse:
    """The response of an answer to a conversation of so many characters."""
    content: list[ThinkingBlock | TextBlock | ToolCallBlock] = []
    if answer.thinking:
        content.append(ThinkingBlock(thinking=answer.thinking))
    if answer.text or not answer.calls:
        content.append(TextBlock(text=answer.text))
    content += [ToolCallBlock(id=call.id, name=call.name, input=call.arguments) for call in answer.calls]
    return ChatResponse(
        content=cast("list[Any]", content),
        tool_calls=answer.calls or None,
        usage=_usage(answer, script, characters),
        finish_reason=script.stop or ("tool_use" if answer.calls else "end_turn"),
    )


def _usage(answer: Answer, script: Script, characters: int) -> Usage:
    """Figures as said by `usage:`, else counted in words; `input_tokens` includes what came from a cache."""
    thought = len(pieces(answer.thinking, script.chunk))
    written = len(pieces(answer.text, script.chunk)) + 8 * len(answer.calls) + thought
    said = script.usage
    read, made = said.get("cache_read", 0), said.get("cache_write", 0)
    given = characters // 4
    input_tokens = said.get("input", max(1, given)) + read + made
    output_tokens = said.get("output", max(1, written))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
        reasoning_tokens=said.get("reasoning", thought or None),
        cache_read_tokens=read or None,
        cache_write_tokens=made or None,
    )


class ReadTexts:
    """How many characters a conversation has: what was counted in the request before is not counted again."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._lengths: list[int] = []

    def characters(self, messages: Sequence[Message]) -> int:
        """The characters of all texts."""
        same = [*map(is_, self._messages, messages)]
        known = same.index(False) if False in same else len(same)
        self._lengths[known:] = map(_length, messages[known:])
        self._messages = [*messages]
        return sum(self._lengths)


def _length(message: Message) -> int:
    content = message.content
    return len(content) if isinstance(content, str) else len(text_of(content))
