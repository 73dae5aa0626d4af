"""Speaking with a provider of ours, and seeing what it told the kernel and sent to the model double."""

from typing import Any

from amplifier_core.message_models import ChatRequest, Message
from amplifier_core.testing import EventRecorder

from doubles.fake_llm import FakeLLM

Row = dict[str, Any]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
PICTURE_ELSEWHERE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Hooks(EventRecorder):
    def of(self, event: str) -> list[Row]:
        return [data for name, data in self.events if name == event]

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def streamed(self, kind: str) -> str:
        return "".join(data["text"] for data in self.of("llm:stream_block_delta") if data["block_type"] == kind)


class Coordinator:
    """What a provider's `mount` uses of the kernel's; the hooks of the real one cannot be chosen."""

    session_id = "session-1"

    def __init__(self, hooks: Hooks | None = None, **capabilities: Any) -> None:
        self.hooks = hooks or Hooks()
        self.provider: Any = None
        self._capabilities = capabilities

    async def mount(self, point: str, provider: Any, name: str) -> None:
        assert (point, provider.name) == ("providers", name)
        self.provider = provider

    def get_capability(self, name: str) -> Any:
        return self._capabilities.get(name)


def request(*rows: Any, **fields: Any) -> ChatRequest:
    """A row that is a text is the user's."""
    made = [row if isinstance(row, dict) else {"role": "user", "content": row} for row in rows]
    return ChatRequest(messages=[Message.model_validate(row) for row in made], **fields)


async def text(provider: Any, *rows: Any, **fields: Any) -> str:
    response = await provider.complete(request(*rows, **fields))
    return "".join(block.text for block in response.content if block.type == "text")


def sent(llm: FakeLLM) -> Row:
    """The body of the last call."""
    return llm.recorded()[-1]["body"]


def row_of(response: Any) -> Row:
    """A reply as the loops store it."""
    blocks = [block.model_dump(exclude_none=True) for block in response.content]
    calls = [{"id": call.id, "tool": call.name, "arguments": call.arguments} for call in response.tool_calls or []]
    return {"role": "assistant", "content": blocks} | ({"tool_calls": calls} if calls else {})


def result(call_id: str, content: Any) -> Row:
    return {"role": "tool", "tool_call_id": call_id, "content": content}
