from typing import Any

import pytest
from amplifier_core.testing import MockContextManager, MockCoordinator

from amplifier_app_api.modules import load_mount

STEPS = [
    {"content": "Read the code", "activeForm": "Reading the code", "status": "completed"},
    {"content": "Run the tests", "activeForm": "Running the tests", "status": "in_progress"},
]


@pytest.fixture
async def coordinator() -> MockCoordinator:
    made = MockCoordinator()
    await load_mount("tool-todo")(made, {})
    return made


async def call(coordinator: MockCoordinator, **arguments: Any) -> Any:
    return await coordinator.get("tools", "todo").execute(arguments)


async def test_a_list_is_made_changed_and_shown(coordinator: MockCoordinator) -> None:
    created = await call(coordinator, action="create", todos=STEPS[:1])
    updated = await call(coordinator, action="update", todos=STEPS)
    listed = await call(coordinator, action="list")

    assert created.output == {"status": "created", "count": 1, "todos": STEPS[:1]}
    assert updated.output == {"status": "updated", "count": 2, "pending": 0, "in_progress": 1, "completed": 1}
    assert listed.output == {"status": "listed", "count": 2, "todos": STEPS}
    assert coordinator.todo_state == STEPS


@pytest.mark.parametrize(
    ("todos", "problem"),
    [
        (None, "todos is missing: it must be a list"),
        (["a"], "Item 1 has no content"),
        ([{"content": "a", "activeForm": "b"}], "Item 1 has no status"),
        (
            [{"content": "a", "activeForm": "b", "status": "done"}],
            "The status of item 1 must be one of: pending, in_progress, completed",
        ),
        ([{"content": "a" * 1001}], "The content of item 1 is longer than 1,000 characters"),
        ([STEPS[0]] * 201, "A list has at most 200 items"),
    ],
)
async def test_a_list_that_is_none_changes_nothing(coordinator: MockCoordinator, todos: Any, problem: str) -> None:
    await call(coordinator, action="create", todos=STEPS)

    result = await call(coordinator, action="update", todos=todos)

    assert (result.success, result.output) == (False, problem)
    assert coordinator.todo_state == STEPS


async def test_the_list_is_nobody_elses(coordinator: MockCoordinator) -> None:
    given = [dict(step) for step in STEPS]
    await call(coordinator, action="create", todos=given)
    given[0]["status"] = "pending"
    (await call(coordinator, action="list")).output["todos"][1]["status"] = "pending"

    assert coordinator.todo_state == STEPS


async def test_a_session_that_is_opened_again_has_its_list(coordinator: MockCoordinator) -> None:
    context = MockContextManager()
    calls = [{"action": "create", "todos": STEPS[:1]}, {"action": "update", "todos": STEPS}, {"action": "update"}]
    for arguments in calls:
        await context.add_message(
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "tool": "todo", "arguments": arguments}]}
        )
    await coordinator.mount("context", context)

    await coordinator.hooks.emit("session:resume", {})

    assert coordinator.todo_state == STEPS
