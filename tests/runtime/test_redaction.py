"""What a session's redactor finds is masked by the host, and what the host offers to modules."""

from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.runtime.opening import ModuleFailed
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.approvals import list_approvals
from runtime_bundles import bundle_text, from_folder


def coordinator_of(chat: Any) -> Any:
    live = chat.sessions._runtime._live.get(chat.session_id, within="default")
    return live.opened.kernel.session.coordinator


def scissors(**config: Any) -> dict[str, Any]:
    return from_folder("hooks-scissors", **config)


async def test_a_text_that_is_stopped_in_the_middle_is_kept_masked_for_people_and_whole_for_the_model(
    open_chat: Any,
) -> None:
    chat = await open_chat(bundle_text(hooks=[scissors()]))
    script = "[[text: say SNIP-1234 and more]] [[pace: ms=40]] [[chunk: chars=4]]"
    told: list[dict[str, Any]] = []
    async for event in chat.sessions.stream_message(chat.session_id, script):
        told.append(event)
        if "and" in "".join(one["text"] for one in told if one["type"] == "message.delta"):
            await chat.sessions.cancel(chat.session_id)

    deltas = "".join(event["text"] for event in told if event["type"] == "message.delta")
    (completed,) = (event for event in told if event["type"] == "message.completed")
    assert deltas.startswith("say [redacted:snip] and")
    assert completed["blocks"][0]["text"] == deltas
    assert (await chat.transcript())[-1] == ("assistant", deltas)


async def test_what_a_redactor_cannot_look_at_is_not_shown(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(hooks=[scissors(broken=True)]))

    assert await chat.say("[[text: a jam of SNIP-1]]") == "[redacted:failed]"

    events = await chat.events()
    assert "jam" not in str(events) and "jam" not in str(await chat.transcript())
    assert await chat.say("[[text: SNIP-1 again]]") == "[redacted:snip] again"


async def test_a_redactor_that_cannot_redact_refuses_the_session(open_chat: Any) -> None:
    with pytest.raises(ModuleFailed, match=r"session\.redactor"):
        await open_chat(bundle_text(hooks=[scissors(blunt=True)]))


async def test_people_are_asked_with_masked_arguments(open_chat: Any, db: Database) -> None:
    chat = await open_chat(
        bundle_text(tools=[from_folder("tool-parrot")], hooks=[scissors(), from_folder("hooks-doorman", timeout=0.05)])
    )

    await chat.say('[[tool: parrot {"say": "SNIP-77"}]] [[then: done]]')

    page = await db.read(list_approvals, PageRequest(limit=10), session_id=chat.session_id, within="default")
    assert [one.arguments for one in page.items] == [{"say": "[redacted:snip]"}]


async def test_tools_see_which_calls_run_and_nothing_is_left_of_them(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-parrot")]))
    import amplifier_module_tool_parrot as parrot

    parrot.seen.clear()
    await chat.say('[[tools: parrot {"say": "a"} | parrot {"say": "b"}]] [[then: done]]')

    assert next(set(call) for calls in parrot.seen for call in calls) == {"tool_call_id", "parallel_group_id"}
    assert len({call["parallel_group_id"] for calls in parrot.seen for call in calls}) == 1
    assert coordinator_of(chat)._tool_dispatch_contexts == {}


async def test_modules_find_the_limits_of_the_operator_and_where_logs_go(open_chat: Any, make_sessions: Any) -> None:
    manager = make_sessions(commands_unsandboxed="ask", commands_network=True, private_addresses=True)
    coordinator = coordinator_of(await open_chat(manager=manager))

    assert coordinator.get_capability("host.command_limits") == {
        "unsandboxed": "ask",
        "network": True,
        "mcp_programs": True,
    }
    assert coordinator.get_capability("host.private_addresses") is True
    folder = manager._runtime.options.data_dir / "logs" / "default"
    assert coordinator.get_capability("host.log_dir") == str(folder)


async def test_modules_learn_what_the_session_has_used(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(replies=["one"]))
    await chat.say("[[usage: input=7 output=3]] [[text: one]]")

    used = await coordinator_of(chat).get_capability("host.session_usage")()

    assert (used["input_tokens"], used["output_tokens"], used["cost_usd"]) == (7, 3, None)


async def test_a_module_names_a_session_until_a_person_does(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(hooks=[scissors()]))
    name = coordinator_of(chat).get_capability("session.set_title")

    async def title() -> str | None:
        return (await chat.sessions.get_session(chat.session_id)).title

    assert await name("About SNIP-5\n and more", "…") is True
    assert await title() == "About [redacted:snip] and more"
    assert await name("Better", "") is True
    await chat.sessions.patch_session(chat.session_id, {"title": "Mine"})
    assert await name("Worse", "") is False
    assert await title() == "Mine"
    await chat.sessions.patch_session(chat.session_id, {"title": None})
    assert await name("Again", "") is True


async def test_a_module_of_a_server_that_lost_the_session_names_it_no_more(open_chat: Any, make_sessions: Any) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two"]))
    await chat.say("a")
    name = coordinator_of(chat).get_capability("session.set_title")
    elsewhere: SessionManager = make_sessions()
    assert await (await chat.reopened(elsewhere)).say("b") == "two"

    assert await name("Stale", "") is False
    assert (await chat.sessions.get_session(chat.session_id)).title is None
