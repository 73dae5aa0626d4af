"""What hooks answer is what the loops do, in both of them."""

import asyncio
from datetime import date
from typing import Any

import pytest
from amplifier_core.models import HookResult, ToolResult

LOOPS = pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
DEADLINE = 10
ASK = HookResult(action="ask_user", approval_prompt="May it look?", approval_options=["Allow once", "Deny"])

SAYING = HookResult(
    action="inject_context",
    context_injection="it looks",
    ephemeral=True,
    user_message="it looks",
    user_message_level="warning",
)


class Person:
    """Who is asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def request_approval(self, prompt: str, *_: Any) -> str:
        self.asked.append(prompt)
        return self.answer


def results(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["content"] for row in rows if row["role"] == "tool"]


@LOOPS
@pytest.mark.parametrize(
    ("answer", "result"),
    [("Allow once", "seen"), ("Allow always", "seen"), ("Deny", "Denied by hook: "), ("perhaps", "Denied by hook: ")],
)
async def test_a_tool_that_a_person_is_asked_about_runs_when_they_allow_it(
    open_chat: Any, loop: str, answer: str, result: str
) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: done]]"])
    await chat.add_result("look", "seen")
    chat.coordinator.approval_system = person = Person(answer)
    chat.on("tool:pre", lambda _: ASK)

    assert await chat.say("go") == "done"
    assert person.asked == ["May it look?"]
    [told] = results(await chat.history())
    assert told.startswith(result)


@LOOPS
async def test_a_question_that_nobody_can_be_asked_is_a_no(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: done]]"])
    await chat.add_result("look", "seen")
    chat.coordinator.approval_system = None
    chat.on("tool:pre", lambda _: ASK)

    assert await chat.say("go") == "done"
    assert "Denied by hook" in results(await chat.history())[0]


@LOOPS
async def test_a_denied_model_call_ends_the_turn_before_the_model_is_asked(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop)
    chat.on("provider:request", lambda _: HookResult(action="deny", reason="over quota"))

    assert await chat.say("hi") == "Operation denied: over quota"
    assert chat.of("llm:request") == []
    assert [(data["status"], data["stop_reason"]) for data in chat.of("orchestrator:complete")] == [
        ("incomplete", "denied")
    ]
    assert chat.names("execution:start", "execution:end") == ["execution:start", "execution:end"]


@LOOPS
async def test_each_of_several_calls_is_changed_on_its_own(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=['[[tools: look {"n": 1} | look {"n": 2}]] [[then: done]]'])

    async def look(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(output=arguments["n"])

    await chat.add_tool("look", look)
    chat.on(
        "tool:pre",
        lambda data: HookResult(action="modify", data={**data, "tool_input": {"n": data["tool_input"]["n"] * 10}}),
    )
    chat.on(
        "tool:post",
        lambda data: HookResult(
            action="modify", data={**data, "result": {"success": True, "output": f"<{data['result']['output']}>"}}
        ),
    )

    assert await chat.say("go") == "done"
    assert results(await chat.history()) == ["<10>", "<20>"]
    assert sorted(data["tool_input"]["n"] for data in chat.of("tool:post")) == [10, 20]


@LOOPS
async def test_one_hook_may_change_a_call_while_another_adds_to_it(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=['[[tool: look {"at": "a"}]] [[then: done]]'])
    got: list[Any] = []

    async def look(arguments: dict[str, Any]) -> ToolResult:
        got.append(arguments)
        return ToolResult(output="seen")

    await chat.add_tool("look", look)

    async def changes(_: str, data: dict[str, Any]) -> HookResult:
        return HookResult(action="modify", data={**data, "tool_input": {"at": "b"}})

    async def adds(_: str, __: dict[str, Any]) -> HookResult:
        return HookResult(action="inject_context", context_injection="mind the gap")

    chat.coordinator.hooks.register("tool:pre", changes, 1, "changes")
    chat.coordinator.hooks.register("tool:pre", adds, 2, "adds")

    assert await chat.say("go") == "done"
    assert got == [{"at": "b"}]
    assert all("witness" not in name for name in chat.coordinator.hooks.list_handlers("tool:pre")["tool:pre"])
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "system", "assistant"]


@LOOPS
async def test_a_result_that_a_hook_cleaned_stays_clean_when_others_add_to_it(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tools: look {} | look {}]] [[then: done]]"])
    await chat.add_result("look", "key=123")
    cleaned = {"success": True, "output": "key=***", "error": None}
    chat.on("tool:post", lambda data: HookResult(action="modify", data={**data, "result": cleaned}))

    async def adds(_: str, __: dict[str, Any]) -> HookResult:
        return HookResult(action="inject_context", context_injection="mind the gap")

    chat.coordinator.hooks.register("tool:post", adds, 2, "adds")
    chat.coordinator.hooks.register("prompt:submit", adds, 2, "adds")
    chat.on("prompt:submit", lambda data: HookResult(action="modify", data={**data, "prompt": "cleaned"}))

    assert await chat.say("go") == "done"
    rows = await chat.history()
    assert [row["content"] for row in rows if row["role"] == "user"] == ["cleaned"]
    assert results(rows) == ["key=***", "key=***"]


@LOOPS
async def test_what_is_to_stand_behind_the_last_result_is_shown_there_and_not_stored(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]]"])
    await chat.add_result("look", "seen")
    chat.on(
        "tool:post",
        lambda _: HookResult(
            action="inject_context", context_injection="(old)", ephemeral=True, append_to_last_tool_result=True
        ),
    )

    assert await chat.say("go") == "Tool results: seen\n\n(old)"
    assert results(await chat.history()) == ["seen"]


@LOOPS
async def test_what_a_hook_says_to_people_is_shown_to_them(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: done]]"])
    await chat.add_result("look", "seen")
    shown: list[tuple[str, str]] = []

    class Display:
        def show_message(self, message: str, level: str = "info", source: str = "hook") -> None:
            shown.append((message, level))

    chat.coordinator.display_system = Display()
    chat.on("tool:pre", lambda _: SAYING)

    assert await chat.say("go") == "done"
    assert shown == [("it looks", "warning")]


async def test_results_are_told_the_model_in_one_way_whatever_the_loop(open_chat: Any) -> None:
    outputs: list[Any] = ["text", "", None, 0, False, [], {"b": 1, "a": [None, True]}, {"day": date(2024, 5, 1)}, "ü"]
    failures = [ToolResult(success=False, error={"message": "no"}), ToolResult(success=False, output={"why": 1})]
    told: dict[str, list[Any]] = {}
    for loop in ("loop-basic", "loop-streaming"):
        calls = " | ".join(f"t{number} {{}}" for number in range(len(outputs) + len(failures)))
        chat = await open_chat(loop=loop, replies=[f"[[tools: {calls}]] [[then: done]]"])
        for number, result in enumerate([*(ToolResult(output=output) for output in outputs), *failures]):

            async def work(_: dict[str, Any], result: ToolResult = result) -> ToolResult:
                return result

            await chat.add_tool(f"t{number}", work)
        assert await chat.say("go") == "done"
        told[loop] = results(await chat.history())

    assert told["loop-basic"] == told["loop-streaming"]
    assert all(isinstance(each, str) for each in told["loop-basic"])
    assert told["loop-basic"][6] == '{"b": 1, "a": [null, true]}'
    assert told["loop-basic"][7] == '{"day": "2024-05-01"}'
    assert told["loop-basic"][9:] == ["no", '{"why": 1}']


@LOOPS
async def test_eight_calls_run_at_once_and_are_answered_in_their_order(open_chat: Any, loop: str) -> None:
    names = [f"t{number}" for number in range(8)]
    chat = await open_chat(
        loop=loop, replies=[f"[[tools: {' | '.join(f'{name} {{}}' for name in names)}]] [[then: ok]]"]
    )
    entered: list[str] = []
    all_in, turns = asyncio.Event(), {name: asyncio.Event() for name in names}

    for number, name in enumerate(names):

        async def work(_: dict[str, Any], name: str = name, number: int = number) -> ToolResult:
            entered.append(name)
            if len(entered) == len(names):
                all_in.set()
                turns[names[-1]].set()
            async with asyncio.timeout(DEADLINE):
                await turns[name].wait()  # the last one first
            if number:
                turns[names[number - 1]].set()
            return ToolResult(output=name)

        await chat.add_tool(name, work)

    assert await chat.say("go") == "ok"
    assert all_in.is_set()
    assert results(await chat.history()) == names


@LOOPS
@pytest.mark.parametrize("answer", [HookResult(action="deny", reason="it leaks"), ASK])
async def test_a_result_that_a_hook_denies_does_not_reach_the_model(
    open_chat: Any, loop: str, answer: HookResult
) -> None:
    chat = await open_chat(loop=loop, replies=["[[tools: look {} | other {}]]"])
    await chat.add_result("look", "a secret")
    await chat.add_result("other", "harmless")
    chat.coordinator.approval_system = Person("Deny")
    chat.on("tool:post", lambda data: answer if data["tool_name"] == "look" else None)

    said = await chat.say("go")

    denied, other = results(await chat.history())
    assert denied.startswith("Denied by hook: ")
    assert other == "harmless"
    assert "a secret" not in said


@LOOPS
async def test_a_result_that_a_person_lets_through_is_as_it_was(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: done]]"])
    await chat.add_result("look", "a secret")
    chat.coordinator.approval_system = Person("Allow once")
    chat.on("tool:post", lambda _: ASK)

    await chat.say("go")

    assert results(await chat.history()) == ["a secret"]


@LOOPS
@pytest.mark.parametrize("ephemeral", [True, False])
@pytest.mark.parametrize("event", ["prompt:submit", "provider:request", "tool:post", "orchestrator:complete"])
async def test_a_text_over_the_sessions_limit_is_left_out_and_the_turn_goes_on(
    open_chat: Any, loop: str, event: str, ephemeral: bool
) -> None:
    chat = await open_chat(loop=loop, replies=["[[tool: look {}]] [[then: done]]"])
    chat.coordinator.config["session"]["injection_size_limit"] = 10
    await chat.add_result("look", "seen")
    chat.on(event, lambda _: HookResult(action="inject_context", context_injection="x" * 11, ephemeral=ephemeral))

    assert await chat.say("go") == "done"
    assert [data["message_count"] for data in chat.of("llm:request")] == [1, 3]
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "assistant"]
