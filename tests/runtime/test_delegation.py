"""Delegation: children are sessions, and the turn that waits for them says what became of them."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.session_manager import SessionBusy
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.children import descendants
from amplifier_app_api.storage.sessions import get_session
from runtime_bundles import bundle_text, from_folder

MakeSessions = Callable[..., SessionManager]

SCOUT: dict[str, Any] = {
    "description": "Looks around.",
    "instruction": "You are the scout.",
    "providers": [{"module": "provider-scripted", "config": {"replies": ["seen", "seen again"]}}],
}


def with_agents(
    replies: list[str], agents: dict[str, Any] | None = None, *, tools: list[dict[str, Any]] | None = None
) -> str:
    document = yaml.safe_load(bundle_text(replies=replies, tools=tools or [from_folder("tool-errand")]))
    document["agents"] = {"scout": SCOUT} if agents is None else agents
    return yaml.safe_dump(document, sort_keys=False)


def errand(agent: str, instruction: str, then: str = "done") -> str:
    return f'[[tool: errand {{"agent": "{agent}", "instruction": "{instruction}"}}]] [[then: {then}]]'


async def children_of(chat: Any) -> list[Any]:
    return (await chat.sessions.page_sessions(PageRequest(limit=50), parent_id=chat.session_id)).items


async def outputs_of(chat: Any) -> list[tuple[bool, str]]:
    return [(event["ok"], event["output"]) for event in await chat.events() if event["type"] == "tool.completed"]


async def record_of(db: Database, session_id: str) -> Any:
    return await db.read(get_session, session_id, within="default")


async def test_a_child_is_a_session_with_its_own_transcript_under_its_parent(open_chat: Any, db: Database) -> None:
    chat = await open_chat(with_agents([errand("scout", "look around")]), title="mother", tags={"a": "b"})

    assert await chat.say("go") == "done"

    (child,) = await children_of(chat)
    assert (child.parent_id, child.agent, child.status, child.activity) == (
        chat.session_id,
        "scout",
        "active",
        "idle",
    )
    assert child.external_id.startswith(f"{chat.session_id}-") and child.external_id.endswith("_scout")
    below = type(chat)(chat.sessions, child.session_id)
    assert await below.transcript() == [("user", "look around"), ("assistant", "seen")]
    parent = await record_of(db, chat.session_id)
    row = await record_of(db, child.session_id)
    assert (row.session.revision, row.depth, row.working_dir) == (
        parent.session.revision,
        1,
        parent.working_dir or chat.session_id,
    )
    assert (await chat.sessions.page_sessions(PageRequest())).total == 1


async def test_the_parents_log_tells_of_the_child_between_the_events_of_the_call(open_chat: Any) -> None:
    chat = await open_chat(with_agents([errand("scout", "look")]))
    await chat.say("go")
    (child,) = await children_of(chat)

    told = [event for event in await chat.events() if event["type"].startswith(("tool.", "child."))]

    assert [event["type"] for event in told] == ["tool.started", "child.started", "child.ended", "tool.completed"]
    assert {event["child_id"] for event in told[1:3]} == {child.session_id}
    assert (told[1]["external_id"], told[1]["agent"], told[2]["status"]) == (child.external_id, "scout", "completed")
    assert [event["seq"] for event in await chat.events()] == list(range(1, len(await chat.events()) + 1))


async def test_an_agent_speaks_with_its_own_instruction_and_mentions_reach_its_files(
    open_chat: Any, options: Any
) -> None:
    echo = {**SCOUT, "providers": [{"module": "provider-scripted", "config": {"replies": ["[[echo]]"]}}]}
    chat = await open_chat(with_agents(["ready", errand("scout", "read @notes.md")], {"scout": echo}))
    await chat.say("make the folder")
    folder = options.data_dir / "workspaces" / "default" / chat.session_id
    (folder / "notes.md").write_text("a note")

    await chat.say("go")

    (child,) = await children_of(chat)
    live = chat.sessions._runtime
    await chat.sessions.resume_session(child.session_id)
    kernel = live._live.get(child.session_id, within="default").opened.kernel.session
    built = await kernel.coordinator.get("context").get_messages_for_request()
    assert built[0]["role"] == "system" and built[0]["content"].startswith("You are the scout.")
    said = next(message["content"] for message in built if message["role"] == "user")
    assert "a note" in said and said.endswith("read @notes.md")
    assert (await type(chat)(chat.sessions, child.session_id).transcript())[0] == ("user", "read @notes.md")


async def test_a_child_goes_on_when_its_tool_asks_with_its_id_after_a_restart_too(
    open_chat: Any, make_sessions: MakeSessions, db: Database
) -> None:
    again = '[[tool: errand {"session_id": "SCOUT", "instruction": "once more"}]] [[then: done twice]]'
    chat = await open_chat(with_agents([errand("scout", "look"), "[[text: x]]"]))
    await chat.say("go")
    (child,) = await children_of(chat)
    await chat.sessions._runtime.close()

    after = await chat.reopened(make_sessions())
    assert await after.say(again.replace("SCOUT", child.external_id)) == "done twice"

    assert [one.session_id for one in await children_of(after)] == [child.session_id]
    below = type(chat)(after.sessions, child.session_id)
    assert await below.transcript() == [
        ("user", "look"),
        ("assistant", "seen"),
        ("user", "once more"),
        ("assistant", "seen again"),
    ]
    statuses = [event["status"] for event in await after.events() if event["type"] == "child.ended"]
    assert statuses == ["completed", "completed"]


async def test_an_unknown_sub_session_and_an_unknown_agent_are_told_to_the_model(open_chat: Any) -> None:
    calls = (
        '[[tool: errand {"session_id": "nobody", "instruction": "x"}]]'
        '[[tool: errand {"agent": "ghost", "instruction": "x"}]] [[then: ok]]'
    )
    chat = await open_chat(with_agents([calls]))

    assert await chat.say("go") == "ok"

    assert await outputs_of(chat) == [
        (False, "nobody there: There is no agent session 'nobody' of this session."),
        (False, "nobody there: There is no agent 'ghost'. Those that there are: scout."),
    ]
    assert await children_of(chat) == []
    assert not any(event["type"].startswith("child.") for event in await chat.events())


async def test_a_child_of_another_session_is_not_known_here(open_chat: Any) -> None:
    one = await open_chat(with_agents([errand("scout", "look")]))
    await one.say("go")
    (child,) = await children_of(one)
    other = await open_chat(with_agents([]))

    await other.say(f'[[tool: errand {{"session_id": "{child.external_id}", "instruction": "x"}}]] [[then: ok]]')

    assert [ok for ok, _ in await outputs_of(other)] == [False]


async def test_a_session_that_delegates_to_itself_knows_how_deep_it_is_and_stops_at_the_limit(open_chat: Any) -> None:
    down = '[[tool: errand {"agent": "self", "instruction": "deeper"}]] [[then: back]]'
    chat = await open_chat(with_agents([down], {}))

    assert await chat.say("go") == "back"

    depths = []
    session_id = chat.session_id
    while below := (await chat.sessions.page_sessions(PageRequest(), parent_id=session_id)).items:
        session_id = below[0].session_id
        depths.append(below[0].agent)
    assert depths == ["self", "self", "self"]
    deepest = await outputs_of(type(chat)(chat.sessions, session_id))
    assert deepest[0][0] is False and "at most 3 times in a row" in deepest[0][1]


async def test_named_agents_delegate_as_deep_as_the_server_allows(open_chat: Any, make_sessions: MakeSessions) -> None:
    walker = {
        "description": "w",
        "providers": [{"module": "provider-scripted", "config": {"replies": [errand("walker", "on")]}}],
    }
    sessions = make_sessions(delegation_depth=2)
    chat = await open_chat(with_agents([errand("walker", "on")], {"walker": walker}), manager=sessions)

    assert await chat.say("go") == "done"

    below = await sessions._db.read(descendants, chat.session_id, within="default")
    assert len(below) == 2
    ((ok, said),) = await outputs_of(type(chat)(sessions, below[0]))
    assert not ok and "at most 2 levels deep" in said


async def test_a_turn_and_its_children_delegate_only_so_many_tasks(open_chat: Any, make_sessions: MakeSessions) -> None:
    calls = " ".join(['[[tool: errand {"agent": "scout", "instruction": "look"}]]'] * 3)
    sessions = make_sessions(delegation_tasks=2)
    chat = await open_chat(with_agents([f"{calls} [[then: ok]]"]), manager=sessions)

    assert await chat.say("go") == "ok"

    said = await outputs_of(chat)
    assert [ok for ok, _ in said] == [True, True, False]
    assert "2 tasks, as many as they may" in said[2][1]
    assert len(await children_of(chat)) == 2


async def test_children_run_in_the_place_of_their_parent_when_the_server_is_full(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    walker = {
        "description": "w",
        "providers": [{"module": "provider-scripted", "config": {"replies": [errand("scout", "look", "walked")]}}],
    }
    sessions = make_sessions(live_sessions=1, max_running_turns=1)
    calls = '[[tools: errand {"agent": "walker", "instruction": "a"} | errand {"agent": "walker", "instruction": "b"}]]'
    chat = await open_chat(
        with_agents([f"{calls} [[then: all back]]"], {"scout": SCOUT, "walker": walker}), manager=sessions
    )

    async with asyncio.timeout(20):
        assert await chat.say("go") == "all back"

    assert [ok for ok, _ in await outputs_of(chat)] == [True, True]
    assert len(await sessions._db.read(descendants, chat.session_id, within="default")) == 4
    assert sessions._runtime.live_count == 1


async def test_a_delegating_tool_may_say_everything_that_such_tools_say(open_chat: Any, db: Database) -> None:
    agents = {
        "scout": {
            "description": "s",
            "instruction": "Scout.",
            "tools": [{"module": "tool-filesystem", "config": {"allowed_read_paths": ["."]}}],
        }
    }
    second = {"module": "provider-scripted", "id": "second", "config": {"replies": ["from the second"]}}
    document = yaml.safe_load(
        with_agents(
            [
                '[[tool: embassy {"agent": "scout", "instruction": "x", "provider": "second", "model": "s*"}]]'
                " [[then: ok]]"
            ],
            agents,
            tools=[from_folder("tool-embassy")],
        )
    )
    document["providers"][0]["id"] = "first"
    document["providers"].append(second)
    chat = await open_chat(yaml.safe_dump(document, sort_keys=False))

    assert await chat.say("go") == "ok"

    ((ok, said),) = await outputs_of(chat)
    answer = yaml.safe_load(said)
    assert ok and answer["response"] == "from the second"
    assert (answer["status"], answer["turn_count"]) == ("success", 1)
    (child,) = await children_of(chat)
    assert answer["metadata"] == {
        "child_id": child.session_id,
        "turn_id": answer["metadata"]["turn_id"],
        "stop_reason": "end_turn",
    }
    await chat.sessions.resume_session(child.session_id)
    kernel = chat.sessions._runtime._live.get(child.session_id, within="default").opened.kernel.session
    assert "embassy" not in kernel.coordinator.get("tools") and "read_file" in kernel.coordinator.get("tools")
    assert kernel.config["session"]["metadata"]["agent_name"] == "scout"
    assert kernel.coordinator.get_capability("self_delegation_depth") == 0


async def test_a_child_that_fails_is_an_error_of_its_call_and_the_parent_goes_on(open_chat: Any) -> None:
    broken = {
        "description": "b",
        "providers": [{"module": "provider-scripted", "config": {"replies": ["[[error: status=400 message=nope]]"]}}],
    }
    chat = await open_chat(with_agents([errand("broken", "x", "went on")], {"broken": broken}))

    assert await chat.say("go") == "went on"

    ((ok, said),) = await outputs_of(chat)
    assert not ok and "broken failed (provider_rejected)" in said
    assert [event["status"] for event in await chat.events() if event["type"] == "child.ended"] == ["failed"]


async def test_an_agent_that_cannot_be_opened_leaves_no_session_behind(open_chat: Any) -> None:
    broken = {"description": "b", "tools": [from_folder("tool-broken", fail=True)]}
    chat = await open_chat(with_agents([errand("broken", "x", "went on")], {"broken": broken}))

    assert await chat.say("go") == "went on"

    ((ok, said),) = await outputs_of(chat)
    assert not ok and "tool-broken" in said
    assert await children_of(chat) == []


def waiting_at_the_gate() -> str:
    keeper = {
        "description": "k",
        "providers": [{"module": "provider-scripted", "config": {"replies": ["[[tool: gate {}]] [[then: through]]"]}}],
    }
    tools = [from_folder("tool-errand"), from_folder("tool-gate")]
    return with_agents([errand("keeper", "wait", "back")], {"keeper": keeper}, tools=tools)


async def started_at_the_gate(open_chat: Any, **kwargs: Any) -> tuple[Any, Any, Any, "asyncio.Task[str]"]:
    chat = await open_chat(waiting_at_the_gate(), **kwargs)
    import amplifier_module_tool_gate as gate

    gate.reset()
    going = asyncio.create_task(chat.say("go"))
    async with asyncio.timeout(10):
        await gate.entered.wait()
    (child,) = await children_of(chat)
    return chat, child, gate, going


async def test_a_message_to_a_child_that_works_for_its_parent_is_refused(open_chat: Any) -> None:
    chat, child, gate, going = await started_at_the_gate(open_chat)

    with pytest.raises(SessionBusy):
        await chat.sessions.send_message(child.session_id, "me too")

    gate.release.set()
    assert await going == "back"
    assert (await chat.sessions.send_message(child.session_id, "[[text: now]]"))["response"] == "now"


async def test_stopping_the_parent_stops_its_children_and_both_logs_say_so(open_chat: Any) -> None:
    chat, child, _, going = await started_at_the_gate(open_chat)

    await chat.sessions.cancel(chat.session_id)
    await going

    below = type(chat)(chat.sessions, child.session_id)
    runtime = chat.sessions._runtime
    async with asyncio.timeout(10):
        while runtime._live.get(child.session_id, within="default") is not None:  # noqa: ASYNC110 - no signal says so
            await asyncio.sleep(0.01)
    assert (await below.events())[-1]["type"] == "turn.cancelled"
    told = [event for event in await chat.events() if event["type"] in ("child.ended", "turn.cancelled")]
    assert [(event["type"], event.get("status")) for event in told] == [
        ("child.ended", "cancelled"),
        ("turn.cancelled", None),
    ]
    assert runtime.running_count == 0


async def test_a_gentle_stop_lets_the_tool_of_the_child_finish_and_asks_nobody_again(open_chat: Any) -> None:
    chat, child, gate, going = await started_at_the_gate(open_chat)

    await chat.sessions.cancel(chat.session_id, immediate=False)
    gate.release.set()
    async with asyncio.timeout(10):
        await going

    below = await type(chat)(chat.sessions, child.session_id).events()
    assert [event["ok"] for event in below if event["type"] == "tool.completed"] == [True]
    assert below[-1]["type"] == "turn.cancelled"
    told = [event for event in await chat.events() if event["type"] in ("child.ended", "turn.cancelled")]
    assert [event.get("status") for event in told] == ["cancelled", None]


async def test_a_tool_that_loses_its_patience_stops_the_child_and_the_parent_goes_on(open_chat: Any) -> None:
    document = yaml.safe_load(waiting_at_the_gate())
    document["tools"][0] = from_folder("tool-errand", timeout=0.2)
    chat = await open_chat(yaml.safe_dump(document))
    import amplifier_module_tool_gate as gate

    gate.reset()
    async with asyncio.timeout(10):
        assert await chat.say("go") == "back"

    assert (await outputs_of(chat))[0] == (False, "it took too long")
    (child,) = await children_of(chat)
    runtime = chat.sessions._runtime
    async with asyncio.timeout(10):
        while runtime._live.get(child.session_id, within="default") is not None:  # noqa: ASYNC110 - no signal says so
            await asyncio.sleep(0.01)
    assert (await type(chat)(chat.sessions, child.session_id).events())[-1]["type"] == "turn.cancelled"


async def test_deleting_a_session_deletes_what_is_below_it_and_keeps_nothing_running(open_chat: Any) -> None:
    chat, child, _, going = await started_at_the_gate(open_chat)

    assert await chat.sessions.delete_session(chat.session_id)
    await asyncio.gather(going, return_exceptions=True)

    assert await chat.sessions.get_session(child.session_id) is None
    assert chat.sessions._runtime.live_count == 0


async def test_a_child_that_is_deleted_leaves_the_folder_to_its_parent(open_chat: Any, options: Any) -> None:
    chat = await open_chat(with_agents([errand("scout", "look")]))
    await chat.say("go")
    (child,) = await children_of(chat)

    assert await chat.sessions.delete_session(child.session_id)

    assert (options.data_dir / "workspaces" / "default" / chat.session_id).is_dir()
    assert await chat.sessions.get_session(chat.session_id) is not None


async def test_what_children_use_counts_for_the_turn_that_waits_for_them(open_chat: Any) -> None:
    agent = {
        "description": "a",
        "providers": [
            {"module": "provider-scripted", "config": {"replies": ["[[usage: input=1000 output=500]] [[text: x]]"]}}
        ],
    }
    call = f"[[usage: input=10 output=1]] {errand('eater', 'eat')}"
    chat = await open_chat(with_agents([call], {"eater": agent}))

    answer = await chat.sessions.send_message(chat.session_id, "go")

    (child,) = await children_of(chat)
    assert child.usage.input_tokens == 1000
    assert answer["usage"]["input_tokens"] >= 1010


async def test_a_bundle_below_an_included_one_serves_as_an_agent_by_its_path(open_chat: Any, tmp_path: Path) -> None:
    (tmp_path / "crew" / "agents").mkdir(parents=True)
    (tmp_path / "crew" / "bundle.md").write_text("---\nbundle:\n  name: crew\n  namespace_root: .\n---\n")
    (tmp_path / "crew" / "agents" / "guide.md").write_text(
        "---\nmeta:\n  name: guide\nproviders:\n- module: provider-scripted\n"
        "  config: {replies: [this way]}\n---\nYou guide."
    )
    calls = (
        '[[tool: errand {"agent": "crew:agents/guide", "instruction": "x"}]]'
        '[[tool: errand {"agent": "crew:agents/nobody", "instruction": "x"}]]'
        '[[tool: errand {"agent": "git+https://example.com/x", "instruction": "x"}]] [[then: ok]]'
    )
    document = yaml.safe_load(with_agents([calls], {}))
    document["includes"].append({"bundle": str(tmp_path / "crew")})
    chat = await open_chat(yaml.safe_dump(document, sort_keys=False))

    assert await chat.say("go") == "ok"

    (found, missing, source) = await outputs_of(chat)
    assert found[0] and "this way" in found[1]
    assert not missing[0] and "There is no agent 'crew:agents/nobody'" in missing[1]
    assert not source[0] and "There is no agent" in source[1]
    (child,) = await children_of(chat)
    assert child.agent == "crew:agents/guide"


async def test_secrets_of_the_parent_are_the_childs_and_are_sealed_in_its_row(open_chat: Any, db: Database) -> None:
    document = yaml.safe_load(with_agents([errand("scout", "look")]))
    document["agents"]["scout"]["providers"][0]["config"]["api_key"] = "${TOKEN}"
    chat = await open_chat(yaml.safe_dump(document), variables={"TOKEN": "s3cret-value"})

    await chat.say("go")

    (child,) = await children_of(chat)
    row = await record_of(db, child.session_id)
    assert row.variables and "s3cret-value" not in row.variables + row.spawn
    await chat.sessions.resume_session(child.session_id)
    plan = chat.sessions._runtime._live.get(child.session_id, within="default").opened.kernel.session.config
    assert plan["providers"][0]["config"]["api_key"] == "s3cret-value"
