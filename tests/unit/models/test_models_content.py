"""What a user may say, and what becomes of it."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from amplifier_app_api.models.content import (
    MAX_BLOCKS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    content_of,
    image_bytes,
    kernel_content,
    prompt_of,
    said_with,
    shown_content,
)
from amplifier_app_api.models.fields import place_of
from amplifier_app_api.models.session import MessageRequest
from images import PNG, SHOWN, linked, picture, text

CONTEXT = '<message-context>{"page":1}</message-context>'


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def problems(message: Any, **fields: Any) -> list[tuple[list[int | str], str]]:
    with pytest.raises(ValidationError) as refused:
        MessageRequest.model_validate({"message": message, **fields})
    return [(place_of(each["loc"]), each["msg"]) for each in refused.value.errors()]


@pytest.mark.parametrize(
    "message",
    [
        "hi",
        [text("hi")],
        [picture()],
        [linked()],
        [text("see"), picture(), linked("http://example.com/a?b=c"), text("there")],
        [picture(encoded(b"\xff\xd8\xff\xe0"), "image/jpeg")],
        [picture(encoded(b"GIF89a.."), "image/gif")],
        [picture(encoded(b"RIFF\0\0\0\0WEBPVP8 "), "image/webp")],
        [picture(encoded(b"\x89PNG\r\n\x1a\n" + bytes(MAX_IMAGE_BYTES - 8)))],
    ],
)
def test_a_text_or_blocks_are_taken_as_they_are(message: Any) -> None:
    assert content_of(MessageRequest.model_validate({"message": message}).message) == message


@pytest.mark.parametrize(
    ("message", "place", "sentence"),
    [
        (5, [], "a valid string"),
        ([], [], "at least 1 item"),
        ([text("")], [0, "text"], "at least 1 item"),
        (["hi"], [0], "one of the types text, image"),
        ([{"type": "audio"}], [0], "one of the types text, image"),
        ([{**text("hi"), "cache_control": {}}], [0, "cache_control"], "not permitted"),
        ([{"type": "image", "source": {"type": "file"}}], [0, "source"], "one of the types base64, url"),
        ([picture(media_type="image/svg+xml")], [0, "source", "media_type"], "image/png"),
        ([picture(media_type="image/gif")], [0, "source"], "not an image of the type image/gif"),
        ([picture(encoded(b"RIFF\0\0\0\0WAVE"), "image/webp")], [0, "source"], "not an image of the type"),
        ([picture("!" + PNG)], [0, "source"], "must be base64"),
        ([picture(PNG[:-1])], [0, "source"], "must be base64"),
        ([picture(encoded(bytes(MAX_IMAGE_BYTES + 1)))], [0, "source", "data"], "at most 5242880 bytes"),
        ([linked("file:///etc/passwd")], [0, "source", "url"], "http or https"),
        ([linked("https://")], [0, "source", "url"], "http or https"),
        ([linked("https://a b")], [0, "source", "url"], "http or https"),
        ([text("x")] * (MAX_BLOCKS + 1), [], "at most 64 items"),
        ([linked()] * (MAX_IMAGES + 1), [], "more than 20 images"),
        ([text("x" * 600_000)] * 2, [], "more than 1000000 characters"),
        ([text("a\0b")], [0, "text"], "U+0000"),
    ],
)
def test_what_no_provider_could_read_is_refused_at_its_place(message: Any, place: list[Any], sentence: str) -> None:
    [(found, said)] = problems(message)

    assert found == ["message", *place]
    assert sentence in said


def test_only_a_text_steers() -> None:
    [(place, said)] = problems([text("see"), picture()], when_busy="steer")

    assert (place, "cannot steer" in said) == ([], True)
    steering = MessageRequest.model_validate({"message": [text("see"), text("here")], "when_busy": "steer"})
    assert len(steering.message) == 2


def test_the_prompt_is_the_text_and_the_model_gets_the_blocks_both_with_the_context_in_front() -> None:
    blocks = [text("see"), picture(), text("there")]

    assert prompt_of(blocks, {"page": 1}) == f"{CONTEXT}\n\nsee\n\nthere"
    assert kernel_content(blocks, {"page": 1}) == [text(CONTEXT), *blocks]
    assert (prompt_of(blocks, None), kernel_content(blocks, None)) == ("see\n\nthere", blocks)
    assert prompt_of([picture()], {"page": 1}) == CONTEXT
    assert prompt_of([picture()], None) == ""
    assert kernel_content("hi", {"page": 1}) == prompt_of("hi", {"page": 1}) == f"{CONTEXT}\n\nhi"


def test_of_an_image_people_are_shown_its_type_and_size() -> None:
    assert shown_content([text("see"), picture(), linked()]) == [text("see"), SHOWN, linked()]
    assert shown_content("hi") == "hi"
    assert [image_bytes(encoded(bytes(size))) for size in range(5)] == [0, 1, 2, 3, 4]


def test_the_message_of_a_loop_gets_the_images_and_keeps_its_own_text() -> None:
    blocks = [text("see"), picture()]
    same = {"role": "user", "content": "see", "metadata": {"a": 1}}

    assert said_with(blocks, same, prompt="see") == {**same, "content": blocks}
    assert said_with(blocks, {"role": "user", "content": [text("see")]}, prompt="see")["content"] == blocks
    changed = said_with(blocks, {"role": "user", "content": "look"}, prompt="see")
    assert changed["content"] == [text("look"), picture()]
    assert said_with([picture()], {"role": "user", "content": ""}, prompt="")["content"] == [picture()]
    assert said_with("see", {"role": "user", "content": "look"}, prompt="see")["content"] == "look"
