import asyncio
import re
from typing import Any

import pytest
from amplifier_core.llm_errors import ConfigurationError

from agents_host import AGENTS, Host, fails


@pytest.fixture
async def host() -> Host:
    made = Host({"session": {"orchestrator": {"module": "loop-basic", "config": {"max_iterations": 7}}}})
    await made.mount("tool-task")
    return made


async def test_the_description_lists_the_agents(host: Host) -> None:
    description = host.coordinator.get("tools", "task").description

    assert description.endswith("\n\nAgents:\n- explorer: Finds things\n- reviewer: Reads critically")


async def test_a_session_without_agents_says_so() -> None:
    host = Host({"agents": {}})
    await host.mount("tool-task")

    assert host.coordinator.get("tools", "task").description.endswith("\n\nAgents:\n(this session has none)")
    assert await host.refusal("task", agent="x", instruction="y") == "There is no agent 'x'. Agents: none"


@pytest.mark.parametrize("tool", ["task", "delegate"])
async def test_an_agent_may_be_called_by_its_short_name_where_that_means_one(tool: str) -> None:
    agents = {"a:reader": {"description": "A"}, "b:reader": {"description": "B"}, "a:writer": {"description": "C"}}
    host = Host({"agents": agents})
    await host.mount(f"tool-{tool}")

    await host.call(tool, agent="writer", instruction="x")
    refusal = await host.refusal(tool, agent="reader", instruction="x")

    [(_, given)] = host.asked
    assert given["agent_name"] == "a:writer"
    assert refusal.startswith("There is no agent 'reader'. Agents: a:reader, a:writer, b:reader")


async def test_a_task_is_given_to_a_child(host: Host) -> None:
    result = await host.call("task", agent="explorer", instruction=" look around ")

    [(name, given)] = host.asked
    child = given.pop("sub_session_id")
    assert re.fullmatch(r"test-session-[0-9a-f]{16}_explorer", child)
    assert name == "session.spawn"
    assert given.pop("parent_session") is host.coordinator.session
    assert given == {
        "agent_name": "explorer",
        "instruction": "look around",
        "agent_configs": AGENTS,
        "tool_inheritance": {"exclude_tools": ["tool-task"]},
        "hook_inheritance": {},
        "orchestrator_config": {"max_iterations": 7},
        "provider_preferences": None,
    }
    assert (result.success, result.output) == (True, {"response": "done", "session_id": child})
    facts = {"agent": "explorer", "sub_session_id": child, "parent_session_id": "test-session"}
    assert host.told() == [("task:agent_spawned", facts), ("task:agent_completed", {**facts, "success": True})]


async def test_an_earlier_agent_goes_on(host: Host) -> None:
    result = await host.call("task", session_id="child-1", instruction="and now?")

    assert host.asked == [("session.resume", {"sub_session_id": "child-1", "instruction": "and now?"})]
    assert result.output == {"response": "done", "session_id": "child-1"}
    facts = {"sub_session_id": "child-1", "parent_session_id": "test-session"}
    assert host.told() == [("task:agent_resumed", facts), ("task:agent_completed", {**facts, "success": True})]


@pytest.mark.parametrize(
    ("options", "tools", "hooks"),
    [
        ({"exclude_tools": []}, {"exclude_tools": []}, {}),
        ({"exclude_tools": ["a"], "exclude_hooks": ["b"]}, {"exclude_tools": ["a"]}, {"exclude_hooks": ["b"]}),
        ({"inherit_tools": ["a"], "inherit_hooks": []}, {"inherit_tools": ["a"]}, {"inherit_hooks": []}),
    ],
)
async def test_options_say_what_a_child_inherits(options: dict[str, Any], tools: Any, hooks: Any) -> None:
    host = Host()
    await host.mount("tool-task", options)

    await host.call("task", agent="explorer", instruction="go")

    given = host.asked[0][1]
    assert (given["tool_inheritance"], given["hook_inheritance"]) == (tools, hooks)


@pytest.mark.parametrize("written", ["loop-basic", {"module": "loop-basic"}])
async def test_the_loops_options_are_found_where_the_plan_has_them(written: Any) -> None:
    host = Host({"session": {"orchestrator": written}, "orchestrator": {"config": {"max_iterations": 3}}})
    await host.mount("tool-task")

    await host.call("task", agent="explorer", instruction="go")

    assert host.asked[0][1]["orchestrator_config"] == ({"max_iterations": 3} if written == "loop-basic" else None)


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"agent": "explorer"}, "instruction is missing: it must be a text"),
        ({"agent": "explorer", "instruction": "  "}, "instruction is empty: say what the agent is to do"),
        ({"agent": "explorer", "instruction": "x" * 100_001}, "instruction has more than 100,000 characters"),
        ({"instruction": "go"}, "There is no agent None. Agents: explorer, reviewer"),
        ({"agent": "self", "instruction": "go"}, "There is no agent 'self'. Agents: explorer, reviewer"),
        ({"agent": "a:b", "instruction": "go"}, "There is no agent 'a:b'. Agents: explorer, reviewer"),
    ],
)
async def test_what_cannot_be_asked_is_refused(host: Host, arguments: dict[str, Any], refusal: str) -> None:
    assert await host.refusal("task", **arguments) == refusal
    assert (host.asked, host.events) == ([], [])


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (RuntimeError("no model"), "The agent 'explorer' failed: RuntimeError: no model"),
        (TimeoutError(), "The agent 'explorer' failed: TimeoutError: no reason given"),
        (
            TypeError("unexpected keyword argument"),
            "The agent 'explorer' failed: TypeError: unexpected keyword argument",
        ),
    ],
)
async def test_a_child_that_fails_is_told_to_the_model(host: Host, error: Exception, refusal: str) -> None:
    host.answer = fails(error)

    assert await host.refusal("task", agent="explorer", instruction="go") == refusal
    assert [(event, data.get("success")) for event, data in host.told()] == [
        ("task:agent_spawned", None),
        ("task:agent_completed", False),
    ]


async def test_a_child_that_is_gone_is_told_to_the_model(host: Host) -> None:
    host.answer = fails(FileNotFoundError("child-1"))

    assert await host.refusal("task", session_id="child-1", instruction="go") == (
        "The agent of 'child-1' is gone: there is no such session. Name an agent to start a new one"
    )


async def test_a_child_that_ended_badly_is_a_failed_result_with_what_it_said(host: Host) -> None:
    host.answer = lambda given: {"output": "half", "session_id": "c", "status": "error"}

    result = await host.call("task", agent="explorer", instruction="go")

    assert (result.success, result.output) == (False, {"response": "half", "session_id": "c", "status": "error"})
    assert result.error == {"message": "The agent 'explorer' ended with status 'error'"}


async def test_a_child_takes_its_time_and_no_longer() -> None:
    host = Host()
    await host.mount("tool-task", {"timeout": 0.1})
    host.answer = host.wait_for_ever

    assert await host.refusal("task", agent="explorer", instruction="go") == (
        "The agent 'explorer' did not finish within 0.1 seconds"
    )


async def test_a_cancelled_task_is_over_and_told(host: Host) -> None:
    host.answer = host.wait_for_ever
    call = asyncio.create_task(host.call("task", agent="explorer", instruction="go"))
    await host.waiting.wait()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert host.told()[-1][0] == "task:agent_completed"
    assert host.told()[-1][1]["success"] is False


async def test_a_host_without_children_says_so() -> None:
    host = Host()
    await host.mount("tool-task")
    host.coordinator.register_capability("session.spawn", None)

    assert await host.refusal("task", agent="explorer", instruction="go") == (
        "Agents cannot be asked here: this host does not offer session.spawn"
    )


async def test_options_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'exclude_tools' must be a list of texts"):
        await Host().mount("tool-task", {"exclude_tools": [1]})
