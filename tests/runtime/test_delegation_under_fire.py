"""Delegation when people are asked, budgets end, and processes go away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import yaml

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.models import PageRequest
from amplifier_app_api.models.approval import ApprovalStatus
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.accept import Incoming
from runtime_bundles import bundle_text, from_folder

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
