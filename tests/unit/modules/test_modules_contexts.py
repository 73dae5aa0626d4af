from pathlib import Path
from typing import Any

import pytest
from amplifier_core.models import ProviderInfo
from amplifier_core.testing import EventRecorder

from amplifier_app_api.modules.contexts import simple, tokens
from amplifier_app_api.modules.contexts.simple import ContextOptions, SimpleContext


class Windowed:
    """A provider that tells its window."""

    def __init__(self, window: int, output: int) -> None:
        self._defaults = {"context_window": window, "max_output_tokens": output}

    def get_info(self) -> ProviderInfo:
        return ProviderInfo(id="windowed", display_name="Windowed", defaults=self._defaults)


class Display:
    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str]] = []

    def show_message(self, message: str, level: str, source: str) -> None:
        self.shown.append((message, level, source))


def a_context(hooks: Any = None, **options: Any) -> SimpleContext:
    return SimpleContext(ContextOptions.read("context-simple", options), hooks)


async def fill(context: SimpleContext, messages: int, size: int = 400) -> None:
    for number in range(messages):
        role = "assistant" if number % 2 else "user"
        await context.add_message({"role": role, "content": f"{number}" + "x" * size})


async def test_what_is_added_comes_back_as_it_was() -> None:
    context = a_context()
    message = {"role": "user", "content": "hi", "metadata": {"a": 1}, "extra": True}

    await context.add_message(message)

    assert await context.get_messages() == [message]
    assert await context.get_messages_for_request() == [message]


async def test_changing_a_message_that_was_handed_out_changes_nothing_here() -> None:
    context = a_context()
    await context.add_message({"role": "user", "content": "hi"})

    (await context.get_messages())[0]["content"] = "bye"
    (await context.get_messages_for_request())[0]["content"] = "bye"

    assert await context.get_messages() == [{"role": "user", "content": "hi"}]


async def test_a_message_without_a_role_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a role"):
        await a_context().add_message({"content": "hi"})


async def test_the_system_prompt_is_made_anew_for_each_request_and_not_stored() -> None:
    context = a_context()
    prompts = iter(["first", "second"])

    async def factory() -> str:
        return next(prompts)

    await context.set_system_prompt_factory(factory)

    assert await context.get_messages_for_request() == [{"role": "system", "content": "first"}]
    assert await context.get_messages_for_request() == [{"role": "system", "content": "second"}]
    assert await context.get_messages() == []


async def test_room_is_made_for_the_request_alone_and_told() -> None:
    hooks = EventRecorder()
    context = a_context(hooks)
    await fill(context, 40)

    shown = await context.get_messages_for_request(provider=Windowed(4_000, 1_000))

    stored = await context.get_messages()
    assert len(stored) == 40
    assert shown == stored[-len(shown) :]
    [(event, facts)] = hooks.events
    budget = 4_000 - 1_000 - simple.RESERVE_TOKENS
    assert event == "context:compaction"
    assert facts["budget"] == budget
    assert (facts["before_messages"], facts["after_messages"]) == (40, len(shown))
    assert facts["messages_removed"] == 40 - len(shown)
    assert facts["before_tokens"] == sum(tokens.estimate_message(message) for message in stored)
    assert facts["after_tokens"] <= budget // 2


async def test_below_the_threshold_nothing_is_left_out() -> None:
    hooks = EventRecorder()
    context = a_context(hooks)
    await fill(context, 4)

    assert len(await context.get_messages_for_request(provider=Windowed(4_000, 1_000))) == 4
    assert hooks.events == []


async def test_max_tokens_caps_a_larger_window() -> None:
    context = a_context(max_tokens=1_000)
    await fill(context, 20)

    assert len(await context.get_messages_for_request(provider=Windowed(200_000, 8_000))) < 10


async def test_a_window_that_is_all_output_still_leaves_half_of_it() -> None:
    context = a_context()
    await fill(context, 10)

    assert len(await context.get_messages_for_request(provider=Windowed(4_000, 4_000))) == 10


async def test_a_provider_that_cannot_tell_its_window_is_no_reason_to_fail() -> None:
    class Broken:
        def get_info(self) -> ProviderInfo:
            raise RuntimeError("no idea")

    context = a_context()
    await fill(context, 2)

    assert len(await context.get_messages_for_request(provider=Broken())) == 2


async def test_each_message_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []

    def measure(message: Any) -> int:
        measured.append(message)
        return 1

    monkeypatch.setattr(simple, "estimate_message", measure)
    context = a_context()
    for _ in range(50):
        await context.add_message({"role": "user", "content": "hi"})
        await context.get_messages_for_request()

    assert len(measured) == 50


def test_an_image_counts_as_a_fixed_number_of_tokens() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 1_000_000}}

    size = tokens.estimate_message({"role": "user", "content": [image, {"type": "text", "text": "look"}]})

    assert tokens.IMAGE_TOKENS < size < tokens.IMAGE_TOKENS + 20


async def open_persistent(open_chat: Any, folder: Path, display: Any = None, **options: Any) -> Any:
    chat = await open_chat(
        context={"module": "context-persistent", "config": options}, working_dir=str(folder), replies=["ok"]
    )
    chat.coordinator.display_system = display
    return chat


async def request_of(chat: Any) -> list[dict[str, Any]]:
    return await chat.coordinator.get("context").get_messages_for_request()


async def test_memory_files_stand_in_front_of_each_request_as_they_are_then(open_chat: Any, tmp_path: Path) -> None:
    memory = tmp_path / "notes.md"
    memory.write_text("likes tea")
    chat = await open_persistent(open_chat, tmp_path, memory_files=["notes.md"])
    await chat.say("hi")

    assert (await request_of(chat))[0] == {
        "role": "system",
        "content": '<memory file="notes.md">\nlikes tea\n</memory>',
    }
    memory.write_text("likes coffee")
    assert "likes coffee" in (await request_of(chat))[0]["content"]
    assert [row["role"] for row in await chat.history()] == ["user", "assistant"]


async def test_memory_files_elsewhere_are_left_out_and_told_once(open_chat: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    display = Display()
    paths = ["../secret", "link", str(tmp_path / "secret"), "missing.md"]
    chat = await open_persistent(open_chat, folder, display, memory_files=paths)

    assert await request_of(chat) == []
    assert await request_of(chat) == []
    outside = "lies outside the folders this session may use"
    assert [message for message, _, _ in display.shown] == [
        f"Memory file left out: ../secret {outside}",
        f"Memory file left out: link {outside}",
        f"Memory file left out: {tmp_path / 'secret'} {outside}",
        "Memory file left out: missing.md does not exist",
    ]
    assert {(level, source) for _, level, source in display.shown} == {("warning", "context-persistent")}


async def test_a_transcript_path_is_answered_with_a_notice_and_no_file(tmp_path: Path) -> None:
    from amplifier_core.testing import MockCoordinator

    from amplifier_app_api.modules import load_mount

    display = Display()
    coordinator = MockCoordinator()
    coordinator.display_system = display

    await load_mount("context-persistent")(coordinator, {"transcript_path": str(tmp_path / "t.jsonl")})

    assert display.shown == [
        ("transcript_path is not used: the server stores the conversation itself", "warning", "context-persistent")
    ]
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("word" * 100, 100), ("文字" * 100, 150), ("слово" * 100, 250), ("\ud83d" * 4, 3)]
)
def test_letters_beyond_the_latin_count_for_more(text: str, size: int) -> None:
    bare = tokens.estimate_message({"role": "user", "content": ""})

    assert tokens.estimate_message({"role": "user", "content": text}) - bare == size


@pytest.mark.parametrize("module", ["context-simple", "context-persistent"])
async def test_what_the_tools_take_of_the_window_is_not_for_the_conversation(open_chat: Any, module: str) -> None:
    class Small:
        def get_info(self) -> ProviderInfo:
            return ProviderInfo(
                id="s", display_name="S", defaults={"context_window": 10_000, "max_output_tokens": 1_000}
            )

    chat = await open_chat(context={"module": module})
    context = chat.coordinator.get("context")
    for number in range(20):
        await context.add_message({"role": "user" if number % 2 == 0 else "assistant", "content": "x" * 1_000})

    assert len(await context.get_messages_for_request(provider=Small())) == 20
    await chat.add_result("look", "seen")
    chat.coordinator.get("tools")["look"].description = "d" * 16_000
    shown = await context.get_messages_for_request(provider=Small())

    assert len(shown) < 20
    assert [data["budget"] for data in chat.of("context:compaction")] == [4_193]
