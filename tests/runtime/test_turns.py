"""What a turn leaves behind when nothing goes wrong."""

import asyncio
from typing import Any

import pytest

from runtime_bundles import bundle_text, from_folder

OpenChat = Any


async def test_a_message_is_answered_and_everything_about_it_is_recorded(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["Hello to you."]))

    answer = await chat.sessions.send_message(chat.session_id, "hi")

    assert answer["response"] == "Hello to you."
    assert (answer["status"], answer["stop_reason"]) == ("completed", "end_turn")
    assert await chat.transcript() == [("user", "hi"), ("assistant", "Hello to you.")]
    session = await chat.sessions.get_session(chat.session_id)
    assert (session.message_count, session.activity, session.status) == (1, "idle", "active")
    assert session.usage == chat_usage(answer)


def chat_usage(answer: dict[str, Any]) -> Any:
    from amplifier_app_api.models import TokenUsage

    return TokenUsage(**answer["usage"])


async def test_the_log_of_a_plain_turn_is_gapless_and_in_order(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["ok"]))
    await chat.say("hi")

    events = await chat.events()

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events] == [
        "session.created",
        "turn.started",
        "message.user",
        "message.completed",
        "usage.updated",
        "turn.completed",
    ]
    assert events[3]["blocks"] == [{"block": 0, "type": "text", "text": "ok"}]
    assert all(event["schema"] == 1 and event["at"].endswith("Z") for event in events)


async def test_a_streamed_answer_is_framed_and_its_deltas_join_to_the_message(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["one two three"]))

    events = await chat.stream("go")

    assert events[0] == {"type": "connected", "session_id": chat.session_id}
    assert [event["type"] for event in events[-3:]] == ["turn.completed", "response", "done"]
    deltas = [event for event in events if event["type"] == "message.delta"]
    assert [(delta["request"], delta["block"], delta["offset"], delta["text"]) for delta in deltas] == [
        (1, 0, 0, "one"),
        (1, 0, 3, " two"),
        (1, 0, 7, " three"),
    ]
    assert all("seq" not in delta for delta in deltas)
    assert events[-2]["content"] == "one two three"
    assert (events[-1]["status"], events[-1]["stop_reason"]) == ("completed", "end_turn")


async def test_offsets_count_code_points_not_bytes(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["grüße 👋 du"]))

    deltas = [event for event in await chat.stream("go") if event["type"] == "message.delta"]

    assert [(delta["offset"], delta["text"]) for delta in deltas] == [(0, "grüße"), (5, " 👋"), (7, " du")]


async def test_the_id_of_a_delta_is_the_last_durable_event_and_its_place(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["[[think: hm]] [[text: a b]]"]))
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    ids: list[tuple[str, str | None]] = []
    while batch := await follower.next_batch(5):
        ids += [(item.type, item.id) for item in batch]
    await follower.close()

    assert ids == [
        ("connected", None),
        ("turn.started", "2"),
        ("message.user", "3"),
        ("reasoning.delta", "3.1.0.2"),
        ("message.delta", "3.1.1.1"),
        ("message.delta", "3.1.1.3"),
        ("message.completed", "4"),
        ("usage.updated", "5"),
        ("turn.completed", "6"),
        ("response", None),
        ("done", None),
    ]


async def test_a_tool_call_is_told_with_its_arguments_and_its_result(open_chat: OpenChat) -> None:
    chat = await open_chat(
        bundle_text(replies=['[[tool: write_file {"file_path": "a.txt", "content": "hi"}]] [[then: done]]'])
    )

    assert await chat.say("write") == "done"

    events = [event for event in await chat.events() if event["type"].startswith("tool.")]
    started, completed = events
    assert (started["tool"], started["arguments"]) == ("write_file", {"file_path": "a.txt", "content": "hi"})
    assert (completed["call_id"], completed["ok"], completed["truncated"]) == (started["call_id"], True, False)
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant", "tool", "assistant"]


async def test_parallel_tool_calls_keep_their_own_ids_and_arguments(open_chat: OpenChat) -> None:
    calls = '[[tools: write_file {"file_path": "a", "content": "1"} | write_file {"file_path": "b", "content": "2"}]]'
    chat = await open_chat(bundle_text(replies=[f"{calls} [[then: done]]"]))
    await chat.say("write both")

    events = await chat.events()

    started = {event["call_id"]: event["arguments"]["file_path"] for event in events if event["type"] == "tool.started"}
    message = next(event for event in events if event["type"] == "message.completed")
    asked = {
        b["tool_use"]["id"]: b["tool_use"]["input"]["file_path"] for b in message["blocks"] if b["type"] == "tool_use"
    }
    assert started == asked
    assert sorted(started.values()) == ["a", "b"]


async def test_a_call_of_a_tool_that_does_not_exist_is_answered_and_told(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["[[tool: no_such_tool {}]] [[then: sorry]]"]))

    assert await chat.say("go") == "sorry"

    tools = [event for event in await chat.events() if event["type"].startswith("tool.")]
    assert [(event["type"], event["ok"]) for event in tools] == [("tool.completed", False)]


async def test_the_context_of_a_message_is_shown_to_the_model_and_kept_beside_it(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(provider=from_folder("provider-plain")))

    await chat.sessions.send_message(chat.session_id, "where am I?", {"page": "<checkout>"})

    message = (await chat.sessions.transcript(chat.session_id))[0]
    assert (message.content, message.context) == ("where am I?", {"page": "<checkout>"})


async def test_a_provider_that_tells_pieces_as_content_blocks_is_relayed_from_those(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(provider=from_folder("provider-plain", pieces=["ab", "cd"])))

    deltas = [event for event in await chat.stream("go") if event["type"] == "message.delta"]

    assert [(delta["offset"], delta["text"]) for delta in deltas] == [(0, "ab"), (2, "cd")]


async def test_a_provider_that_streams_nothing_gives_one_delta_for_each_finished_block(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(provider=from_folder("provider-plain")))

    events = await chat.stream("go")

    deltas = [event for event in events if event["type"] == "message.delta"]
    assert [(delta["block"], delta["offset"], delta["text"]) for delta in deltas] == [(0, 0, "a whole answer")]
    types = [event["type"] for event in events]
    assert types.index("message.delta") < types.index("message.completed")


async def test_a_hook_that_listens_to_the_stream_still_gets_it(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(replies=["a b"], hooks=[from_folder("hooks-recorder")]))
    import amplifier_module_hooks_recorder as recorder

    recorder.seen.clear()
    await chat.say("go")

    assert recorder.seen.count("llm:stream_block_delta") == 2
    assert chat.session_id in recorder.ready


async def test_two_sessions_of_one_config_share_a_preparation_but_no_state(open_chat: OpenChat, sessions: Any) -> None:
    chat = await open_chat(bundle_text(replies=["first", "second"]))
    session = await sessions.get_session(chat.session_id)
    other = await sessions.create_session(session.config_id)

    assert await chat.say("x") == "first"
    assert await chat.say("x") == "second"
    assert (await sessions.send_message(other.session_id, "x"))["response"] == "first"


async def test_many_sessions_answer_at_once_each_with_its_own_reply(open_chat: OpenChat) -> None:
    chats = [await open_chat(bundle_text(replies=[f"reply {number}"])) for number in range(10)]

    assert await asyncio.gather(*(chat.say("x") for chat in chats)) == [f"reply {number}" for number in range(10)]


async def test_a_turn_goes_on_when_whoever_asked_has_left(open_chat: OpenChat) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: done]]"]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    caller = asyncio.create_task(chat.say("go"))
    await asyncio.wait_for(gate.entered.wait(), 5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    follower = await chat.sessions.follow(chat.session_id, after=0)
    gate.release.set()
    types: list[str] = []
    while "turn.completed" not in types:
        types += [item.type for item in await follower.next_batch(5) or ()]
    await follower.close()

    assert await chat.transcript() == [
        ("user", "go"),
        ("assistant", (await chat.sessions.transcript(chat.session_id))[1].content),
        ("tool", "through"),
        ("assistant", "done"),
    ]


async def test_a_limit_of_iterations_ends_the_turn_and_says_so(open_chat: OpenChat) -> None:
    text = bundle_text(
        replies=["[[tool: list_directory {}]] [[tool: list_directory {}]] [[then: never]]"],
        session={"orchestrator": {"module": "loop-streaming", "config": {"max_iterations": 1}}},
    )
    chat = await open_chat(text)

    answer = await chat.sessions.send_message(chat.session_id, "go")

    assert (answer["status"], answer["stop_reason"]) == ("completed", "max_iterations")
    assert [role for role, _ in await chat.transcript()][:3] == ["user", "assistant", "tool"]
