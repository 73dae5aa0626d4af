"""What a user says: a text, or a list of blocks of texts and images.

Blocks are the kernel's own, so that a stored message is what a provider is given: `{"type": "text", "text"}` and
`{"type": "image", "source"}`.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from amplifier_app_api.models.fields import FORM, MAX_MESSAGE, Text

MAX_BLOCKS = 64
MAX_IMAGES = 20
MAX_IMAGE_BYTES = 5 * 2**20
"""Of one image, decoded."""
MAX_URL = 8_192

Content = str | list[dict[str, Any]]
"""A user's message as rows have it."""

_SIGNATURES: Mapping[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


def _told_apart(*types: str) -> Discriminator:
    def form(value: Any) -> str | None:
        if isinstance(value, BaseModel):
            kind: Any = vars(value).get("type")
        else:
            kind = cast("Mapping[str, Any]", value).get("type") if isinstance(value, Mapping) else None
        return FORM + kind if kind in types else None

    return Discriminator(
        form, custom_error_type="wrong_form", custom_error_message=f"must have one of the types {', '.join(types)}"
    )


def _decodable(data: str) -> str:
    if image_bytes(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"must be an image of at most {MAX_IMAGE_BYTES} bytes")
    return data


def _web_address(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not separator or not rest or any(map(str.isspace, url)):
        raise ValueError("must be an http or https address")
    return url


class Base64Source(BaseModel):
    """An image that comes with the message."""

    model_config = ConfigDict(extra="forbid", strict=False)

    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: Annotated[Text, Field(min_length=4), AfterValidator(_decodable)]


class UrlSource(BaseModel):
    """An image that the provider fetches; the server opens no address."""

    model_config = ConfigDict(extra="forbid", strict=False)

    type: Literal["url"]
    url: Annotated[Text, Field(min_length=1, max_length=MAX_URL), AfterValidator(_web_address)]


def _what_it_says(source: Base64Source | UrlSource) -> Base64Source | UrlSource:
    """Refuse what no provider could read: it would stand in the way of every later turn of the session."""
    if isinstance(source, Base64Source):
        try:
            image = base64.b64decode(source.data, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("data must be base64") from None
        if not image.startswith(_SIGNATURES[source.media_type]) or (
            source.media_type == "image/webp" and image[8:12] != b"WEBP"
        ):
            raise ValueError(f"data is not an image of the type {source.media_type}")
    return source


class TextPart(BaseModel):
    """A text among the blocks of a message."""

    model_config = ConfigDict(extra="forbid", strict=False)

    type: Literal["text"]
    text: Annotated[Text, Field(min_length=1, max_length=MAX_MESSAGE)]


class ImagePart(BaseModel):
    """An image among the blocks of a message."""

    model_config = ConfigDict(extra="forbid", strict=False)

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag(FORM + "base64")] | Annotated[UrlSource, Tag(FORM + "url")],
        _told_apart("base64", "url"),
        AfterValidator(_what_it_says),
    ]


Part = Annotated[
    Annotated[TextPart, Tag(FORM + "text")] | Annotated[ImagePart, Tag(FORM + "image")], _told_apart("text", "image")
]


def _within_limits(parts: list[Part]) -> list[Part]:
    if sum(isinstance(part, ImagePart) for part in parts) > MAX_IMAGES:
        raise ValueError(f"must not have more than {MAX_IMAGES} images")
    if sum(len(part.text) for part in parts if isinstance(part, TextPart)) > MAX_MESSAGE:
        raise ValueError(f"must not have more than {MAX_MESSAGE} characters of text")
    return parts


def _form(value: Any) -> str:
    return FORM + ("blocks" if isinstance(value, list) else "text")


MessageText = Annotated[Text, Field(min_length=1, max_length=MAX_MESSAGE)]
MessageParts = Annotated[list[Part], Field(min_length=1, max_length=MAX_BLOCKS), AfterValidator(_within_limits)]
MessageContent = Annotated[
    Annotated[MessageText, Tag(FORM + "text")] | Annotated[MessageParts, Tag(FORM + "blocks")], Discriminator(_form)
]
"""A user's message as a request has it."""


def content_of(message: str | list[Part]) -> Content:
    """A message of a request as rows have it."""
    return message if isinstance(message, str) else [part.model_dump() for part in message]


def has_image(content: Content) -> bool:
    """Whether there is more in a message than text."""
    return not isinstance(content, str) and any(block["type"] == "image" for block in content)


def text_in(content: Content) -> str:
    """The text of a message: that of its blocks, with an empty line between two of them."""
    if isinstance(content, str):
        return content
    return "\n\n".join(str(block.get("text") or "") for block in content if block.get("type") == "text")


def prompt_of(content: Content, context: Mapping[str, Any] | None) -> str:
    """What the loop is given of a message: its text, with its context in front."""
    text = text_in(content)
    if context is None:
        return text
    context_text = _context_text(context)
    return f"{context_text}\n\n{text}" if text else context_text


def kernel_content(content: Content, context: Mapping[str, Any] | None) -> Content:
    """What the model is given of a message: the prompt, or its blocks with the context in front."""
    if isinstance(content, str):
        return prompt_of(content, context)
    return content if context is None else [{"type": "text", "text": _context_text(context)}, *content]


def said_with(content: Content, message: Mapping[str, Any], *, prompt: str) -> dict[str, Any]:
    """The message that a loop made of `prompt`, with all that the user said: with its images, where there are any.

    A loop, or a hook before it, may have changed the text: then it is its text that counts.
    """
    if isinstance(content, str):
        return {**message}
    said = message.get("content")
    text = said if isinstance(said, str) else text_in(said if isinstance(said, list) else [])  # pyright: ignore[reportUnknownArgumentType] - blocks of a module
    if text == prompt:
        return {**message, "content": content}
    images = [block for block in content if block["type"] != "text"]
    return {**message, "content": [{"type": "text", "text": text}] * bool(text) + images}


def shown_content(content: Any) -> Any:
    """A message as events and lists have it: of an image that came with it, its type and its size only."""
    return [_shown(block) for block in content] if isinstance(content, list) else content  # pyright: ignore[reportUnknownVariableType] - blocks of any kind


def image_bytes(data: str) -> int:
    """The size of what a base64 text decodes to."""
    return len(data) * 3 // 4 - data[-2:].count("=")


def _shown(block: Any) -> Any:
    match block:
        case {"type": "image", "source": {"data": str(data), **source}}:
            return {"type": "image", "media_type": source.get("media_type"), "bytes": image_bytes(data)}
        case _:
            return block


def _context_text(context: Mapping[str, Any]) -> str:
    line = orjson.dumps(context).decode().replace("<", "\\u003c")
    return f"<message-context>{line}</message-context>"
