"""Tools that wait for a person: asked in both of the kernel's ways, answered once, from anywhere."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from amplifier_app_api.core import SessionManager
from amplifier_app_api.core.approvals import AlreadyAnswered, ApprovalManager, ApprovalNotFound
from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.models import PageRequest
from amplifier_app_api.models.approval import Approval, ApprovalStatus
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.runtime.approvals import ApprovalBoard
from amplifier_app_api.storage.tables import approvals
from runtime_bundles import bundle_text, from_folder

ASKS = '[[tool: compass {"of": "east", "degrees": 90}]] [[then: done]]'
ARGUMENTS = {"of": "east", "degrees": 90}
DIGEST = hashlib.sha256(b'{"degrees":90,"of":"east"}').hexdigest()


def asking(hook: dict[str, Any], *replies: str) -> str:
    return bundle_text(tools=[from_folder("tool-compass")], hooks=[hook], replies=list(replies) or [ASKS])


KERNEL = from_folder("hooks-doorman", options=["allow", "deny"])
PROVIDER = from_folder("hooks-gatekeeper")
BOTH = pytest.mark.parametrize("hook", [KERNEL, PROVIDER], ids=["kernel", "provider"])


def desk_of(manager: SessionManager) -> ApprovalManager:
    """The approvals, as the process of this manager has them."""
    return ApprovalManager(manager._db, board=manager._runtime.approvals)


async def elsewhere(manager: SessionManager) -> ApprovalManager:
    """The approvals, as another process has them: it cannot tell the owner."""
    return ApprovalManager(manager._db, board=ApprovalBoard(manager._db, limit=timedelta(hours=1)))


async def begin(chat: Any, text: str) -> Any:
    """Send a message; the stream of its turn."""
    return await chat.sessions.open_stream(chat.session_id, text)


async def until(follower: Any, kind: str, count: int = 1) -> None:
    """Read a stream until so many items of a type have come."""
    seen: list[str] = []
    async with asyncio.timeout(10):
        while seen.count(kind) < count:
            batch = await follower.next_batch(5)
            assert batch != [], f"the stream ended with {seen[-3:]}"
            seen += [item.type for item in batch or ()]


async def asked(manager: SessionManager, follower: Any, count: int = 1) -> list[Approval]:
    """The approvals that are pending, once so many were asked for."""
    await until(follower, "approval.requested", count)
    page = await desk_of(manager).page_approvals(PageRequest(), status=ApprovalStatus.PENDING)
    return page.items


async def until_ended(chat: Any) -> None:
    """Wait for the turn that a process found and went on with."""
    follower = await chat.sessions.follow(chat.session_id, after=0)
    try:
        await until(follower, "turn.completed")
    finally:
        await follower.close()


async def rest_of(follower: Any) -> list[dict[str, Any]]:
    """The payloads of a stream to its end."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1]["type"] not in ("done", "error"):
            batch = await follower.next_batch(5)
            assert batch != [], f"the stream ended with {seen[-3:]}"
            seen += [item.payload() for item in batch or ()]
    await follower.close()
    return seen


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


@BOTH
async def test_a_tool_runs_once_a_person_allows_it(open_chat: Any, hook: dict[str, Any]) -> None:
    chat = await open_chat(asking(hook))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    assert (approval.tool, approval.arguments, approval.digest) == ("compass", ARGUMENTS, DIGEST)
    assert (approval.options, approval.default, approval.decision) == (["allow", "deny"], "deny", None)
    session = await chat.sessions.get_session(chat.session_id)
    assert session.activity == "waiting"

    answered = await desk_of(chat.sessions).answer(chat.session_id, approval.approval_id, "allow", "it is fine")

    assert (answered.status, answered.decision, answered.reason) == ("answered", "allow", "it is fine")
    assert answered.decided_by == "anonymous"
    events = await rest_of(follower)
    [resolved] = of_type(events, "approval.resolved")
    assert (resolved["approval_id"], resolved["status"], resolved["decision"]) == (
        approval.approval_id,
        "answered",
        "allow",
    )
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [True]
    assert events[-1]["status"] == "completed"
    session = await chat.sessions.get_session(chat.session_id)
    assert session.activity == "idle"


@BOTH
async def test_a_tool_that_is_denied_does_not_run_and_the_model_is_told(open_chat: Any, hook: dict[str, Any]) -> None:
    chat = await open_chat(asking(hook))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    await desk_of(chat.sessions).answer(chat.session_id, approval.approval_id, "deny", "not today")

    events = await rest_of(follower)
    assert of_type(events, "tool.started") == []
    [completed] = of_type(events, "tool.completed")
    reason = "User denied: May compass run?" if hook is KERNEL else "not today"
    assert (completed["ok"], completed["output"]) == (False, f"Denied by hook: {reason}")
    assert (await chat.transcript())[2] == ("tool", f"Denied by hook: {reason}")
    assert events[-1]["status"] == "completed"


async def test_only_the_first_answer_counts(open_chat: Any) -> None:
    chat = await open_chat(asking(KERNEL))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)
    desks = [desk_of(chat.sessions), await elsewhere(chat.sessions)]

    answers = await asyncio.gather(
        *(desks[n % 2].answer(chat.session_id, approval.approval_id, ("allow", "deny")[n % 2]) for n in range(6)),
        return_exceptions=True,
    )

    won = [answer for answer in answers if isinstance(answer, Approval)]
    lost = [answer for answer in answers if isinstance(answer, AlreadyAnswered)]
    assert (len(won), len(lost)) == (1, 5)
    assert {error.facts["decision"] for error in lost} == {won[0].decision}
    events = await rest_of(follower)
    assert [event["decision"] for event in of_type(events, "approval.resolved")] == [won[0].decision]


async def test_an_answer_that_came_through_another_process_is_seen(open_chat: Any) -> None:
    chat = await open_chat(asking(PROVIDER))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    await (await elsewhere(chat.sessions)).answer(chat.session_id, approval.approval_id, "allow")

    events = await rest_of(follower)
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [True]


async def test_calls_of_one_reply_are_asked_about_side_by_side(open_chat: Any) -> None:
    both = '[[tools: compass {"of": "east"} | compass {"of": "west"}]] [[then: done]]'
    chat = await open_chat(asking(PROVIDER, both))
    follower = await begin(chat, "go")
    approvals = {item.arguments["of"]: item for item in await asked(chat.sessions, follower, 2)}
    desk = desk_of(chat.sessions)

    await desk.answer(chat.session_id, approvals["west"].approval_id, "allow")
    await until(follower, "approval.resolved")
    assert (await chat.sessions.get_session(chat.session_id)).activity == "waiting"
    await desk.answer(chat.session_id, approvals["east"].approval_id, "deny")

    events = await rest_of(follower)
    assert events[-1]["status"] == "completed"
    results = [content for role, content in await chat.transcript() if role == "tool"]
    assert [str(result).startswith("Denied by hook") for result in results] == [True, False]


@pytest.mark.parametrize("default", ["deny", "allow"])
async def test_nobody_answers_and_the_default_counts(open_chat: Any, default: str) -> None:
    chat = await open_chat(asking(from_folder("hooks-doorman", timeout=0.2, default=default)))

    events = await chat.stream("go")

    [resolved] = of_type(events, "approval.resolved")
    assert (resolved["status"], resolved["decision"]) == ("expired", default)
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [default == "allow"]
    [row] = (await desk_of(chat.sessions).page_approvals(PageRequest(), session_id=chat.session_id)).items
    assert (row.status, row.decision, row.decided_by) == ("expired", default, "timeout")
    with pytest.raises(AlreadyAnswered):
        await desk_of(chat.sessions).answer(chat.session_id, row.approval_id, row.options[0])


async def test_a_module_that_loses_its_patience_finds_its_approval_expired(open_chat: Any) -> None:
    chat = await open_chat(asking(from_folder("hooks-gatekeeper", timeout=0.2, on_timeout="continue")))

    events = await chat.stream("go")

    assert [event["status"] for event in of_type(events, "approval.resolved")] == ["expired"]
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [True]


@BOTH
async def test_the_server_limits_how_long_a_question_stays_open(
    open_chat: Any, make_sessions: Callable[..., SessionManager], hook: dict[str, Any]
) -> None:
    chat = await open_chat(asking(hook), manager=make_sessions(approval_timeout=timedelta(milliseconds=200)))

    events = await chat.stream("go")

    assert [event["status"] for event in of_type(events, "approval.resolved")] == ["expired"]
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [False]


async def test_waiting_for_a_person_takes_no_time_of_the_turn(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    manager = make_sessions(turn_timeout=timedelta(seconds=1))
    chat = await open_chat(asking(from_folder("hooks-doorman", timeout=1.5, default="allow")), manager=manager)

    events = await chat.stream("go")

    assert events[-1]["status"] == "completed"


async def test_an_answer_is_remembered_for_the_same_call_and_for_no_other(open_chat: Any) -> None:
    other = '[[tool: compass {"of": "west"}]] [[then: done]]'
    chat = await open_chat(asking(KERNEL, ASKS, ASKS, other))
    desk = desk_of(chat.sessions)
    follower = await begin(chat, "one")
    [approval] = await asked(chat.sessions, follower)
    await desk.answer(chat.session_id, approval.approval_id, "allow", remember=True)
    await rest_of(follower)

    events = await chat.stream("two")

    [resolved] = of_type(events, "approval.resolved")
    assert resolved["decision"] == "allow"
    rows = (await desk.page_approvals(PageRequest(), session_id=chat.session_id)).items
    assert [(row.status, row.decided_by) for row in rows] == [("answered", "anonymous"), ("answered", "remembered")]

    follower = await begin(chat, "three")
    [pending] = await asked(chat.sessions, follower)
    assert pending.arguments == {"of": "west"}
    await desk.answer(chat.session_id, pending.approval_id, "deny")
    await rest_of(follower)


async def test_what_people_are_shown_has_no_secrets_and_the_digest_is_of_the_exact_arguments(open_chat: Any) -> None:
    text = asking(PROVIDER, '[[tool: compass {"of": "${COURSE_KEY}"}]] [[then: done]]')
    chat = await open_chat(text, variables={"COURSE_KEY": "k-4711-secret"})
    follower = await begin(chat, "go")

    [approval] = await asked(chat.sessions, follower)

    assert approval.arguments == {"of": "***"}
    assert approval.digest == hashlib.sha256(b'{"of":"k-4711-secret"}').hexdigest()
    await desk_of(chat.sessions).answer(chat.session_id, approval.approval_id, "deny")
    await rest_of(follower)


async def reason_of(chat: Any, approval: Approval) -> str | None:
    """The reason that an approval's row has."""
    found = await desk_of(chat.sessions).get_approval(chat.session_id, approval.approval_id)
    assert found is not None
    return found.reason


async def told_to_the_model(chat: Any) -> list[str]:
    """What the tools of the session came to, as its model reads it."""
    live = chat.sessions._runtime._live.get(chat.session_id, within="default")
    messages = await live.opened.kernel.session.coordinator.get("context").get_messages()
    return [str(message["content"]) for message in messages if message["role"] == "tool"]


@BOTH
async def test_a_reason_is_shown_without_the_secrets_of_its_session_and_told_to_the_model_as_it_is(
    open_chat: Any, hook: dict[str, Any]
) -> None:
    chat = await open_chat(asking(hook), variables={"COURSE_KEY": "k-4711-secret"})
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    answered = await desk_of(chat.sessions).answer(
        chat.session_id, approval.approval_id, "deny", "steer k-4711-secret instead"
    )

    assert answered.reason == "steer *** instead"
    assert "k-4711-secret" not in str(await rest_of(follower))
    assert await reason_of(chat, approval) == "steer *** instead"
    if hook is PROVIDER:  # the kernel's own way has no place for reasons
        assert ["k-4711-secret" in said for said in await told_to_the_model(chat)] == [True]


async def test_the_owner_masks_what_was_answered_through_another_process(open_chat: Any) -> None:
    chat = await open_chat(asking(PROVIDER), variables={"COURSE_KEY": "k-4711-secret"})
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    await (await elsewhere(chat.sessions)).answer(chat.session_id, approval.approval_id, "deny", "not k-4711-secret")

    assert "k-4711-secret" not in str(await rest_of(follower))
    assert await reason_of(chat, approval) == "not ***"


async def test_a_turn_that_ends_before_it_has_seen_the_answer_masks_its_reason(open_chat: Any) -> None:
    chat = await open_chat(asking(PROVIDER), variables={"COURSE_KEY": "k-4711-secret"})
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)
    await chat.sessions._runtime.approvals.close()  # this process sees no answer any more
    await (await elsewhere(chat.sessions)).answer(chat.session_id, approval.approval_id, "deny", "not k-4711-secret")

    await chat.sessions.cancel(chat.session_id)

    await rest_of(follower)
    assert await reason_of(chat, approval) == "not ***"


async def test_a_decision_is_one_of_the_options(open_chat: Any) -> None:
    chat = await open_chat(asking(from_folder("hooks-doorman", options=["allow once", "deny"])))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)
    desk = desk_of(chat.sessions)

    with pytest.raises(InvalidFields):
        await desk.answer(chat.session_id, approval.approval_id, "allow")
    with pytest.raises(ApprovalNotFound):
        await desk.answer(chat.session_id, "another", "deny")
    with pytest.raises(ApprovalNotFound):
        await desk.scoped(Principal("somebody-else")).answer(chat.session_id, approval.approval_id, "deny")

    await desk.answer(chat.session_id, approval.approval_id, "allow once")
    events = await rest_of(follower)
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [True]


@BOTH
@pytest.mark.parametrize("immediate", [True, False])
async def test_a_cancel_withdraws_what_is_asked(open_chat: Any, hook: dict[str, Any], immediate: bool) -> None:
    chat = await open_chat(asking(hook))
    before = asyncio.all_tasks()
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    await chat.sessions.cancel(chat.session_id, immediate=immediate)

    events = await rest_of(follower)
    [resolved] = of_type(events, "approval.resolved")
    assert (resolved["status"], resolved["decision"]) == ("withdrawn", None)
    assert of_type(events, "tool.started") == []
    assert events[-1]["status"] == "cancelled"
    row = await desk_of(chat.sessions).get_approval(chat.session_id, approval.approval_id)
    assert (row.status, row.decision) == ("withdrawn", None)
    with pytest.raises(AlreadyAnswered):
        await desk_of(chat.sessions).answer(chat.session_id, approval.approval_id, "allow")
    assert await chat.say("still there?") is not None
    async with asyncio.timeout(5):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


async def taken_over(chat: Any, make_sessions: Callable[..., SessionManager]) -> Any:
    """The session in a process that finds that the first one is gone."""
    later = make_sessions()
    await later._runtime.recovery.look(lambda seen: False)
    return await chat.reopened(later)


@BOTH
async def test_a_question_survives_its_process(
    open_chat: Any, make_sessions: Callable[..., SessionManager], hook: dict[str, Any]
) -> None:
    chat = await open_chat(asking(hook))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)

    other = await taken_over(chat, make_sessions)
    [session] = await other.sessions.list_sessions()
    assert session.activity == "waiting"
    await desk_of(other.sessions).answer(chat.session_id, approval.approval_id, "allow")

    await until_ended(other)
    events = await other.events()
    assert len(of_type(events, "approval.requested")) == 1
    assert [event["decision"] for event in of_type(events, "approval.resolved")] == ["allow"]
    assert [event["ok"] for event in of_type(events, "tool.completed")] == [True]
    assert events[-1]["type"] == "turn.completed"
    await follower.close()


@BOTH
async def test_an_answer_that_came_while_nobody_ran_the_turn_is_used(
    open_chat: Any, make_sessions: Callable[..., SessionManager], hook: dict[str, Any]
) -> None:
    chat = await open_chat(asking(hook), variables={"COURSE_KEY": "k-4711-secret"})
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)
    await chat.sessions._runtime.approvals.close()  # this process sees no answer any more
    desk = await elsewhere(chat.sessions)
    await desk.answer(chat.session_id, approval.approval_id, "deny", "not k-4711-secret")

    other = await taken_over(chat, make_sessions)

    await until_ended(other)
    events = await other.events()
    assert len(of_type(events, "approval.requested")) == 1
    assert [event["decision"] for event in of_type(events, "approval.resolved")] == ["deny"]
    assert of_type(events, "tool.started") == []
    assert events[-1]["type"] == "turn.completed"
    assert await reason_of(other, approval) == "not ***"
    await follower.close()


async def test_a_question_that_ran_out_while_nobody_ran_the_turn_is_expired(
    open_chat: Any, make_sessions: Callable[..., SessionManager]
) -> None:
    chat = await open_chat(asking(KERNEL))
    follower = await begin(chat, "go")
    [approval] = await asked(chat.sessions, follower)
    await chat.sessions._db.write(
        lambda conn: conn.execute(
            update(approvals)
            .where(approvals.c.approval_id == approval.approval_id)
            .values(expires_at=approval.created_at)
        )
    )

    other = await taken_over(chat, make_sessions)

    await until_ended(other)
    events = await other.events()
    assert [event["status"] for event in of_type(events, "approval.resolved")] == ["expired"]
    assert of_type(events, "tool.started") == []
    await follower.close()
