"""Modules written elsewhere, in every shape: what the host puts in front of them does not change what they do."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from amplifier_app_api.models.turn import Budget
from runtime_bundles import bundle_text
from runtime_faults import provider, tool, written_module

LOOP = """
import asyncio

__amplifier_module_type__ = "orchestrator"


class Loop:
    async def execute(self, prompt, context, providers, tools, hooks, coordinator=None):
        await context.add_message({{"role": "user", "content": prompt}})
        {body}
        await context.add_message({{"role": "assistant", "content": text}})
        return text


async def mount(coordinator, config=None):
    await coordinator.mount("orchestrator", Loop())
"""


def loop(folder: Path, *lines: str) -> dict[str, Any]:
    return written_module(folder, "loop", LOOP.format(body="\n        ".join(lines)))


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


async def test_a_notice_during_a_model_call_does_not_cost_the_pieces_that_follow(
    open_chat: Any, tmp_path: Path
) -> None:
    body = 'self.coordinator.display_system.show_message("thinking hard", "info", "w"); return answer("whole")'
    chat = await open_chat(bundle_text(provider=provider(tmp_path, body)))

    types = [event["type"] for event in await chat.stream("go")]

    assert types[3:7] == ["notice", "message.delta", "message.completed", "usage.updated"]


async def test_what_a_module_says_while_it_is_mounted_is_told_without_its_secrets(
    open_chat: Any, tmp_path: Path
) -> None:
    said = 'coordinator.display_system.show_message(f"using {config[\'api_key\']}", "info", "w")'
    before = f"if type(coordinator).__name__ != 'MockCoordinator': {said}"  # not at the kernel's own check
    entry = provider(tmp_path, 'return answer("ok")', before=before, api_key="${SOME_KEY}")

    chat = await open_chat(bundle_text(provider=entry), variables={"SOME_KEY": "sk-very-secret"})

    assert [event["text"] for event in of_type(await chat.events(), "notice")] == ["using ***"]


async def test_what_a_tool_was_given_and_gave_back_is_shown_without_secrets_everywhere(
    open_chat: Any, tmp_path: Path
) -> None:
    written = tool(tmp_path, 'return ToolResult(success=True, output="the key is sk-very-secret")')
    call = '[[tool: written {"key": "sk-very-secret"}]] [[then: done]]'
    text = bundle_text(tools=[written], replies=[call.replace("sk-very-secret", "${SOME_KEY}")])
    chat = await open_chat(text, variables={"SOME_KEY": "sk-very-secret"})

    await chat.say("go")

    assert "sk-very-secret" not in str(await chat.events())
    assert "sk-very-secret" not in str(await chat.sessions.transcript(chat.session_id))


async def test_a_message_that_holds_a_secret_is_sealed_at_rest_and_whole_again_for_the_model(
    open_chat: Any, tmp_path: Path, make_sessions: Any, db: Any
) -> None:
    written = tool(tmp_path, 'return ToolResult(success=True, output="the key is sk-very-secret")')
    text = bundle_text(tools=[written], replies=["[[tool: written {}]] [[then: done]]", "still here"])
    chat = await open_chat(text, variables={"SOME_KEY": "sk-very-secret"})
    await chat.say("go")
    await chat.sessions._runtime.close()

    rows = await db.read(lambda conn: conn.execute(sql("SELECT * FROM messages")).all())
    again = await chat.reopened(make_sessions())
    await again.sessions.resume_session(chat.session_id)
    kernel = again.sessions._runtime._live.get(chat.session_id, within="default").opened.kernel
    restored = await kernel.session.coordinator.get("context").get_messages()

    assert "sk-very-secret" not in str(rows)
    assert restored[2]["content"] == "the key is sk-very-secret"
    assert await again.say("and now?") == "still here"


async def test_a_module_may_put_a_method_of_its_own_around_one_that_the_host_stands_before(
    open_chat: Any, tmp_path: Path
) -> None:
    after = """
    tool = coordinator.get("tools")["written"]
    before = tool.execute
    async def traced(input):
        result = await before(input)
        return ToolResult(success=True, output=f"traced {result.output}")
    tool.execute = traced
    """.strip()
    written = tool(tmp_path, 'return ToolResult(success=True, output="ran")', after=after)
    chat = await open_chat(bundle_text(tools=[written], replies=["[[tool: written {}]] [[then: done]]"]))

    await chat.say("go")

    events = await chat.events()
    assert len(of_type(events, "tool.started")) == 1
    assert [event["output"] for event in of_type(events, "tool.completed")] == ["ran"]
    assert ("tool", "traced ran") in await chat.transcript()


async def test_what_stands_before_a_module_has_its_class_and_forgets_what_it_is_told_to_forget(
    open_chat: Any, tmp_path: Path
) -> None:
    after = """
    tool = coordinator.get("tools")["written"]
    assert isinstance(tool, Tool)
    tool.mark = 1
    del tool.mark
    assert not hasattr(tool, "mark")
    coordinator.todo_state = []
    del coordinator.todo_state
    assert not hasattr(coordinator, "todo_state")
    """.strip()
    ready = f"\n\nasync def on_session_ready(coordinator):\n    {after}\n    ready.append(1)\n\n\nready = []\n"
    entry = tool(tmp_path, "return ToolResult(success=True)", after="pass" + ready)

    await open_chat(bundle_text(tools=[entry]))

    assert sys.modules[f"amplifier_module_{entry['module'].replace('-', '_')}"].ready == [1]


async def test_a_provider_that_asks_another_one_makes_one_model_call_of_it(open_chat: Any, tmp_path: Path) -> None:
    after = """
    inner = coordinator.get("providers")["written"]
    class Fallback(Provider):
        async def complete(self, request, **kwargs):
            return await inner.complete(request, **kwargs)
    await coordinator.mount("providers", Fallback(coordinator), name="written")
    """.strip()
    chat = await open_chat(bundle_text(provider=provider(tmp_path, 'return answer("once")', after=after)))

    answer = await chat.sessions.send_message(chat.session_id, "go")

    assert (answer["response"], answer["usage"]["input_tokens"]) == ("once", 3)
    assert [event["request"] for event in of_type(await chat.events(), "message.completed")] == [1]


ASKS_BESIDE = """
import asyncio
from amplifier_core import ChatRequest, HookResult
from amplifier_core.message_models import Message

__amplifier_module_type__ = "hook"


async def mount(coordinator, config=None):
    async def ask():
        request = ChatRequest(messages=[Message(role="user", content="A title, please")])
        answers.append(await coordinator.get("providers")["scripted"].complete(request))

    async def on_complete(event, data):
        await asyncio.create_task(ask())
        return HookResult(action="continue")

    coordinator.hooks.register("prompt:complete", on_complete, 50, name="asks-beside")


answers = []
"""


async def test_what_a_hook_asks_a_model_once_the_answer_is_out_is_no_call_of_the_turn(
    open_chat: Any, make_sessions: Any, tmp_path: Path
) -> None:
    hook = written_module(tmp_path, "hooks", ASKS_BESIDE)
    chat = await open_chat(bundle_text(hooks=[hook]), manager=make_sessions(turn_budget=Budget(iterations=1)))

    events = await chat.stream("[[text: hello]] [[usage: input=3 output=2]]")

    answers = sys.modules[f"amplifier_module_{hook['module'].replace('-', '_')}"].answers
    assert [answer.content[0].text for answer in answers] == ["A title, please"]
    assert [event["text"] for event in events if event["type"] == "message.delta"] == ["hello"]
    log = await chat.events()
    assert [event["type"] for event in log] == [
        "session.created",
        "turn.started",
        "message.user",
        "message.completed",
        "usage.updated",
        "turn.completed",
    ]
    used = log[-1]["usage"]
    assert (log[-1]["stop_reason"], used["input_tokens"], used["output_tokens"]) == ("end_turn", 3, 2)


HEARS_THE_END = """
from amplifier_core import HookResult

__amplifier_module_type__ = "hook"

heard = []


async def mount(coordinator, config=None):
    async def on_complete(event, data):
        heard.append((data["response_preview"], data["length"]))
        return HookResult(action="continue")

    coordinator.hooks.register("prompt:complete", on_complete, 50, name="hears-the-end")
"""


@pytest.mark.parametrize("body", [None, 'return "ab" * 150'])
async def test_modules_hear_once_that_the_answer_is_out_whether_the_loop_tells_it_or_not(
    open_chat: Any, tmp_path: Path, body: str | None
) -> None:
    hook = written_module(tmp_path, "hooks", HEARS_THE_END)
    session = None if body is None else {"orchestrator": loop(tmp_path, body)}
    chat = await open_chat(bundle_text(hooks=[hook], session=session))

    answers = [await chat.say("ab" * 150) for _ in range(2)]

    heard = sys.modules[f"amplifier_module_{hook['module'].replace('-', '_')}"].heard
    assert answers == ["ab" * 150] * 2
    assert heard == [("ab" * 100, 300)] * 2


DELEGATES_LATE = """
from amplifier_core import HookResult

__amplifier_module_type__ = "hook"


async def mount(coordinator, config=None):
    async def on_complete(event, data):
        if coordinator.parent_id is None:
            spawn = coordinator.get_capability("session.spawn")
            await spawn(agent_name="self", instruction="[[text: checked]] [[usage: input=30 output=20]]")
        return HookResult(action="continue")

    coordinator.hooks.register("prompt:complete", on_complete, 50, name="delegates-late")
"""


async def test_an_agent_that_a_hook_gives_a_task_once_the_answer_is_out_has_a_turn_like_any_other(
    open_chat: Any, tmp_path: Path
) -> None:
    chat = await open_chat(bundle_text(hooks=[written_module(tmp_path, "hooks", DELEGATES_LATE)]))

    await chat.say("[[text: hello]] [[usage: input=3 output=2]]")

    log = await chat.events()
    [started] = of_type(log, "child.started")
    child = await chat.sessions.get_session(started["child_id"])
    assert (child.usage.input_tokens, log[-1]["usage"]["input_tokens"]) == (30, 33)
    assert await type(chat)(chat.sessions, child.session_id).transcript() == [
        ("user", "[[text: checked]] [[usage: input=30 output=20]]"),
        ("assistant", "checked"),
    ]


async def test_a_loop_that_gives_a_tool_up_tells_that_it_ended(open_chat: Any, tmp_path: Path) -> None:
    orchestrator = loop(
        tmp_path,
        "try:",
        '    await asyncio.wait_for(tools["written"].execute({}), 0.05)',
        "except asyncio.TimeoutError:",
        '    text = "gave up"',
    )
    written = tool(tmp_path, "import asyncio; await asyncio.sleep(60)")
    chat = await open_chat(bundle_text(tools=[written], session={"orchestrator": orchestrator}))

    assert await chat.say("go") == "gave up"

    events = await chat.events()
    assert len(of_type(events, "tool.started")) == 1
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [False]


async def test_a_loop_that_gives_a_model_call_up_and_asks_again_discards_what_was_streamed(
    open_chat: Any, tmp_path: Path
) -> None:
    orchestrator = loop(
        tmp_path,
        "asked = next(iter(providers.values()))",
        "try:",
        "    await asyncio.wait_for(asked.complete(None), 0.05)",
        "except asyncio.TimeoutError:",
        "    response = await asked.complete(None)",
        "    text = response.content[0].text",
    )
    body = """
        if not getattr(self, "asked", False):
            self.asked = True
            await self.coordinator.hooks.emit("content_block:delta", {"block_index": 0, "text": "half"})
            import asyncio
            await asyncio.sleep(60)
        return answer("whole")
    """.strip()
    chat = await open_chat(bundle_text(provider=provider(tmp_path, body), session={"orchestrator": orchestrator}))

    assert await chat.say("go") == "whole"

    events = await chat.events()
    assert [event["request"] for event in of_type(events, "message.discarded")] == [1]
    assert [event["request"] for event in of_type(events, "message.completed")] == [2]


@pytest.mark.parametrize("layout", ["package", "single", "folder"])
async def test_a_module_is_found_in_every_layout_the_kernel_knows_by_what_it_says_it_is(
    open_chat: Any, tmp_path: Path, layout: str
) -> None:
    # The id says "tool", the module says "hook": what the module says counts.
    code = """
    from amplifier_core import HookResult

    __amplifier_module_type__ = "hook"

    heard = []

    async def mount(coordinator, config=None):
        async def on_prompt(event, data):
            heard.append(data["prompt"])
            return HookResult(action="continue")
        return coordinator.hooks.register("prompt:submit", on_prompt, 50, name=f"heard:{coordinator.session_id}")
    """
    entry = written_module(tmp_path, "tool", code, layout=layout)
    chat = await open_chat(bundle_text(hooks=[entry]))

    await chat.say("hello")

    packages = [name for name in sys.modules if getattr(sys.modules[name], "__file__", None)]
    mine = [sys.modules[name] for name in packages if str(sys.modules[name].__file__).startswith(str(tmp_path))]
    assert [module.heard for module in mine] == [["hello"]]


async def test_nothing_in_the_folder_of_a_module_stands_in_for_a_package_of_the_server(
    open_chat: Any, tmp_path: Path
) -> None:
    entry = tool(tmp_path, 'return ToolResult(success=True, output="ok")')
    (Path(entry["source"]) / "tabnanny.py").write_text("raise RuntimeError('the wrong one')", encoding="utf-8")
    (Path(entry["source"]) / "colorsys.py").write_text("raise RuntimeError('the wrong one')", encoding="utf-8")
    sys.modules.pop("colorsys", None)

    await open_chat(bundle_text(tools=[entry]))

    assert not str(importlib.import_module("colorsys").__file__).startswith(str(tmp_path))


async def test_arguments_with_numbers_that_no_json_of_ours_holds_reach_the_tool_and_the_log(
    open_chat: Any, tmp_path: Path
) -> None:
    orchestrator = loop(tmp_path, 'result = await tools["written"].execute({"n": 2**80})', "text = str(result.output)")
    written = tool(tmp_path, 'return ToolResult(success=True, output=str(input["n"] == 2**80))')
    chat = await open_chat(bundle_text(tools=[written], session={"orchestrator": orchestrator}))

    assert await chat.say("go") == "True"

    assert of_type(await chat.events(), "tool.started")[0]["arguments"] == {"n": str(2**80)}
