"""Both loops on the real kernel, with the scripted provider."""

import asyncio
import json
from pathlib import PurePosixPath
from typing import Any

import pytest
from amplifier_core.message_models import TextBlock
from amplifier_core.models import HookResult, ToolResult

LOOPS = pytest.mark.parametrize("loop", ["loop-basic", "loop-streaming"])
DEADLINE = 10  # seconds after which a test that waits has failed


class Watcher:
    """Hands everything on to another provider; `asked` are the requests, with what was said beside them."""

    name = "watcher"
    priority = 1

    def __init__(self, inner: Any) -> None:
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self._inner = inner

    async def complete(self, request: Any, **kwargs: Any) -> Any:
        self.asked.append((request, kwargs))
        return await self._inner.complete(request)

    def parse_tool_calls(self, response: Any) -> list[Any]:
        return self._inner.parse_tool_calls(response)


async def watching(chat: Any) -> Watcher:
    """A watcher before the provider of a conversation."""
    watcher = Watcher(chat.coordinator.get("providers")["scripted"])
    await chat.coordinator.mount("providers", watcher, name=watcher.name)
    return watcher


@LOOPS
async def test_a_turn_tells_its_events_in_order(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["hello"])

    assert await chat.say("hi") == "hello"

    streamed = ["llm:stream_block_start", "llm:stream_block_delta", "llm:stream_block_end"]
    assert chat.names() == [
        "session:start",
        "prompt:submit",
        "execution:start",
        "provider:request",
        "llm:request",
        *(streamed if loop == "loop-streaming" else []),
        "llm:response",
        "provider:response",
        "content_block:start",
        "content_block:end",
        "prompt:complete",
        "orchestrator:complete",
        "execution:end",
    ]
    [complete] = chat.of("orchestrator:complete")
    assert (complete["orchestrator"], complete["status"], complete["turn_count"]) == (loop, "success", 1)
    [end] = chat.of("content_block:end")
    assert end["block"] == {"type": "text", "text": "hello"}


@LOOPS
async def test_messages_are_stored_in_the_shapes_modules_rely_on(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=['[[think: hm]][[say: wait]][[tool: look {"at": "it"}]][[then: seen]]'])
    await chat.add_result("look", {"found": [1, 2]})

    await chat.say("look at it")

    rows = await chat.history()
    call_id = rows[2]["tool_call_id"]
    assert rows == [
        {"role": "user", "content": "look at it"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "wait"},
                {"type": "tool_call", "id": call_id, "name": "look", "input": {"at": "it"}},
            ],
            "tool_calls": [{"id": call_id, "tool": "look", "arguments": {"at": "it"}}],
        },
        {"role": "tool", "tool_call_id": call_id, "name": "look", "content": '{"found": [1, 2]}'},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "seen"}],
        },
    ]


async def test_calls_of_one_reply_run_side_by_side_and_are_answered_in_order(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tools: first {} | second {}]][[then: done]]"])
    second_ran = asyncio.Event()

    async def first(_: dict[str, Any]) -> ToolResult:
        async with asyncio.timeout(DEADLINE):
            await second_ran.wait()
        return ToolResult(output="one")

    async def second(_: dict[str, Any]) -> ToolResult:
        second_ran.set()
        return ToolResult(output="two")

    await chat.add_tool("first", first)
    await chat.add_tool("second", second)

    assert await chat.say("go") == "done"
    assert [row["content"] for row in await chat.history() if row["role"] == "tool"] == ["one", "two"]
    assert len({data["parallel_group_id"] for data in chat.of("tool:pre")}) == 1


async def test_running_tools_are_known_to_the_cancellation(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tool: look {}]][[then: done]]"])
    seen: list[Any] = []

    async def look(_: dict[str, Any]) -> ToolResult:
        seen.append((chat.coordinator.cancellation.running_tools, chat.coordinator.cancellation.running_tool_names))
        return ToolResult(output="ok")

    await chat.add_tool("look", look)
    await chat.say("go")

    [pre] = chat.of("tool:pre")
    assert seen == [({pre["tool_call_id"]}, ["look"])]
    assert chat.coordinator.cancellation.running_tools == set()


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
async def test_a_tool_that_raises_is_an_answer_like_any_other(open_chat: Any, raised: type[BaseException]) -> None:
    chat = await open_chat(replies=["[[tool: break {}]]"])

    async def work(_: dict[str, Any]) -> ToolResult:
        raise raised("out of paper")

    await chat.add_tool("break", work)

    assert await chat.say("go") == "Tool results: Error: out of paper"
    [error] = chat.of("tool:error")
    assert error["error"] == {"type": raised.__name__, "msg": "out of paper"}
    assert chat.of("tool:post") == []


async def test_an_unknown_tool_is_answered_with_the_known_ones(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tool: gone {}]]"])
    await chat.add_result("here", "x")

    assert await chat.say("go") == "Tool results: Error: There is no tool 'gone'. Tools: here"
    assert [data["error"]["type"] for data in chat.of("tool:error")] == ["ToolNotFound"]


async def test_a_failure_without_output_gives_its_message(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tool: look {}]]"])

    async def work(_: dict[str, Any]) -> ToolResult:
        return ToolResult(success=False, error={"message": "nothing there"})

    await chat.add_tool("look", work)

    assert await chat.say("go") == "Tool results: nothing there"


async def test_the_provider_with_the_lowest_priority_answers(open_chat: Any) -> None:
    chat = await open_chat(providers=[{"module": "provider-scripted", "config": {"replies": ["default"]}}])
    fast = type(chat.coordinator.get("providers")["scripted"])

    def named(priority: float, reply: str) -> Any:
        from amplifier_app_api.modules.providers.scripted import ScriptedOptions

        options = ScriptedOptions.read({"priority": priority, "replies": [reply]})
        return fast(options, chat.coordinator.hooks)

    await chat.coordinator.mount("providers", named(100, "tie"), name="later")
    assert await chat.say("one") == "default"

    await chat.coordinator.mount("providers", named(5, "first"), name="urgent")
    await chat.coordinator.get("context").clear()
    assert await chat.say("two") == "first"
    assert [data["provider"] for data in chat.of("provider:request")] == ["scripted", "urgent"]


async def test_without_a_provider_the_turn_fails_and_says_so(open_chat: Any) -> None:
    chat = await open_chat(providers=[])

    with pytest.raises(RuntimeError, match="No provider is mounted"):
        await chat.say("hi")
    assert [data["error"]["type"] for data in chat.of("provider:error")] == ["ConfigurationError"]
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["error"]


@LOOPS
async def test_max_iterations_is_the_number_of_model_calls(open_chat: Any, loop: str) -> None:
    replies = ["[[say: first]][[tool: look {}]][[tool: look {}]][[then: never]]"]
    chat = await open_chat(loop=loop, options={"max_iterations": 2}, replies=replies)
    await chat.add_result("look", "seen")

    assert await chat.say("go") == "first"
    [complete] = chat.of("orchestrator:complete")
    assert (complete["status"], complete["stop_reason"]) == ("incomplete", "max_iterations")
    assert len(chat.of("llm:request")) == 2
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "assistant", "tool"]


async def test_an_answer_on_the_last_permitted_call_is_a_success(open_chat: Any) -> None:
    chat = await open_chat(options={"max_iterations": 2}, replies=["[[tool: look {}]][[then: there]]"])
    await chat.add_result("look", "seen")

    assert await chat.say("go") == "there"
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["success"]


async def test_a_denied_prompt_reaches_neither_history_nor_model(open_chat: Any) -> None:
    chat = await open_chat()
    chat.on("prompt:submit", lambda _: HookResult(action="deny", reason="not today"))

    assert await chat.say("hi") == "Operation denied: not today"
    assert await chat.history() == []
    assert chat.of("llm:request") == []
    assert [data["stop_reason"] for data in chat.of("orchestrator:complete")] == ["denied"]


async def test_a_hook_may_change_the_prompt(open_chat: Any) -> None:
    chat = await open_chat()
    chat.on("prompt:submit", lambda data: HookResult(action="modify", data={**data, "prompt": "something else"}))

    assert await chat.say("hi") == "something else"


async def test_a_hook_may_change_what_a_tool_gets_and_gives(open_chat: Any) -> None:
    chat = await open_chat(replies=['[[tool: look {"at": "secret"}]]'])
    got: list[Any] = []

    async def look(arguments: dict[str, Any]) -> ToolResult:
        got.append(arguments)
        return ToolResult(output="key=123")

    await chat.add_tool("look", look)
    chat.on("tool:pre", lambda data: HookResult(action="modify", data={**data, "tool_input": {"at": "door"}}))
    replaced = {"success": True, "output": "key=***", "error": None}
    chat.on("tool:post", lambda data: HookResult(action="modify", data={**data, "result": replaced}))

    assert await chat.say("go") == "Tool results: key=***"
    assert got == [{"at": "door"}]


async def test_a_denied_tool_does_not_run(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tool: look {}]]"])
    await chat.add_result("look", "seen")
    chat.on("tool:pre", lambda _: HookResult(action="deny", reason="no looking"))

    assert await chat.say("go") == "Tool results: Denied by hook: no looking"
    assert chat.of("tool:post") == []


async def test_what_a_hook_adds_for_one_request_is_shown_once_and_not_stored(open_chat: Any) -> None:
    chat = await open_chat()
    watcher = await watching(chat)
    note = {"action": "inject_context", "context_injection": "[[text: from the hook]]", "ephemeral": True}
    answers = [HookResult(**note, context_injection_role="user"), None]
    chat.on("provider:request", lambda _: answers.pop(0))

    assert await chat.say("hi") == "hi"
    assert await chat.say("again") == "again"
    assert [[(row.role, row.content) for row in request.messages] for request, _ in watcher.asked] == [
        [("user", "hi"), ("user", "[[text: from the hook]]")],
        [("user", "hi"), ("assistant", [TextBlock(text="hi")]), ("user", "again")],
    ]
    assert watcher.asked[0][0].messages[-1].metadata == {"source": "hook"}
    assert [row["content"] for row in await chat.history() if row["role"] == "user"] == ["hi", "again"]


async def test_what_a_hook_adds_during_a_tool_comes_after_the_results(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tools: look {} | look {}]][[then: done]]"])
    await chat.add_result("look", "seen")
    chat.on("tool:post", lambda _: HookResult(action="inject_context", context_injection="mind the gap"))

    await chat.say("go")

    roles = [row["role"] for row in await chat.history()]
    assert roles == ["user", "assistant", "tool", "tool", "system", "system", "assistant"]


async def test_a_failing_provider_is_told_with_what_the_host_needs_to_judge_it(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[error: status=429 retry_after=7]]"], max_retries=0)

    with pytest.raises(RuntimeError):
        await chat.say("hi")

    [error] = chat.of("provider:error")
    assert error["error"] == {"type": "RateLimitError", "msg": "scripted 429"}
    assert (error["retryable"], error["status_code"], error["retry_after"]) == (True, 429, 7.0)
    assert chat.names("orchestrator:complete", "execution:end", "prompt:complete") == [
        "orchestrator:complete",
        "execution:end",
    ]


async def test_a_graceful_stop_lets_the_tool_finish_and_asks_no_model_again(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[say: looking]][[tool: look {}]][[then: never]]"])

    async def look(_: dict[str, Any]) -> ToolResult:
        chat.coordinator.cancellation.request_graceful()
        return ToolResult(output="seen")

    await chat.add_tool("look", look)

    assert await chat.say("go") == "looking"
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["cancelled"]
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool"]
    assert (await chat.history())[-1]["content"] == "seen"
    # The loop says so when it stops, and the kernel again when the turn is over.
    assert [data["was_immediate"] for data in chat.of("cancel:completed")] == [False, False]


@LOOPS
async def test_cancelled_during_tools_every_open_call_gets_an_answer(open_chat: Any, loop: str) -> None:
    chat = await open_chat(loop=loop, replies=["[[tools: quick {} | stuck {}]]"])
    ran, running = asyncio.Event(), asyncio.Event()

    async def quick(_: dict[str, Any]) -> ToolResult:
        ran.set()
        return ToolResult(output="done")

    async def stuck(_: dict[str, Any]) -> ToolResult:
        running.set()
        await asyncio.Event().wait()
        return ToolResult(output="never")

    await chat.add_tool("quick", quick)
    await chat.add_tool("stuck", stuck)
    turn = await chat.start("go")
    async with asyncio.timeout(DEADLINE):
        await ran.wait()
        await running.wait()
    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    answers = [row["content"] for row in await chat.history() if row["role"] == "tool"]
    assert answers == ["done", "cancelled by user"]
    assert chat.coordinator.cancellation.running_tools == set()
    assert [data["status"] for data in chat.of("orchestrator:complete")] == ["cancelled"]
    assert chat.names("execution:end") == ["execution:end"]


async def test_cancelled_before_its_tools_start_a_reply_has_answers_all_the_same(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tools: look {} | look {}]]"])
    await chat.add_result("look", "seen")
    asking = asyncio.Event()

    async def never(_: str, __: dict[str, Any]) -> None:
        asking.set()
        await asyncio.Event().wait()

    chat.coordinator.hooks.register("tool:pre", never, 0, "never")
    turn = await chat.start("go")
    async with asyncio.timeout(DEADLINE):
        await asking.wait()
    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    assert [row["content"] for row in await chat.history() if row["role"] == "tool"] == ["cancelled by user"] * 2


async def test_a_context_that_is_slow_to_store_a_reply_leaves_no_call_open(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tools: look {} | look {}]]"])
    context = chat.coordinator.get("context")
    storing = asyncio.Event()
    add_message = context.add_message

    async def slow(message: dict[str, Any]) -> None:
        await add_message(message)
        if message["role"] == "assistant":
            storing.set()
            await asyncio.Event().wait()

    context.add_message = slow
    turn = await chat.start("go")
    async with asyncio.timeout(DEADLINE):
        await storing.wait()
    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "tool", "tool"]


async def test_what_a_hook_adds_to_a_prompt_comes_after_it(open_chat: Any) -> None:
    chat = await open_chat(replies=["hello"])
    chat.on("prompt:submit", lambda _: HookResult(action="inject_context", context_injection="it is late"))

    assert await chat.say("hi") == "hello"
    assert [(row["role"], row["content"]) for row in (await chat.history())[:2]] == [
        ("user", "hi"),
        ("system", "it is late"),
    ]


async def test_a_result_that_is_not_json_is_an_answer_all_the_same(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[tool: look {}]]"])
    await chat.add_result("look", {"size": float("nan"), "path": PurePosixPath("a/b")})

    assert await chat.say("go") == 'Tool results: {"size": "NaN", "path": "a/b"}'


async def test_cancelled_during_a_model_call_nothing_made_up_is_stored(open_chat: Any) -> None:
    chat = await open_chat(replies=["[[slow: tokens=1000 delay_ms=100]]"])
    first = asyncio.Event()
    chat.on("llm:stream_block_delta", lambda _: first.set())
    turn = await chat.start("go")
    async with asyncio.timeout(DEADLINE):
        await first.wait()
    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    assert await chat.history() == [{"role": "user", "content": "go"}]
    assert chat.names("cancel:completed", "orchestrator:complete", "execution:end") == [
        "cancel:completed",
        "orchestrator:complete",
        "execution:end",
    ]


async def test_options_of_the_loop_reach_the_provider(open_chat: Any) -> None:
    chat = await open_chat(options={"extended_thinking": True, "reasoning_effort": "high"})
    watcher = await watching(chat)

    await chat.say("hi")

    [(request, kwargs)] = watcher.asked
    assert (request.reasoning_effort, request.stream, request.metadata) == ("high", True, None)
    assert kwargs == {"extended_thinking": True}


async def test_a_long_conversation_is_sent_as_it_was(open_chat: Any) -> None:
    chat = await open_chat()
    for number in range(3):
        assert await chat.say(f"message {number}") == f"message {number}"

    assert json.loads(json.dumps(await chat.history())) == await chat.history()
    assert [data["message_count"] for data in chat.of("llm:request")] == [1, 3, 5]


@pytest.mark.parametrize("output", ["a name \udcff", {"names": ["a name \udcff"]}])
async def test_a_result_with_half_a_letter_is_an_answer_all_the_same(open_chat: Any, output: Any) -> None:
    chat = await open_chat(replies=["[[tool: look {}]] [[then: done]]"])
    await chat.add_result("look", output)

    assert await chat.say("go") == "done"
    [result] = [row["content"] for row in await chat.history() if row["role"] == "tool"]
    assert "a name " in result
    assert "Error" not in result
    assert [data["result"]["success"] for data in chat.of("tool:post")] == [True]
