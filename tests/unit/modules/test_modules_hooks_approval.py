import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amplifier_core.approval import ApprovalTimeoutError
from amplifier_core.interfaces import ApprovalResponse
from amplifier_core.models import HookResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.hooks.approval import visible
from amplifier_app_api.modules.hooks.approval_rules import covers, wild_words
from amplifier_app_api.modules.kernel import ConfigurationError

SECRET = "ghp_" + "abcdefghijklmnopqrst" + "uvwxyzABCDEF012345"


class Desk:
    """The host's approval system; answers what it is told, in order, then the last again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, list[str], float, str]] = []

    async def request_approval(self, prompt: str, options: list[str], timeout: float, default: str) -> str:  # noqa: ASYNC109
        self.asked.append((prompt, options, timeout, default))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def call(tool: str, **arguments: Any) -> str:
    """What makes the model call a tool in a turn of its own."""
    return f"[[tool: {tool} {json.dumps(arguments)}]] [[then: done]]"


async def opened(open_chat: Any, desk: Any, *calls: str, hooks: Any = (), **options: Any) -> Any:
    """A chat in which the model makes one of the calls in each turn; `runs` is what really ran."""
    chat = await open_chat(
        replies=list(calls), hooks=[*hooks, {"module": "hooks-approval", "config": options}], approval_system=desk
    )
    chat.runs = []
    for name in ("run", "peek"):

        async def work(arguments: dict[str, Any], name: str = name) -> str:
            chat.runs.append((name, arguments))
            return "ran"

        await chat.add_tool(name, work)
    chat.coordinator.get("tools")["peek"].read_only = True
    return chat


async def test_a_tool_that_only_reads_runs_and_any_other_is_asked_about(open_chat: Any) -> None:
    desk = Desk("Allow once")
    chat = await opened(open_chat, desk, call("peek", x=1), call("run", x=1))

    await chat.say("one")
    assert desk.asked == []
    await chat.say("two")

    assert [name for name, _ in chat.runs] == ["peek", "run"]
    prompt, options, timeout, default = desk.asked[0]
    assert prompt == 'Run the tool run?\n{\n  "x": 1\n}'
    assert (options, timeout, default) == (["Allow once", "Allow always", "Deny"], 3600.0, "deny")
    assert chat.names("approval:required", "approval:granted", "approval:denied") == [
        "approval:required",
        "approval:granted",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Deny", "not approved"),
        ("whatever", "not approved"),
        ("", "not approved"),
        (None, "not approved"),
        (ApprovalTimeoutError(), "nobody answered in time"),
        (RuntimeError("broken"), "it could not be decided whether it may run"),
    ],
)
async def test_what_is_not_a_yes_is_a_no(open_chat: Any, answer: Any, reason: str) -> None:
    chat = await opened(open_chat, Desk(answer), call("run"))

    await chat.say("go")

    assert chat.runs == []
    assert (await chat.history())[2]["content"] == f"Denied by hook: {reason}"


async def test_without_anybody_to_ask_it_is_a_no(open_chat: Any) -> None:
    chat = await opened(open_chat, None, call("run"))

    await chat.say("go")

    assert chat.runs == []
    assert "there is nobody to ask" in (await chat.history())[2]["content"]


async def test_an_answer_that_does_not_come_is_what_the_options_say(open_chat: Any) -> None:
    chat = await opened(open_chat, Desk(ApprovalTimeoutError()), call("run"), default_action="allow")

    await chat.say("go")

    assert [name for name, _ in chat.runs] == ["run"]


async def test_always_is_for_the_same_call_in_the_same_session_alone(open_chat: Any) -> None:
    desk = Desk("Allow always", "Deny")
    same, other = call("run", x=1), call("run", x=2)
    chat = await opened(open_chat, desk, same, same, other)
    for _ in range(3):
        await chat.say("go")
    second = await opened(open_chat, desk, same)
    await second.say("go")

    assert chat.runs == [("run", {"x": 1})] * 2
    assert second.runs == []
    assert len(desk.asked) == 3


async def test_always_for_a_file_is_for_that_file_whatever_is_written(open_chat: Any, tmp_path: Path) -> None:
    desk = Desk("Allow always", "Deny")
    chat = await opened(
        open_chat,
        desk,
        call("run", file_path="a", content="1"),
        call("run", file_path="./a", content="2"),
        call("run", file_path="b", content="2"),
    )
    chat.coordinator.register_capability("session.working_dir", str(tmp_path))
    for _ in range(3):
        await chat.say("go")

    assert [arguments["content"] for _, arguments in chat.runs] == ["1", "2"]


async def test_always_for_a_file_is_not_for_something_else_done_with_it(open_chat: Any, tmp_path: Path) -> None:
    desk = Desk("Allow always", "Deny")
    look, remove = call("run", path="a", action="look"), call("run", path="a", action="remove")
    chat = await opened(open_chat, desk, look, look, remove)
    chat.coordinator.register_capability("session.working_dir", str(tmp_path))
    for _ in range(3):
        await chat.say("go")

    assert [arguments["action"] for _, arguments in chat.runs] == ["look", "look"]


async def test_once_is_asked_again(open_chat: Any) -> None:
    desk = Desk("Allow once")
    chat = await opened(open_chat, desk, call("run"), call("run"))
    await chat.say("one")
    await chat.say("two")

    assert len(desk.asked) == 2


async def test_a_rule_denies_with_its_reason_and_nobody_is_asked(open_chat: Any) -> None:
    desk = Desk("Allow once")
    rules = [{"tool": "run", "action": "allow"}, {"tool": "r*", "action": "deny", "reason": "not on Fridays"}]
    chat = await opened(open_chat, desk, call("run"), rules=rules)

    await chat.say("go")

    assert (chat.runs, desk.asked) == ([], [])
    assert (await chat.history())[2]["content"] == "Denied by hook: not on Fridays"
    assert chat.of("approval:denied")[0]["reason"] == "not on Fridays"


async def test_the_first_rule_that_fits_decides_between_asking_and_allowing(open_chat: Any) -> None:
    desk = Desk("Deny")
    rules = [
        {"tool": "run", "arguments": {"x": "1"}, "action": "allow"},
        {"tool": "run", "action": "ask", "reason": "it is dear"},
        {"tool": "run", "action": "allow"},
    ]
    chat = await opened(open_chat, desk, call("run", x=1), call("run", x=2), rules=rules)
    await chat.say("one")
    await chat.say("two")

    assert chat.runs == [("run", {"x": 1})]
    assert desk.asked[0][0].startswith("Run the tool run (it is dear)?")


async def test_what_was_approved_is_what_runs_even_when_another_hook_changed_it(open_chat: Any) -> None:
    desk = Desk("Allow once")
    chat = await opened(open_chat, desk, call("run", x="before"))
    chat.on("tool:pre", lambda data: HookResult(action="modify", data={**data, "tool_input": {"x": "after"}}))

    await chat.say("go")

    assert '"x": "after"' in desk.asked[0][0]
    assert chat.runs == [("run", {"x": "after"})]


async def test_a_registered_provider_is_asked_instead(open_chat: Any) -> None:
    requests: list[Any] = []

    async def request_approval(request: Any) -> ApprovalResponse:
        requests.append(request)
        return ApprovalResponse(approved=True, reason="fine", remember=True)

    desk = Desk("Deny")
    chat = await opened(open_chat, desk, call("run", x=1), call("run", x=1))
    chat.coordinator.get_capability("approval.register_provider")(SimpleNamespace(request_approval=request_approval))
    await chat.say("one")
    await chat.say("two")

    assert (len(chat.runs), len(requests), desk.asked) == (2, 1, [])
    assert (requests[0].tool_name, requests[0].timeout, requests[0].details["arguments"]) == ("run", 3600.0, {"x": 1})
    assert len(requests[0].details["digest"]) == 64


@pytest.mark.parametrize("answer", [TimeoutError(), ValueError("x"), None, "yes", SimpleNamespace(approved="yes")])
async def test_a_provider_that_does_not_say_yes_says_no(open_chat: Any, answer: Any) -> None:
    async def request_approval(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    chat = await opened(open_chat, Desk("Allow once"), call("run"))
    chat.coordinator.get_capability("approval.register_provider")(SimpleNamespace(request_approval=request_approval))
    await chat.say("go")

    assert chat.runs == []


async def test_calls_of_one_reply_are_asked_about_side_by_side(open_chat: Any) -> None:
    both = asyncio.Barrier(2)

    class Both(Desk):
        async def request_approval(self, *asked: Any) -> str:
            async with asyncio.timeout(5):
                await both.wait()
            return "Allow once"

    chat = await opened(open_chat, Both(), '[[tools: run {"x": 1} | run {"x": 2}]] [[then: done]]')
    await chat.say("go")

    assert len(chat.runs) == 2


async def test_a_cancelled_turn_withdraws_its_question(open_chat: Any) -> None:
    asked, withdrawn = asyncio.Event(), asyncio.Event()

    class Slow(Desk):
        async def request_approval(self, *_: Any) -> str:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                withdrawn.set()
            return "Allow once"

    chat = await opened(open_chat, Slow(), call("run"))
    task = await chat.start("go")
    async with asyncio.timeout(5):
        await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        await withdrawn.wait()

    assert chat.runs == []


async def test_people_see_no_secret_and_nothing_that_hides_the_rest(open_chat: Any) -> None:
    desk = Desk("Deny")
    chat = await opened(open_chat, desk, call("run", x=f"{SECRET} \u202e\x1b[2K"), hooks=["hooks-redaction"])

    await chat.say("go")

    prompt = desk.asked[0][0]
    assert "[redacted:github-token] \\u202e\\u001b" in prompt
    assert all(SECRET not in str(data) for data in chat.of("approval:required") + chat.of("approval:denied"))


async def test_a_long_call_is_shown_in_part(open_chat: Any) -> None:
    desk = Desk("Deny")
    chat = await opened(open_chat, desk, call("run", x="a" * 5000))

    await chat.say("go")

    assert len(desk.asked[0][0]) < 2_200
    assert "more characters]" in desk.asked[0][0]


async def test_a_session_can_ask_for_approvals_of_single_tools(open_chat: Any) -> None:
    desk = Desk("Deny")
    chat = await opened(open_chat, desk, call("run"), call("run"), policy_driven_only=True)
    await chat.say("one")
    chat.coordinator.session_state["require_approval_tools"] = ["run"]
    await chat.say("two")

    assert (len(chat.runs), len(desk.asked)) == (1, 1)


async def test_tools_may_be_named_as_other_bundles_do(open_chat: Any) -> None:
    desk = Desk("Deny")
    tools = {"run": {"require_approval": False}, "peek": {"require_approval": True}}
    chat = await opened(open_chat, desk, call("run"), call("peek"), tools=tools)
    await chat.say("one")
    await chat.say("two")

    assert [name for name, _ in chat.runs] == ["run"]
    assert len(desk.asked) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"rules": {}},
        {"rules": ["ls"]},
        {"rules": [{"tool": "bash"}]},
        {"rules": [{"tool": "bash", "action": "auto_approve"}]},
        {"rules": [{"action": "allow"}]},
        {"rules": [{"tool": "bash", "action": "allow", "comand": "ls"}]},
        {"rules": [{"tool": "bash", "action": "allow", "command": "* x"}]},
        {"rules": [{"tool": "bash", "action": "allow", "command": "ls ... x"}]},
        {"rules": [{"tool": "bash", "action": "allow", "command": "ls 'x"}]},
        {"rules": [{"tool": "bash", "action": "allow", "command": []}]},
        {"rules": [{"tool": "bash", "action": "allow", "arguments": ["x"]}]},
        {"default_action": "ask"},
        {"otherwise": "perhaps"},
        {"tools": ["bash"]},
        {"tools": {"bash": {}}},
    ],
)
async def test_rules_that_cannot_be_read_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="hooks-approval"):
        await load_mount("hooks-approval")(MockCoordinator(), options)


@pytest.mark.parametrize(
    ("pattern", "words", "wild"),
    [
        ("git log", "git log", []),
        ("git log *", "git log a", ["a"]),
        ("git log ...", "git log", []),
        ("git log ...", "git log a b", ["a", "b"]),
        ("git log --n=*", "git log --n=1", ["--n=1"]),
        ("cat src/*", "cat src/a/b", ["src/a/b"]),
        ("cat src/*", "cat src/../b", None),
        ("git log *", "git log -p", None),
        ("git log ...", "git log a -p", None),
        ("git log", "git log a", None),
    ],
)
def test_a_wildcard_is_one_word_and_never_an_option(pattern: str, words: str, wild: list[str] | None) -> None:
    assert wild_words(pattern.split(), words.split()) == wild


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("src/**", "/w/src/a/b", True),
        ("src/**", "/w/src", True),
        ("src/*", "/w/src/a/b", False),
        ("**/*.py", "/w/a/b.py", True),
        ("**/*.py", "/w/b.py", True),
        ("**", "/w/x", True),
        ("**", "/x", False),
        ("/data/**", "/data/x", True),
        ("/data/*", "/w/x", False),
        ("../x", "/x", False),
    ],
)
def test_a_path_pattern_is_about_the_whole_path(pattern: str, path: str, fits: bool) -> None:
    assert covers(pattern, path, "/w") is fits


def test_what_changes_how_a_text_is_shown_is_written_out() -> None:
    assert visible("a\u202eb\x07\nc\u200b") == "a\\u202eb\\u0007\nc\\u200b"


async def test_nothing_is_left_when_it_is_closed() -> None:
    coordinator = MockCoordinator()
    close = await load_mount("hooks-approval")(coordinator, {})

    close()

    assert coordinator.get_capability("approval.register_provider") is None
    assert not any(coordinator.hooks.list_handlers().values())
