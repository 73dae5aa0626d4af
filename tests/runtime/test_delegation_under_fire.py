"""Delegation when people are asked, budgets end, and processes go away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.core.usage import UsageReports
from amplifier_app_api.models import PageRequest
from amplifier_app_api.models.approval import ApprovalStatus
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.accept import Incoming
from amplifier_app_api.runtime.turn import DATABASE_AWAY
from amplifier_app_api.runtime.turn_children import ChildInTurn
from amplifier_app_api.runtime.units import Unit
from amplifier_app_api.storage import Database
from runtime_bundles import bundle_text, from_folder
from runtime_faults import written_module

MakeSessions = Callable[..., SessionManager]


def delegating(replies: list[str], *, tools: list[dict[str, Any]], hooks: list[dict[str, Any]] | None = None) -> str:
    """A bundle whose one agent, `keeper`, answers with these replies."""
    document = yaml.safe_load(
        bundle_text(
            replies=['[[tool: errand {"agent": "keeper", "instruction": "keep"}]] [[then: back]]', "later"],
            tools=[from_folder("tool-errand"), *tools],
            hooks=hooks,
        )
    )
    keeper = {"module": "provider-scripted", "config": {"replies": replies}}
    document["agents"] = {"keeper": {"description": "k", "providers": [keeper]}}
    return yaml.safe_dump(document, sort_keys=False)


async def until(seen: Callable[[], Awaitable[Any]]) -> Any:
    """What `seen` finds, once it finds something: rows change without a signal."""
    async with asyncio.timeout(10):
        while not (found := await seen()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def child_of(chat: Any) -> Any:
    (child,) = (await chat.sessions.page_sessions(PageRequest(), parent_id=chat.session_id)).items
    return type(chat)(chat.sessions, child.session_id)


async def activities(*chats: Any) -> list[str]:
    return [(await chat.sessions.get_session(chat.session_id)).activity.value for chat in chats]


async def turn_statuses(*chats: Any) -> list[str]:
    pages = [await chat.sessions.page_turns(chat.session_id, PageRequest()) for chat in chats]
    return [page.items[0].status.value for page in pages]


async def test_while_a_child_waits_for_a_person_its_parent_is_shown_as_waiting(open_chat: Any) -> None:
    text = delegating(
        ['[[tool: compass {"of": "east", "degrees": 90}]] [[then: allowed]]'],
        tools=[from_folder("tool-compass")],
        hooks=[from_folder("hooks-doorman", tools=["compass"], options=["allow", "deny"])],
    )
    chat = await open_chat(text)
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    desk = ApprovalManager(chat.sessions._db, board=chat.sessions._runtime.approvals)

    async def pending() -> list[Any]:
        return (await desk.page_approvals(PageRequest(), status=ApprovalStatus.PENDING)).items

    (approval,) = await until(pending)
    child = await child_of(chat)

    assert approval.session_id == child.session_id
    assert await activities(chat, child) == ["waiting", "waiting"]
    await desk.answer(child.session_id, approval.approval_id, "allow")
    assert (await sent.turn.outcome).response == "back"
    assert await activities(chat, child) == ["idle", "idle"]
    assert (await child.transcript())[-1] == ("assistant", "allowed")


async def test_stopping_the_parent_takes_the_childs_question_back(open_chat: Any) -> None:
    text = delegating(
        ['[[tool: compass {"of": "east", "degrees": 90}]] [[then: allowed]]'],
        tools=[from_folder("tool-compass")],
        hooks=[from_folder("hooks-doorman", tools=["compass"], options=["allow", "deny"])],
    )
    chat = await open_chat(text)
    going = asyncio.create_task(chat.say("go"))
    desk = ApprovalManager(chat.sessions._db, board=chat.sessions._runtime.approvals)

    async def with_status(status: ApprovalStatus) -> list[Any]:
        return (await desk.page_approvals(PageRequest(), status=status)).items

    await until(lambda: with_status(ApprovalStatus.PENDING))
    child = await child_of(chat)

    await chat.sessions.cancel(chat.session_id)
    await going

    assert len(await until(lambda: with_status(ApprovalStatus.WITHDRAWN))) == 1
    assert await activities(chat, child) == ["idle", "idle"]


async def test_the_budget_of_a_turn_bounds_what_its_children_use(open_chat: Any) -> None:
    text = delegating(["[[usage: input=5000 output=1]] [[tool: errand {}]] [[then: never]]"], tools=[])
    chat = await open_chat(text)

    sent = await chat.sessions._runtime.accept(
        chat.session_id, Incoming("go", budget=Budget(tokens=3000)), within="default"
    )
    assert sent.turn is not None
    outcome = await sent.turn.outcome

    assert (outcome.status, outcome.stop_reason) == ("completed", "budget")
    child = await child_of(chat)
    assert (await child.events())[-1]["stop_reason"] == "budget"
    assert outcome.usage.input_tokens >= 5000


async def held_at_the_gate(open_chat: Any) -> tuple[Any, Any, str]:
    """A turn whose child is inside a tool, its child, and the turn's id."""
    chat = await open_chat(delegating(["[[tool: gate {}]] [[then: through]]"], tools=[from_folder("tool-gate")]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    async with asyncio.timeout(10):
        await gate.entered.wait()
    return chat, await child_of(chat), sent.turn_id


async def taken_over(sessions: SessionManager) -> None:
    await sessions._runtime.recovery.look(lambda seen: False)


async def test_a_delegated_call_whose_process_died_is_answered_by_its_child(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat, child, turn_id = await held_at_the_gate(open_chat)

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.response) == ("completed", "back")
    parent, below = await chat.reopened(other), await child.reopened(other)
    assert (await below.transcript())[-1] == ("assistant", "through")
    (told,) = [event for event in await parent.events() if event["type"] == "tool.completed"]
    assert told["ok"] and '"response":"through"' in told["output"].replace(" ", "")
    assert [event["status"] for event in await parent.events() if event["type"] == "child.ended"] == ["completed"]
    recovered = next(event for event in await parent.events() if event["type"] == "turn.recovered")
    assert recovered["unknown"] == []


async def at_the_gate_after_an_errand(open_chat: Any) -> tuple[Any, str]:
    """A turn whose child has ended and that is inside a tool, and its id. It used 20 tokens, its child 500."""
    text = delegating(["[[usage: input=500 output=1]] [[text: kept]]"], tools=[from_folder("tool-gate")])
    then = "[[tool: gate {}]] [[usage: input=10 output=1]] [[then: back]]"
    chat = await open_chat(text.replace("[[then: back]]", then))
    import amplifier_module_tool_gate as gate

    gate.reset()
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    async with asyncio.timeout(10):
        await gate.entered.wait()
    return chat, sent.turn_id


async def test_a_child_that_was_let_go_of_alone_is_gone_on_with_and_answers_the_call(open_chat: Any) -> None:
    chat, child, turn_id = await held_at_the_gate(open_chat)
    runtime = chat.sessions._runtime
    (of_child,) = (await chat.sessions.page_turns(child.session_id, PageRequest())).items
    runtime.running(of_child.turn_id).let_go(DATABASE_AWAY)

    async def answered() -> bool:
        await runtime.recovery.look(lambda seen: True)
        return await turn_statuses(chat) == ["completed"]

    await until(answered)
    assert await turn_statuses(child) == ["completed"]
    assert [role for role, _ in await chat.transcript()] == ["user", "assistant", "tool", "assistant"]
    result = next(content for role, content in await chat.transcript() if role == "tool")
    assert '"response": "through"' in result
    types = [event["type"] for event in await chat.events()]
    assert (types.count("child.started"), types.count("child.ended")) == (1, 1)
    assert "turn.recovered" not in types
    assert [event["type"] for event in await child.events()].count("turn.recovered") == 1
    assert (await chat.sessions.get_turn(chat.session_id, turn_id)).status == "completed"


async def test_what_children_used_before_their_parent_was_gone_on_with_counts(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat, turn_id = await at_the_gate_after_an_errand(open_chat)

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.usage.input_tokens) == ("completed", 530)
    assert (await other.get_session(chat.session_id)).usage.input_tokens == 530


async def test_what_a_child_used_before_it_was_found_again_counts_for_its_parent(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    replies = ["[[usage: input=500 output=1]] [[tool: gate {}]] [[then: through]]"]
    text = delegating(replies, tools=[from_folder("tool-gate")])
    chat = await open_chat(text.replace("[[then: back]]", "[[usage: input=10 output=1]] [[then: back]]"))
    import amplifier_module_tool_gate as gate

    gate.reset()
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    async with asyncio.timeout(10):
        await gate.entered.wait()

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, sent.turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.usage.input_tokens) == ("completed", 1020)


async def test_what_children_used_counts_for_a_turn_that_is_ended_from_its_rows(
    open_chat: Any, make_sessions: MakeSessions, db: Database
) -> None:
    chat, turn_id = await at_the_gate_after_an_errand(open_chat)
    other = make_sessions()

    assert await other._runtime.cancel_turn(chat.session_id, turn_id, within="default") == "cancelled"

    turn = (await other.page_turns(chat.session_id, PageRequest())).items[0]
    assert turn.usage.input_tokens == (await other.get_session(chat.session_id)).usage.input_tokens == 520
    (today,) = await UsageReports(db).days()
    assert today.input_tokens == 520  # the child's own turn is booked once


async def test_a_parent_and_its_child_are_gone_on_with_where_there_is_room_for_one_session(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat, _, turn_id = await held_at_the_gate(open_chat)

    other = make_sessions(live_sessions=1, max_running_turns=1)
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, turn_id, within="default")

    assert outcome is not None and outcome.response == "back"


async def test_the_child_of_a_turn_that_ended_otherwise_is_stopped(open_chat: Any, make_sessions: MakeSessions) -> None:
    chat, child, turn_id = await held_at_the_gate(open_chat)
    other = make_sessions()
    # Another process ends the parent's turn while nobody there has its child.
    assert await other._runtime.cancel_turn(chat.session_id, turn_id, within="default") == "cancelled"

    told = [(event["type"], event.get("status")) for event in await (await chat.reopened(other)).events()]
    assert told[-3:] == [("child.ended", "cancelled"), ("tool.completed", None), ("turn.cancelled", None)]

    await other._runtime.after_look()

    below = await child.reopened(other)
    assert (await below.events())[-1]["type"] == "turn.cancelled"


async def test_a_server_that_stops_leaves_parent_and_child_to_the_next_one(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat, child, turn_id = await held_at_the_gate(open_chat)
    await chat.sessions._runtime.close()
    assert await turn_statuses(chat, child) == ["running", "running"]

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.response) == ("completed", "back")
    parent = await chat.reopened(other)
    assert [event["status"] for event in await parent.events() if event["type"] == "child.ended"] == ["completed"]


async def test_a_child_that_was_told_of_and_never_begun_is_told_to_have_ended(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    replies = ["[[tool: gate {}]] [[then: on]]"]
    chat = await open_chat(bundle_text(replies=replies, tools=[from_folder("tool-gate")]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    assert sent.turn is not None
    async with asyncio.timeout(10):
        await gate.entered.wait()
    # A process that dies here has told of the child, and nothing of the child's turn is stored.
    await sent.turn.recorder.write(Unit(events=[ChildInTurn("child", "outside", "keeper").started()]))

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, sent.turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.response) == ("completed", "on")
    told = [(event["type"], event.get("status")) for event in await (await chat.reopened(other)).events()]
    assert [status for kind, status in told if kind == "child.ended"] == ["cancelled"]
    assert told[-2:] == [("child.ended", "cancelled"), ("turn.completed", None)]


LINGERING = """
    import asyncio

    from amplifier_core import ToolResult

    __amplifier_module_type__ = "tool"


    class Lingering:
        name = "linger"
        description = "Delegates, and is not done when its agent is."
        input_schema = {"type": "object", "properties": {}}

        def __init__(self, coordinator):
            self.coordinator = coordinator

        async def execute(self, input):
            spawn = self.coordinator.get_capability("session.spawn")
            await spawn(agent_name="keeper", instruction="keep")
            await asyncio.Event().wait()
            return ToolResult(success=True, output="never")


    async def mount(coordinator, config=None):
        await coordinator.mount("tools", Lingering(coordinator), name="linger")
"""


async def test_the_end_of_a_child_that_the_log_tells_already_is_not_told_again(
    open_chat: Any, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    text = delegating(["kept"], tools=[written_module(tmp_path, "tool", LINGERING)])
    chat = await open_chat(text.replace('errand {"agent": "keeper", "instruction": "keep"}', "linger {}"))
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")

    async def ends_told() -> list[str]:
        return [event["status"] for event in await chat.events() if event["type"] == "child.ended"]

    await until(ends_told)

    other = make_sessions()
    await taken_over(other)
    async with asyncio.timeout(15):
        outcome = await other._runtime.outcome_of(chat.session_id, sent.turn_id, within="default")

    assert outcome is not None and (outcome.status, outcome.response) == ("completed", "back")
    assert await ends_told() == ["completed"]
