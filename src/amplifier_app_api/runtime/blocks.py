"""The blocks of an answer: as they were streamed, and as the whole message has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.models.event import DeltaType
from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.runtime.masking import MaskingStream, SecretMask

DELTA_TYPES: Mapping[str, DeltaType] = {"text": "message.delta", "thinking": "reasoning.delta"}


@dataclass
class StreamedBlock:
    """A block that is being streamed. `parts` are what came, `length` counts the code points that were shown.

    `masking` holds back what may be a secret; without it what comes is shown, and `shown` stays empty.
    """

    number: int
    type: str
    name: str | None = None
    parts: list[str] = field(default_factory=list[str])
    length: int = 0
    masking: MaskingStream | None = None
    shown: list[str] | None = None

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self.parts)

    def mask_with(self, mask: SecretMask) -> None:
        """Show what comes from now on as `mask` leaves it."""
        self.masking = mask.stream()
        if self.masking is not None and self.shown is None:
            self.shown = list(self.parts)

    @property
    def shown_text(self) -> str:
        """What people have seen of it."""
        return "".join(self.parts if self.shown is None else self.shown)


@dataclass(eq=False)
class ModelCall:
    """One attempt to get an answer. `stream_id` is the module's own id of the stream."""

    request: int
    stream_id: str | None = None
    blocks: dict[Any, StreamedBlock] = field(default_factory=dict[Any, StreamedBlock])
    answered: bool = False
    settled: bool = False
    mask: SecretMask | None = None

    def block(self, key: Any, type: str, name: str | None = None) -> StreamedBlock:  # noqa: A002
        """The block of this key, opened when it is new."""
        block = self.blocks.get(key)
        if block is None:
            block = self.blocks[key] = StreamedBlock(len(self.blocks), type, name)
            if self.mask is not None and type in DELTA_TYPES:
                block.mask_with(self.mask)
        return block

    @property
    def streamed_text(self) -> str:
        """The text that was streamed so far, without thinking."""
        return "".join(block.text for block in self.blocks.values() if block.type == "text")


def blocks_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of an assistant's message: `{type, text}` or `{type: tool_use, tool_use}`."""
    content = message.get("content")
    parts: Sequence[Any] = (
        [{"type": "text", "text": content}] if isinstance(content, str) and content else content or ()
    )
    blocks: list[dict[str, Any]] = []
    called: set[Any] = set()
    for part in parts:
        match part:
            case {"type": "text", "text": str() as text}:
                blocks.append({"type": "text", "text": made_storable(text)})
            case {"type": "thinking", "thinking": str() as text}:
                blocks.append({"type": "thinking", "text": made_storable(text)})
            case {"type": "tool_call" | "tool_use", "id": identity, "name": name}:
                called.add(identity)
                blocks.append(_tool_use(identity, name, part.get("input")))
            case _:
                continue
    blocks.extend(
        _tool_use(call.get("id"), call.get("tool") or call.get("name"), call.get("arguments"))
        for call in message.get("tool_calls") or ()
        if call.get("id") not in called
    )
    return blocks


def _tool_use(identity: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "tool_use": {"id": identity, "name": name, "input": arguments}}


def numbered(blocks: Sequence[dict[str, Any]], call: ModelCall) -> list[dict[str, Any]]:
    """The blocks with the numbers that their deltas had; a block that was not streamed gets a new one.

    Modules stream items that never become content, and the other way round, so blocks are paired by what they
    are, not by their index.
    """
    free = list(call.blocks.values())
    following = len(free)
    result: list[dict[str, Any]] = []
    for block in blocks:
        match = next((streamed for streamed in free if _same(streamed, block)), None)
        if match is None:
            number, following = following, following + 1
        else:
            number = match.number
            free.remove(match)
        result.append({"block": number, **block})
    return result


def _same(streamed: StreamedBlock, block: Mapping[str, Any]) -> bool:
    if streamed.type != block["type"]:
        return False
    if streamed.type == "tool_use":
        return streamed.name in (None, block["tool_use"]["name"])
    return streamed.text == block["text"]
