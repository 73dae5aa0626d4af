"""A goal of a session: another answer until a model that looks on says that it is reached, and an end for certain."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from amplifier_core import ChatResponse, ModelInfo, ProviderInfo
from amplifier_core.message_models import TextBlock, Usage
from amplifier_core.models import HookResult, ToolResult

from amplifier_app_api.modules.kernel import ConfigurationError
from amplifier_app_api.modules.orchestrators.goal_judge import told_of
from amplifier_app_api.modules.orchestrators.goals import GoalOptions

PROGRESS = "orchestrator:goal_progress"
DEADLINE = 10
NO = "NO\nthe tests were not run"


class Judge:
    """A provider that judges; what it was asked is kept. It answers what it was given, the last of it for ever."""

    name = "small"
    priority = 900

    def __init__(self, *answers: str, models: tuple[str, ...] = ("small-1",)) -> None:
        self.answers = [*answers]
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self._models = models

    def get_info(self) -> ProviderInfo:
        return ProviderInfo(id="small", display_name="Small", defaults={"model": "small-1", "context_window": 9000})

    async def list_models(self) -> list[ModelInfo]:
        return [
            ModelInfo(id=name, display_name=name, context_window=9000, max_output_tokens=900) for name in self._models
        ]

    def parse_tool_calls(self, _: Any) -> list[Any]:
        return []

    async def complete(self, request: Any, **options: Any) -> ChatResponse:
        self.asked.append((request, options))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "raise":
            raise RuntimeError("no answer today")
        usage = Usage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ChatResponse(content=[TextBlock(text=answer)], usage=usage)

    def of(self, kind: str) -> list[str]:
        """What it was asked of a kind: `holds`, `stall` or `summary`."""
        sign = {"holds": "You judge", "stall": "An assistant works", "summary": "A developer sees"}[kind]
        return [
            request.messages[1].content for request, _ in self.asked if request.messages[0].content.startswith(sign)
        ]


Pursue = Callable[..., Awaitable[tuple[Any, Judge]]]


@pytest.fixture
def pursue(open_chat: Any) -> Pursue:
    """A conversation with a goal, and who judges it: `await pursue("NO\\nwhy", "YES\\nwell", goal={...}, ...)`."""

    async def open_one(*answers: str, goal: dict[str, Any] | None = None, **more: Any) -> tuple[Any, Judge]:
        options = {"goal_provider_preferences": [{"provider": "small", "model": "small-1"}], **more.pop("options", {})}
        chat = await open_chat(options=options, **more)
        judge = Judge(*answers)
        await chat.coordinator.mount("providers", judge, name="small")
        chat.coordinator.hooks.register(PROGRESS, chat._record, 1000, "recorder:progress")
        chat.coordinator.session_state["goal"] = {"condition": "the tests pass"} if goal is None else goal
        return chat, judge

    return open_one


def told(chat: Any) -> list[tuple[str, int, int, str]]:
    return [(data["state"], data["turn"], data["continuations"], data["reason"]) for data in chat.of(PROGRESS)]


async def said(chat: Any) -> list[str]:
    return [row["content"] for row in await chat.history() if row["role"] == "user"]


async def test_an_answer_that_reaches_the_goal_is_the_last(pursue: Pursue) -> None:
    chat, judge = await pursue("YES\nthe output shows it", replies=["42 passed"])

    assert await chat.say("go") == "42 passed"

    assert told(chat) == [("achieved", 1, 0, "the output shows it")]
    assert chat.coordinator.session_state["goal"] is None
    assert await said(chat) == ["go"]
    [asked] = judge.of("holds")
    assert asked == (
        "<condition>\nthe tests pass\n</condition>\n\n<conversation>\nuser: go\n\nassistant: 42 passed\n</conversation>"
    )
    [complete] = chat.of("orchestrator:complete")
    assert (complete["status"], complete["goal_turn"], complete["goal_final"], complete["continuations"]) == (
        "success",
        1,
        True,
        0,
    )


async def test_an_answer_that_does_not_is_followed_by_another_that_is_told_why(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, "YES\nit does", replies=["wrote it", "ran it"])

    assert await chat.say("go") == "ran it"

    assert told(chat) == [("continuing", 1, 0, "the tests were not run"), ("achieved", 2, 1, "it does")]
    first, second = await said(chat)
    assert first == "go"
    assert "not reached yet: the tests were not run" in second
    assert "The goal: the tests pass" in second
    assert [(data["goal_turn"], data["goal_final"]) for data in chat.of("orchestrator:complete")] == [
        (1, False),
        (2, True),
    ]
    assert chat.names("execution:start", "execution:end") == ["execution:start", "execution:end"]
    assert [data["prompt"] for data in chat.of("prompt:submit")] == ["go", second]
    assert chat.names("orchestrator:complete", PROGRESS, "execution:end") == [
        "orchestrator:complete",
        PROGRESS,
        "orchestrator:complete",
        PROGRESS,
        "execution:end",
    ]


async def test_who_judges_has_no_tools_streams_nothing_and_leaves_no_message(pursue: Pursue) -> None:
    chat, judge = await pursue("YES\nit does", options={"extended_thinking": True}, replies=["done"])

    await chat.say("go")

    [(request, options)] = judge.asked
    assert (request.tools, request.metadata, request.max_output_tokens) == (None, {"stream": False}, 512)
    assert (request.model, options) == ("small-1", {"model": "small-1", "extended_thinking": False})
    assert [row["role"] for row in await chat.history()] == ["user", "assistant"]
    assert [(data["provider"], data["iteration"]) for data in chat.of("provider:request")] == [
        ("scripted", 1),
        ("small", 0),
    ]


async def test_without_a_goal_nobody_judges(pursue: Pursue) -> None:
    chat, judge = await pursue(NO, goal={}, replies=["done"])
    chat.coordinator.session_state["goal"] = None

    assert await chat.say("go") == "done"
    assert (judge.asked, told(chat)) == ([], [])
    [complete] = chat.of("orchestrator:complete")
    assert (complete["goal_turn"], complete["goal_final"], complete["continuations"]) == (None, True, None)
    assert await chat.history() == [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
    ]


@pytest.mark.parametrize("goal", [{}, {"condition": " "}, {"condition": 5}, "a text"])
async def test_what_is_no_goal_is_left_alone(pursue: Pursue, goal: Any) -> None:
    chat, judge = await pursue(NO, goal={"condition": "x"}, replies=["done"])
    chat.coordinator.session_state["goal"] = goal

    assert await chat.say("go") == "done"
    assert judge.asked == []


async def test_a_loop_without_goals_takes_no_notice_of_one(pursue: Pursue) -> None:
    chat, judge = await pursue(NO, loop="loop-basic", replies=["done"])

    assert await chat.say("go") == "done"
    assert judge.asked == []


async def test_a_tool_may_set_the_goal_of_its_turn(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, "YES\nit does", goal={}, replies=["[[tool: aim {}]] [[then: wrote it]]", "ran it"])
    chat.coordinator.session_state["goal"] = None

    async def aim(_: dict[str, Any]) -> ToolResult:
        chat.coordinator.session_state["goal"] = {"condition": "the tests pass"}
        return ToolResult(output="set")

    await chat.add_tool("aim", aim)

    assert await chat.say("go") == "ran it"
    assert [state for state, *_ in told(chat)] == ["continuing", "achieved"]


# The ends of a pursuit.


async def test_a_cap_ends_it_after_so_many_answers_and_says_what_is_missing(pursue: Pursue) -> None:
    chat, judge = await pursue(
        NO,
        "NO\nhalf of them fail",
        "fix the other half",
        goal={"condition": "x", "cap": 2},
        replies=["one", "two", "3"],
    )

    assert await chat.say("go") == "two"

    assert told(chat)[-1] == ("cap_hit", 2, 1, "half of them fail")
    assert chat.of(PROGRESS)[-1]["summary"] == "fix the other half"
    assert judge.of("summary") == [
        "<condition>\nx\n</condition>\n\n<reasons>\n1. the tests were not run\n2. half of them fail\n</reasons>"
    ]
    assert chat.coordinator.session_state["goal"] is None


async def test_a_goal_without_a_cap_ends_all_the_same(pursue: Pursue) -> None:
    options = {"goal_max_continuations": 3, "goal_stall_threshold": 0, "goal_busy_stall_window": 0}
    chat, _ = await pursue(NO, options=options)

    await chat.say("[[text: trying]]")

    assert [state for state, *_ in told(chat)] == ["continuing"] * 3 + ["cap_hit"]
    assert len(await said(chat)) == 4
    assert chat.of(PROGRESS)[-1]["summary"] == "NO the tests were not run"
    assert chat.of(PROGRESS)[-1]["reasons"] == ["the tests were not run (4 times)"]
    assert chat.of(PROGRESS)[-1]["distinct_blockers"] == 1


async def test_the_model_calls_of_the_turn_bound_it_too(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, options={"max_iterations": 2, "goal_busy_stall_window": 0})

    assert await chat.say("[[text: trying]]") != ""

    assert told(chat)[-1][0] == "cap_hit"
    last = chat.of("orchestrator:complete")[-1]
    assert (last["status"], last["stop_reason"], last["goal_final"]) == ("incomplete", "max_iterations", True)
    assert len([data for data in chat.of("provider:request") if data["iteration"]]) == 2


async def test_answers_without_tools_are_a_stall_when_the_judge_says_so_and_get_one_more_chance(
    pursue: Pursue,
) -> None:
    options = {"goal_stall_threshold": 1, "goal_busy_stall_window": 0}
    stall = "time-locked\nthe release is next week"
    chat, judge = await pursue(
        "NO\nnot out yet",
        "NO\nstill not out",
        stall,
        "NO\nnot released",
        stall,
        "wait for the release",
        options=options,
    )

    await chat.say("[[text: waiting]]")

    assert [(data["state"], data["stall_verdict"]) for data in chat.of(PROGRESS)] == [
        ("continuing", None),
        ("continuing", "time-locked"),
        ("stalled", "time-locked"),
    ]
    assert chat.of(PROGRESS)[-1]["stall_detail"] == "the release is next week"
    assert chat.of(PROGRESS)[-1]["summary"] == "wait for the release"
    assert "out of reach: what is missing depends on time" in (await said(chat))[-1]
    assert len(judge.of("stall")) == 2
    assert "made no tool calls at all" in judge.asked[2][0].messages[0].content


async def test_reasons_that_repeat_themselves_are_judged_though_tools_are_called(pursue: Pursue) -> None:
    reasons = ["NO\nthe file is locked by root", "NO\nthe file is still locked by root", "NO\nroot has the file locked"]
    chat, judge = await pursue(
        *reasons,
        "structure-locked\nno rights",
        "NO\nthe file is locked by root",
        "structure-locked\nno rights",
        "root must unlock the file",
        replies=["[[tool: try {}]] [[then: tried]]"] * 9,
    )
    await chat.add_result("try", "denied")

    await chat.say("go")

    assert [state for state, *_ in told(chat)] == ["continuing", "continuing", "continuing", "stalled"]
    assert judge.of("stall")[0].endswith(
        "1. the file is locked by root\n2. the file is still locked by root\n3. root has the file locked\n</reasons>"
    )


@pytest.mark.parametrize("verdict", ["resolvable\nit narrows down", "nonsense", "raise"])
async def test_what_is_not_judged_a_stall_goes_on(pursue: Pursue, verdict: str) -> None:
    options = {"goal_stall_threshold": 1, "goal_busy_stall_window": 0}
    chat, _ = await pursue("NO\na", "NO\nb", verdict, "YES\nthere", options=options)

    await chat.say("[[text: thinking]]")

    assert [state for state, *_ in told(chat)] == ["continuing", "continuing", "achieved"]


@pytest.mark.parametrize(
    ("answer", "reason"), [("raise", "no answer today"), ("MAYBE\nwho knows", "neither YES nor NO")]
)
async def test_an_answer_that_cannot_be_judged_is_the_last_and_no_success(
    pursue: Pursue, answer: str, reason: str
) -> None:
    chat, _ = await pursue(answer, replies=["done", "again"])

    assert await chat.say("go") == "done"
    [(state, turn, _, why)] = told(chat)
    assert (state, turn, reason in why) == ("error", 1, True)
    assert chat.coordinator.session_state["goal"] is None


async def test_a_hook_may_forbid_the_judging_and_its_additions_go_nowhere(pursue: Pursue) -> None:
    chat, judge = await pursue(NO, "YES\nit does", replies=["one", "two"])
    chat.on(
        "provider:request",
        lambda data: (
            HookResult(action="inject_context", context_injection="[[text: injected]]")
            if data["iteration"] == 0 and len(judge.asked) == 0
            else HookResult(action="deny", reason="too dear")
            if data["iteration"] == 0
            else None
        ),
    )

    assert await chat.say("go") == "two"
    assert [row["role"] for row in await chat.history()] == ["user", "assistant", "user", "assistant"]
    assert told(chat)[-1][0] == "error"
    assert "too dear" in told(chat)[-1][3]


async def test_whoever_hears_of_it_may_take_the_goal_away(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, replies=["one", "two"])

    def enough(_: dict[str, Any]) -> None:
        chat.coordinator.session_state["goal"] = None

    chat.on(PROGRESS, enough)

    assert await chat.say("go") == "one"
    assert [state for state, *_ in told(chat)] == ["continuing"]
    assert [data["goal_final"] for data in chat.of("orchestrator:complete")] == [False, True]


async def test_a_hook_may_refuse_to_go_on(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, replies=["one", "two"])
    chat.on(
        "prompt:submit",
        lambda data: HookResult(action="deny", reason="office is closed") if data["prompt"] != "go" else None,
    )

    assert await chat.say("go") == "Operation denied: office is closed"
    assert told(chat)[-1][0] == "error"
    assert chat.coordinator.session_state["goal"] is None


async def test_a_graceful_stop_ends_the_pursuit(pursue: Pursue) -> None:
    chat, _ = await pursue(NO, replies=["one", "two"])

    def stop(_: dict[str, Any]) -> None:
        chat.coordinator.cancellation.request_graceful()

    chat.on(PROGRESS, stop)

    assert await chat.say("go") == "one"
    assert [state for state, *_ in told(chat)] == ["continuing", "cancelled"]
    assert chat.of("orchestrator:complete")[-1]["status"] == "cancelled"


async def test_a_task_that_is_cancelled_while_it_is_judged_has_no_goal_any_more(pursue: Pursue) -> None:
    chat, judge = await pursue(NO, replies=["one"])
    judging = asyncio.Event()

    async def for_ever(*_: Any, **__: Any) -> Any:
        judging.set()
        await asyncio.Event().wait()

    judge.complete = for_ever
    turn = await chat.start("go")
    async with asyncio.timeout(DEADLINE):
        await judging.wait()
    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    assert [state for state, *_ in told(chat)] == ["cancelled"]
    assert chat.names("execution:end") == ["execution:end"]


async def test_what_the_user_says_meanwhile_is_answered_before_it_is_judged(pursue: Pursue) -> None:
    chat, judge = await pursue("YES\nboth", replies=["[[tool: look {}]] [[then: one]]", "two"])

    async def look(_: dict[str, Any]) -> ToolResult:
        chat.coordinator.get_capability("session.steer")("[[text: and this]]")
        return ToolResult(output="seen")

    await chat.add_tool("look", look)

    assert await chat.say("go") == "and this"
    assert len(judge.of("holds")) == 1


# After a restart.


async def resumed(chat: Any, rows: list[dict[str, Any]]) -> str:
    coordinator = chat.coordinator
    coordinator.session_state["goal"] = None
    await coordinator.get("context").set_messages(rows)
    return await chat.orchestrator.resume(
        prompt="go",
        context=coordinator.get("context"),
        providers=coordinator.get("providers"),
        tools=coordinator.get("tools"),
        hooks=coordinator.hooks,
        coordinator=coordinator,
    )


async def test_a_turn_that_goes_on_knows_what_it_was_after_and_how_far_it_was(pursue: Pursue) -> None:
    options = {"goal_busy_stall_window": 0}
    first, _ = await pursue("NO\na", "NO\nb", "YES\nc", goal={"condition": "x", "cap": 3}, options=options)
    await first.say("go")
    rows = await first.history()
    assert [row["metadata"]["goal"]["continuations"] for row in rows if row["role"] == "user"] == [0, 1, 2]

    for left, expected in ((rows, ("achieved", 3, 2)), (rows[:5], ("achieved", 3, 2)), (rows[:1], ("achieved", 1, 0))):
        chat, _ = await pursue("YES\nnow", goal={"condition": "none"}, options=options)
        await resumed(chat, left)
        assert [each[:3] for each in told(chat)] == [expected]
    last, _ = await pursue("NO\nstill", "line", goal={"condition": "none"}, options=options)
    await resumed(last, rows)
    assert [each[:3] for each in told(last)] == [("cap_hit", 3, 2)]


async def test_tools_that_were_called_before_a_restart_count(pursue: Pursue) -> None:
    goal = {"condition": "x", "continuations": 1, "turns_used": 1, "no_tool_turns": 0, "reasons": ["a"]}
    call = {"id": "1", "tool": "look", "arguments": {}}
    rows = [
        {"role": "user", "content": "go", "metadata": {"goal": {"condition": "x"}}},
        {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
        {"role": "user", "content": "on", "metadata": {"goal": goal}},
        {"role": "assistant", "content": [{"type": "text", "text": "look"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "name": "look", "content": "seen"},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
    ]
    chat, judge = await pursue("NO\nb", "YES\nc", options={"goal_stall_threshold": 1})
    await resumed(chat, rows)

    assert judge.of("stall") == []


# Who judges.


async def test_the_role_of_the_session_comes_before_preferences_and_its_own_provider_last(open_chat: Any) -> None:
    chosen: list[str] = []

    async def judged(preferences: list[Any], role: Any = None) -> str:
        chat = await open_chat(options={"goal_provider_preferences": preferences}, replies=["done"])
        for name, models in (("small", ("small-9", "small-10", "large-1")), ("provider-other", ("other-1",))):
            judge = Judge("YES\nok", models=models)
            await chat.coordinator.mount("providers", judge, name=name)

            async def complete(request: Any, *, _name: str = name, _judge: Judge = judge, **options: Any) -> Any:
                chosen.append(f"{_name}:{options.get('model')}:{options.get('effort')}")
                return await Judge.complete(_judge, request)

            judge.complete = complete
        if role is not None:
            chat.coordinator.register_capability("model_role_resolver", role)
        chat.coordinator.session_state["goal"] = {"condition": "x"}
        await chat.say("go")
        return chosen.pop() if chosen else "the session's own"

    class Role:
        def __init__(self, *found: Any) -> None:
            self.found = found

        async def resolve(self, role: str) -> Any:
            assert role == "fast"
            if self.found == ("raise",):
                raise RuntimeError("no matrix")
            return list(self.found)

    small = {"provider": "small", "model": "small-*", "config": {"effort": "low"}}
    other = SimpleNamespace(provider="other", model="other-7", config={"effort": "none"})
    away = SimpleNamespace(provider="away", model="x", config=None)
    assert await judged([small]) == "small:small-10:low"
    assert await judged([{"provider": "away", "model": "*"}, {"provider": "small", "model": "huge-*"}, small]) == (
        "small:small-10:low"
    )
    assert await judged([small], Role(away, other)) == "provider-other:other-7:none"
    assert await judged([small], Role(away)) == "small:small-10:low"
    assert await judged([small], Role("raise")) == "small:small-10:low"
    assert await judged([]) == "the session's own"


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"goal_provider_preferences": ["fast"]}, {"goal_busy_stall_min_overlap": 2}):
        with pytest.raises(ConfigurationError, match="goal_"):
            GoalOptions.read("loop-streaming", options)


# What it reads.


def test_the_conversation_is_read_from_its_end_within_its_bounds() -> None:
    options = {
        "goal_max_transcript_messages": 4,
        "goal_tool_content_clip_chars": 10,
        "goal_transcript_char_budget": 200,
    }
    rows: list[dict[str, Any]] = [
        {"role": "user", "content": "forgotten"},
        {"role": "system", "content": "not shown"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": {}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_call", "id": "1", "name": "look", "input": {"at": "x" * 50}},
            ],
        },
        {"role": "tool", "name": "look", "tool_call_id": "1", "content": "a" * 20 + "z" * 5},
    ]

    assert told_of(rows, GoalOptions.read("loop", options)) == (
        'user: see\n[an image]\n\nassistant: [calls look] {"at":  […] x"}\n\n[result of look] aaaaaaa […] zzz'
    )
    few = GoalOptions.read("loop", {**options, "goal_transcript_char_budget": 60})
    assert told_of(rows, few) == "[result of look] aaaaaaa […] zzz"
    assert len(told_of([{"role": "user", "content": "y" * 5000}], few)) < 80
