"""A conversation as Anthropic's Messages API wants it.

Where the API is stricter than the kernel: system texts stand apart, roles alternate and start with a user's,
every tool call is followed at once by its result. What does not fit is mended here, never in what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.kernel import Message, ToolCall
from amplifier_app_api.modules.providers.conversation import NO_RESULT, Step, reminder, repairs_of, safe_name, steps_of

Param = dict[str, Any]

SHORTENED = "[Earlier messages were left out]"

_ID = re.compile(r"[^a-zA-Z0-9_-]")  # letters of other providers' ids that this API does not allow in one
_CACHED_TYPES = {"text", "image", "tool_result"}
_THOUGHTS = {"thinking", "redacted_thinking"}


@dataclass(slots=True)
class Conversation:
    system: list[Param] = field(default_factory=list[Param])
    messages: list[Param] = field(default_factory=list[Param])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])  # calls that got `NO_RESULT`
    ids: dict[str, str] = field(default_factory=dict[str, str])  # of the calls of the latest reply, as the API has them
    _uses: dict[str, int] = field(default_factory=dict[str, int])  # how often an id was given out

    def add(self, role: str, blocks: list[Param]) -> None:
        """Append blocks; those of one role in a row become one message."""
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"].extend(blocks)
        else:
            self.messages.append({"role": role, "content": list(blocks)})

    def name_calls(self, calls: Sequence[ToolCall]) -> None:
        """Give each call of a reply an id of its own; servers of other kinds begin anew in each reply."""
        self.ids = {call.id: self._free_id(_ID.sub("_", call.id) or "_") for call in calls}

    def _free_id(self, wanted: str) -> str:
        made = wanted
        while (uses := self._uses.get(made, 0)) > 0:
            self._uses[made] = uses + 1
            made = f"{wanted}_{uses + 1}"
        self._uses[made] = 1
        return made

    def mark_for_caching(self) -> None:
        """Let the API keep the system prompt and the conversation up to here.

        Also up to the user's part before: what a hook puts behind the last one is gone in the next request, and
        the API looks back only some twenty blocks for what it kept.
        """
        if self.system:
            self.system[-1] = _cached(self.system[-1])
        for message in [message for message in self.messages if message["role"] == "user"][-2:]:
            content = cast("list[Param]", message["content"])
            if content[-1]["type"] in _CACHED_TYPES:
                content[-1] = _cached(content[-1])

    @property
    def holds_thoughts(self) -> bool:
        return any(block["type"] in _THOUGHTS for message in self.messages for block in message["content"])


def translate(messages: Sequence[Message], *, thoughts: bool = True) -> Conversation:
    """Without `thoughts`, what the model thought before is left out."""
    made = Conversation()
    for step in steps_of(messages):
        match step.kind:
            case "system":
                made.system += _texts(_plain(step.message.content))
            case "aside":
                text = _plain(step.message.content)
                made.add("user", [_text(reminder(text))] if text.strip() else [])
            case "user":
                made.add("user", _user_blocks(step.message.content))
            case "reply":
                made.name_calls(step.calls)
                made.add("assistant", _reply(step, made.ids, thoughts=thoughts))
            case "results":
                made.repairs += repairs_of(step)
                results = step.results or {}
                made.add("user", [_result(made.ids[call.id], results.get(call.id)) for call in step.calls])
    if made.messages and made.messages[0]["role"] != "user":
        made.messages.insert(0, {"role": "user", "content": [_text(SHORTENED)]})
    return made


def _reply(step: Step, ids: dict[str, str], *, thoughts: bool) -> list[Param]:
    """Each call stands where its block does; what the loop stored without one follows."""
    calls = {call.id: call for call in step.calls}
    blocks: list[Param] = []
    content = step.message.content
    for block in [] if isinstance(content, str) else content:
        if block.type == "tool_call":
            call = calls.pop(block.id, None)  # None: a second one with the id of the first
            blocks += [] if call is None else [_use(call, ids)]
        elif (made := _assistant_block(block)) is not None and (thoughts or made["type"] not in _THOUGHTS):
            blocks.append(made)
    if isinstance(content, str):
        blocks = _texts(content)
    blocks += [_use(call, ids) for call in calls.values()]
    while blocks and blocks[-1]["type"] in _THOUGHTS:  # the API refuses thoughts that lead to nothing
        blocks.pop()
    return blocks


def _use(call: ToolCall, ids: dict[str, str]) -> Param:
    return {"type": "tool_use", "id": ids[call.id], "name": safe_name(call.name), "input": call.arguments}


def _result(call_id: str, message: Message | None) -> Param:
    answer: Param = {"type": "tool_result", "tool_use_id": call_id}
    if message is None:
        return {**answer, "content": NO_RESULT, "is_error": True}
    content = message.content if isinstance(message.content, str) else _user_blocks(message.content)
    return {**answer, "content": content}


def _assistant_block(block: Any) -> Param | None:
    match block.type:
        case "text" if block.text.strip():
            return _text(block.text)
        case "thinking" if block.signature:  # only what this API signed can be shown to it again
            return {"type": "thinking", "thinking": block.thinking, "signature": block.signature}
        case "redacted_thinking":
            return {"type": "redacted_thinking", "data": block.data}
        case _:
            return None


def _user_blocks(content: Any) -> list[Param]:
    if isinstance(content, str):
        return _texts(content)
    blocks: list[Param] = []
    for block in content:
        if block.type == "image":
            blocks.append({"type": "image", "source": block.source})  # the kernel's sources are this API's
        elif block.type == "text":
            blocks += _texts(block.text)
    return blocks


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if block.type == "text")


def _texts(text: str) -> list[Param]:
    """The API refuses blank texts."""
    return [_text(text)] if text.strip() else []


def _text(text: str) -> Param:
    return {"type": "text", "text": text}


def _cached(block: Param) -> Param:
    return {**block, "cache_control": {"type": "ephemeral"}}
