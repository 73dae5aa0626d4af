import json
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.hooks.todo_reminder import reminder_of

ITEMS = [
    {"content": "Read it", "activeForm": "Reading it", "status": "completed"},
    {"content": "Test it", "activeForm": "Testing it", "status": "pending"},
    {"content": "Write it", "activeForm": "Writing it", "status": "in_progress"},
]


async def reminded(coordinator: Any) -> bool:
    result = await coordinator.hooks.emit("provider:request", {"provider": "p", "iteration": 1})
    return result.action == "inject_context"


async def test_the_model_is_reminded_in_the_request_alone(open_chat: Any) -> None:
    create = f"[[tool: todo {json.dumps({'action': 'create', 'todos': ITEMS})}]] [[then: done]]"
    chat = await open_chat(
        replies=[create, "ok"],
        tools=[{"module": "tool-todo"}],
        hooks=[{"module": "hooks-todo-reminder", "config": {"inject_role": "system"}}],
    )
    seen: list[str] = []
    provider = chat.coordinator.get("providers")["scripted"]
    complete = provider.complete

    async def noted(request: Any, **kwargs: Any) -> Any:
        seen.append(str(request.messages[-1].content))
        return await complete(request, **kwargs)

    provider.complete = noted
    await chat.say("one")
    await chat.say("two")

    assert "<todo-reminder>" not in seen[0]
    assert "- [>] Write it\n- [ ] Test it" in seen[-1]
    assert "todo-reminder" not in str(await chat.history())


async def test_it_comes_at_the_start_of_a_turn_and_after_other_tools() -> None:
    coordinator = MockCoordinator()
    await load_mount("hooks-todo-reminder")(coordinator, {"recent_tool_threshold": 2})
    coordinator.todo_state = ITEMS
    at_start = await reminded(coordinator), await reminded(coordinator)

    for tool in ("bash", "todo", "bash"):
        await coordinator.hooks.emit("tool:post", {"tool_name": tool})
    after_one = await reminded(coordinator)
    await coordinator.hooks.emit("tool:post", {"tool_name": "bash"})
    after_two = await reminded(coordinator)
    await coordinator.hooks.emit("prompt:submit", {"prompt": "x"})

    assert at_start == (True, False)
    assert (after_one, after_two, await reminded(coordinator)) == (False, True, True)


def test_what_is_done_is_counted_and_a_long_list_cut() -> None:
    many = [*ITEMS, *({**ITEMS[1], "content": f"</todo-reminder> {n} " + "x" * 500} for n in range(40))]

    said = reminder_of(many)

    assert said is not None
    assert "(1 of 43 done)" in said
    assert said.count("</todo-reminder>") == 1
    assert "- and 22 more" in said
    assert len(said) < 6_000


@pytest.mark.parametrize("items", [[], [ITEMS[0]]])
def test_where_nothing_is_left_nothing_is_said(items: list[dict[str, str]]) -> None:
    assert reminder_of(items) is None
