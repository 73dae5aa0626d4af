"""A goal of a session, set by a module: told to people, bounded by budgets, and known after a restart."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.core import SessionManager
from amplifier_app_api.models.turn import Budget
from amplifier_app_api.runtime.accept import Incoming
from runtime_bundles import bundle_text, from_folder
from runtime_faults import written_module

SETS_A_GOAL = """
__amplifier_module_type__ = "hook"


async def mount(coordinator, config=None):
    async def aim(event, data):
        if data["prompt"].startswith("go"):
            coordinator.session_state["goal"] = {"condition": config["condition"], "cap": config["cap"]}

    coordinator.hooks.register("prompt:submit", aim, name="aim")
"""
NEVER = "[[text: NO because it never is]]"  # the model that judges reads its answer in the condition


@pytest.fixture
def aiming(tmp_path: Path) -> Callable[[int], dict[str, Any]]:
    """A hook that gives the session a goal with a cap."""

    def make(cap: int) -> dict[str, Any]:
        return written_module(tmp_path, "hook", SETS_A_GOAL, condition=NEVER, cap=cap)

    return make


def news(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (event["level"], event["text"]) for event in events if event["type"] == "notice" and event["source"] == "goal"
    ]


async def test_people_are_told_how_it_goes_on_and_the_judging_is_counted(open_chat: Any, aiming: Any) -> None:
    chat = await open_chat(bundle_text(hooks=[aiming(2)], replies=["tried"]))

    answer = await chat.sessions.send_message(chat.session_id, "go")

    assert news(await chat.events()) == [
        ("info", "The goal is not reached yet: because it never is"),
        ("warning", "The goal is not confirmed within its bounds: NO because it never is"),
    ]
    turn = await chat.sessions.get_turn(chat.session_id, answer["turn_id"])
    assert (turn.status, turn.iterations) == ("completed", 5)
    rows = await chat.sessions.transcript(chat.session_id)
    assert [row.role for row in rows] == ["user", "assistant", "user", "assistant"]
    assert rows[2].metadata["goal"]["continuations"] == 1
    assert (await chat.sessions.get_session(chat.session_id)).message_count == 1


async def test_a_budget_ends_a_turn_whatever_its_goal(open_chat: Any, aiming: Any) -> None:
    chat = await open_chat(bundle_text(hooks=[aiming(100)], replies=["tried"]))

    answer = await chat.sessions.send_message(chat.session_id, "go", budget=Budget(iterations=3))

    assert (answer["status"], answer["stop_reason"]) == ("completed", "budget")
    turn = await chat.sessions.get_turn(chat.session_id, answer["turn_id"])
    assert turn.iterations == 3


async def test_a_turn_that_goes_on_in_another_process_still_has_its_goal(
    open_chat: Any, aiming: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(
        bundle_text(hooks=[aiming(2)], tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: one]]"])
    )
    import amplifier_module_tool_gate as gate

    gate.reset()
    sent = await chat.sessions._runtime.accept(chat.session_id, Incoming("go"), within="default")
    await asyncio.wait_for(gate.entered.wait(), 10)
    other = await chat.reopened(make_sessions())
    await other.sessions._runtime.recovery.look(lambda seen: False)

    outcome = await other.sessions._runtime.outcome_of(chat.session_id, sent.turn_id, within="default")

    assert outcome.status == "completed"
    assert [text.partition(":")[0] for _, text in news(await other.events())] == [
        "The goal is not reached yet",
        "The goal is not confirmed within its bounds",
    ]
