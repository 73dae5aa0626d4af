"""Images in messages: the provider sees them, whatever the loop makes of the text, and rows keep them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.messages import kernel_transcript
from images import EYES, PNG, SHOWN, linked, picture, text
from runtime_bundles import bundle_text, from_folder
from runtime_faults import written_module

SEEN = f"image/png {PNG}"
CONTEXT = '<message-context>{"page":1}</message-context>'

# A loop of others: something of a hook goes before the prompt, which it changes when it is told to.
WITH_A_REMINDER = """
__amplifier_module_type__ = "orchestrator"


class Loop:
    async def execute(self, prompt, context, providers, tools, hooks, coordinator=None, **kwargs):
        from amplifier_core import ChatRequest, Message

        note = {"role": "user", "content": "mind the time", "metadata": {"source": "hook", "ephemeral": True}}
        await context.add_message(note)
        await context.add_message({"role": "user", "content": prompt.replace("plain", "changed")})
        rows = await context.get_messages_for_request()
        request = ChatRequest(messages=[Message(role=row["role"], content=row["content"]) for row in rows])
        response = await next(iter(providers.values())).complete(request)
        answer = response.content[0].text
        await context.add_message({"role": "assistant", "content": answer})
        return answer


async def mount(coordinator, config=None):
    await coordinator.mount("orchestrator", Loop())
"""


@pytest.fixture
def eyes(tmp_path: Path) -> dict[str, Any]:
    """A provider that answers with what it sees."""
    return written_module(tmp_path, "provider", EYES)


async def kernel_rows(db: Database, chat: Any) -> list[dict[str, Any]]:
    return (await db.read(kernel_transcript, chat.session_id, within="default"))[1]


async def contents(chat: Any) -> list[Any]:
    return [row.content for row in await chat.sessions.transcript(chat.session_id) if row.role == "user"]


async def test_a_provider_sees_the_image_where_it_was_put_and_again_after_a_restart(
    open_chat: Any, make_sessions: Callable[..., SessionManager], eyes: Any, db: Database
) -> None:
    chat = await open_chat(bundle_text(provider=eyes))
    message = [text("see"), picture(), text("there")]

    answer = await chat.sessions.send_message(chat.session_id, message, {"page": 1})

    seen = f"{CONTEXT} + see + {SEEN} + there"
    assert answer["response"] == seen
    assert await contents(chat) == [message]
    assert (await kernel_rows(db, chat))[0] == {"role": "user", "content": [text(CONTEXT), *message]}
    again = await chat.reopened(make_sessions())
    assert await again.say("and now?") == f"{seen} / and now?"


async def test_an_image_alone_is_a_message(open_chat: Any, eyes: Any) -> None:
    chat = await open_chat(bundle_text(provider=eyes))

    assert await chat.say([picture()]) == SEEN
    assert await chat.say([linked()]) == f"{SEEN} / {linked()['source']['url']}"


async def test_the_log_tells_of_an_image_what_it_is_and_not_what_is_in_it(open_chat: Any, eyes: Any) -> None:
    chat = await open_chat(bundle_text(provider=eyes))

    stream = await chat.stream([text("see"), picture()])

    [told] = [event for event in stream if event["type"] == "message.user"]
    assert told["content"] == [text("see"), SHOWN]
    [stored] = [event for event in await chat.events() if event["type"] == "message.user"]
    assert stored["content"] == [text("see"), SHOWN]


async def test_a_hook_that_changes_the_text_leaves_the_image(
    open_chat: Any, tmp_path: Path, eyes: Any, db: Database
) -> None:
    loop = written_module(tmp_path, "loop", WITH_A_REMINDER)
    chat = await open_chat(bundle_text(provider=eyes, session={"orchestrator": loop}))

    assert await chat.say([text("see"), picture()]) == f"mind the time / see + {SEEN}"
    answer = await chat.say([text("plain"), picture()])
    assert answer.endswith(f"mind the time / changed + {SEEN}")
    assert await contents(chat) == [
        [text("see"), picture()],
        "mind the time",
        [text("plain"), picture()],
        "mind the time",
    ]
    said = [row["content"] for row in await kernel_rows(db, chat) if row["role"] == "user"]
    assert said[2] == [text("changed"), picture()]


async def test_a_queued_image_is_seen_when_its_turn_comes(open_chat: Any, db: Database) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    turn = asyncio.create_task(chat.say("[[tool: gate {}]] [[then: done]]"))
    await asyncio.wait_for(gate.entered.wait(), 10)
    queued_message = [text("[[text: seen]]"), picture()]
    queued = await chat.sessions.create_turn(chat.session_id, queued_message, {"page": 1}, when_busy="queue")
    cancelled = await chat.sessions.create_turn(chat.session_id, [picture()], when_busy="queue")
    assert queued.message == [text("[[text: seen]]"), SHOWN]
    page = await chat.sessions.page_turns(chat.session_id, PageRequest(), status="queued")
    assert [each.message for each in page.items] == [[SHOWN], [text("[[text: seen]]"), SHOWN]]

    await chat.sessions.cancel_turn(chat.session_id, cancelled.turn_id)
    gate.release.set()
    await turn
    outcome = await chat.sessions._runtime.outcome_of(chat.session_id, queued.turn_id, within="default")

    assert outcome.response == "seen"
    said = [row for row in await kernel_rows(db, chat) if row["role"] == "user"]
    assert said[1:] == [{"role": "user", "content": [text(CONTEXT), text("[[text: seen]]"), picture()]}]
    shown = await contents(chat)
    assert shown[1:] in ([[picture()], queued_message], [queued_message, [picture()]])


async def test_a_turn_with_an_image_goes_on_in_another_process(
    open_chat: Any, make_sessions: Callable[..., SessionManager], db: Database
) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    message = [text("[[tool: gate {}]]"), picture(), text("[[then: done]]")]
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming(message, {"page": 1}), within="default")
    await asyncio.wait_for(gate.entered.wait(), 10)
    other = await chat.reopened(make_sessions())
    await other.sessions._runtime.recovery.look(lambda seen: False)

    outcome = await other.sessions._runtime.outcome_of(chat.session_id, sent.turn_id, within="default")

    assert (outcome.status, outcome.response) == ("completed", "done")
    rows = await kernel_rows(db, chat)
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "assistant"]
    assert rows[0]["content"] == [text(CONTEXT), *message]


async def test_an_image_does_not_steer_and_its_text_alone_does(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: heard]]"]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    turn = asyncio.create_task(chat.say("go"))
    await asyncio.wait_for(gate.entered.wait(), 10)
    with pytest.raises(InvalidFields, match="cannot steer"):
        await chat.sessions.send_message(chat.session_id, [text("see"), picture()], when_busy="steer")
    steered = await chat.sessions.send_message(chat.session_id, [text("and"), text("this")], when_busy="steer")
    gate.release.set()

    assert (steered["status"], await turn) == ("pending", "and\n\nthis")
    assert await contents(chat) == ["go", "and\n\nthis"]
