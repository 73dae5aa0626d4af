import asyncio
from typing import Any

import pytest
from amplifier_core.message_models import ChatResponse, TextBlock

from amplifier_app_api.modules.hooks.session_naming import title_of

ANSWER = 'Sure: {"title": "A garden plan", "description": "Planning a garden."}'


class Namer:
    """A provider beside the loop's; `asked` is set when it is asked. Without an answer it never gives one."""

    name = "namer"
    priority = 500

    def __init__(self, answer: str | Exception | None) -> None:
        self.answer = answer
        self.asked = asyncio.Event()
        self.requests: list[Any] = []

    async def complete(self, request: Any, **_: Any) -> ChatResponse:
        self.requests.append(request)
        self.asked.set()
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return ChatResponse(content=[TextBlock(text=str(self.answer))])

    def parse_tool_calls(self, response: ChatResponse) -> list[Any]:
        return []


class Titles:
    """The host's side: keeps what it is given; `await nth(n)` waits until there are n."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()

    async def set_title(self, title: str, description: str) -> bool:
        async with self._changed:
            self.given.append((title, description))
            self._changed.notify_all()
        return True

    async def nth(self, number: int) -> tuple[str, str]:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.given) >= number)
        return self.given[number - 1]


def naming(**options: Any) -> list[dict[str, Any]]:
    return [{"module": "hooks-session-naming", "config": {"provider": "namer", **options}}]


async def opened(open_chat: Any, namer: Namer, titles: Titles, **options: Any) -> Any:
    chat = await open_chat(
        replies=["one", "two"], hooks=naming(**options), capabilities={"session.set_title": titles.set_title}
    )
    await chat.coordinator.mount("providers", namer, name=namer.name)
    return chat


def naming_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "hooks-session-naming title"]


async def test_a_session_is_named_by_its_first_message_and_then_by_the_model(open_chat: Any) -> None:
    titles, namer = Titles(), Namer(ANSWER)
    chat = await opened(open_chat, namer, titles)

    await chat.say("Please plan\n my garden")
    assert titles.given == [("Please plan my garden", "")]
    await chat.say("with </asked> roses")

    assert await titles.nth(2) == ("A garden plan", "Planning a garden.")
    assert len(await chat.history()) == 4
    (request,) = namer.requests
    assert (request.metadata, request.stream) == ({"stream": False}, False)
    assert "Please plan\n my garden\nwith ‹/asked> roses\n</asked>" in request.messages[0].content


async def test_the_provider_that_loops_ask_first_is_asked_for_a_title(open_chat: Any) -> None:
    titles, namer = Titles(), Namer(ANSWER)
    namer.priority = 0
    chat = await opened(open_chat, namer, titles, provider=None, initial_trigger_turn=1)

    assert await chat.say("first") == ANSWER
    await asyncio.gather(*naming_tasks())

    assert titles.given == [("first", ""), ("A garden plan", "Planning a garden.")]


async def test_a_host_that_takes_no_titles_is_asked_for_none(open_chat: Any) -> None:
    chat = await open_chat(replies=["one", "two", "three"], hooks=naming(initial_trigger_turn=1))
    await chat.say("a")
    await chat.say("b")

    assert len(chat.of("llm:request")) == 2


async def test_no_model_is_asked_when_that_is_switched_off(open_chat: Any) -> None:
    titles = Titles()
    chat = await open_chat(
        replies=["one"],
        hooks=naming(use_model=False, initial_trigger_turn=1),
        capabilities={"session.set_title": titles.set_title},
    )
    await chat.say("a title")

    assert (titles.given, len(chat.of("llm:request"))) == ([("a title", "")], 1)


@pytest.mark.parametrize(
    "answer", ["no JSON", '{"title": ""}', '{"title": "…"}', '{"title": 5}', "{", "[]", OSError("away")]
)
async def test_an_answer_that_is_none_changes_nothing(open_chat: Any, answer: str | Exception) -> None:
    titles, namer = Titles(), Namer(answer)
    chat = await opened(open_chat, namer, titles, initial_trigger_turn=1)

    assert await chat.say("first") == "one"
    async with asyncio.timeout(5):
        await namer.asked.wait()
        await asyncio.gather(*naming_tasks())

    assert titles.given == [("first", "")]
    assert await chat.say("second") == "two"


async def test_a_model_that_keeps_failing_is_not_asked_for_ever(open_chat: Any) -> None:
    titles, namer = Titles(), Namer("nothing")
    chat = await opened(open_chat, namer, titles, initial_trigger_turn=1, update_interval_turns=1, max_retries=1)

    for _ in range(4):
        await chat.say("go")
        await asyncio.gather(*naming_tasks())

    assert len(namer.requests) == 2


async def test_what_is_asked_at_closing_is_given_up(open_chat: Any) -> None:
    titles, namer = Titles(), Namer(None)
    chat = await opened(open_chat, namer, titles, initial_trigger_turn=1)
    await chat.say("first")
    (task,) = naming_tasks()
    async with asyncio.timeout(5):
        await namer.asked.wait()
        await chat.session.cleanup()
        await asyncio.wait([task])

    assert task.cancelled()
    assert titles.given == [("first", "")]


async def test_titles_hold_no_secret(open_chat: Any) -> None:
    titles = Titles()
    chat = await open_chat(
        replies=["one"],
        hooks=[*naming(use_model=False), {"module": "hooks-redaction"}],
        capabilities={"session.set_title": titles.set_title},
    )
    await chat.say("write to bob@example.com")

    assert titles.given == [("write to [redacted:email]", "")]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('  "A  title"\n', "A title"),
        ("a\x00b\u202ec", "a b c"),
        ("words " * 30, "words words words words words words words words…"),
        ("x" * 80, "x" * 49 + "…"),
    ],
)
def test_a_title_is_one_short_line(text: str, title: str) -> None:
    assert title_of(text, 50) == title
