"""Messages with images, for tests."""

import base64
from typing import Any

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"picture").decode()
"""Fifteen bytes that begin as a picture does."""
SHOWN = {"type": "image", "media_type": "image/png", "bytes": 15}
"""The picture in events and lists."""


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def picture(data: str = PNG, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def linked(url: str = "https://example.com/cat.png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


EYES = """
from amplifier_core import ChatResponse, ModelInfo, ProviderInfo
from amplifier_core.message_models import TextBlock, Usage

__amplifier_module_type__ = "provider"


class Provider:
    name = "eyes"
    priority = 1

    def get_info(self):
        return ProviderInfo(id="eyes", display_name="Eyes", defaults={"model": "eyes", "context_window": 200000})

    async def list_models(self):
        return [ModelInfo(id="eyes", display_name="Eyes", context_window=200000, max_output_tokens=1000)]

    def parse_tool_calls(self, response):
        return []

    async def complete(self, request, **kwargs):
        seen = " / ".join(_seen(message.content) for message in request.messages if message.role == "user")
        usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ChatResponse(content=[TextBlock(text=seen)], usage=usage)


def _seen(content):
    if isinstance(content, str):
        return content
    return " + ".join(block.text if block.type == "text" else _image(block.source) for block in content)


def _image(source):
    return source.get("url") or source["media_type"] + " " + source["data"]


async def mount(coordinator, config=None):
    await coordinator.mount("providers", Provider(), name="eyes")
"""
"""A provider that answers with what it sees of what users said."""
