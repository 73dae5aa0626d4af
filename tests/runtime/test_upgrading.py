"""A session moves to another revision of its Config: opened first, told in the log, history kept."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from amplifier_app_api.bundles import NotRunnable
from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.config_manager import RevisionNotFound
from amplifier_app_api.core.session_manager import SessionBusy, SessionClosed
from amplifier_app_api.runtime.opening import ModuleFailed
from runtime_bundles import bundle_text, from_folder

MakeSessions = Callable[..., SessionManager]


async def revised(configs: ConfigManager, chat: Any, text: str) -> int:
    """Store a new text of the session's Config; its revision."""
    session = await chat.sessions.get_session(chat.session_id)
    config = await configs.update_config(session.config_id, yaml_content=text)
    assert config is not None
    return config.revision


async def test_an_upgraded_session_runs_the_newest_revision_and_remembers_what_was_said(
    open_chat: Any, configs: ConfigManager
) -> None:
    chat = await open_chat(bundle_text(replies=["one", "old"]))
    await chat.say("a")
    await revised(configs, chat, bundle_text(replies=["first", "new"]))

    session = await chat.sessions.upgrade_session(chat.session_id)

    assert (session.revision, session.status, session.activity) == (2, "active", "idle")
    assert await chat.say("b") == "new"
    assert [text for _, text in await chat.transcript()] == ["a", "one", "b", "new"]
    (told,) = [event for event in await chat.events() if event["type"] == "session.upgraded"]
    assert (told["from"], told["to"], told["turn_id"]) == (1, 2, None)


async def test_a_session_goes_to_any_revision_and_to_the_one_it_has_without_a_word(
    open_chat: Any, configs: ConfigManager
) -> None:
    chat = await open_chat(bundle_text(replies=["one"]))
    await revised(configs, chat, bundle_text(replies=["two"]))
    await chat.sessions.upgrade_session(chat.session_id, 2)

    assert (await chat.sessions.upgrade_session(chat.session_id, 2)).revision == 2
    assert (await chat.sessions.upgrade_session(chat.session_id, 1)).revision == 1
    assert await chat.say("a") == "one"

    told = [(event["from"], event["to"]) for event in await chat.events() if event["type"] == "session.upgraded"]
    assert told == [(1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("broken", "refusal"),
    [
        ("bundle:\n  name: broken\n", NotRunnable),
        (bundle_text(tools=[from_folder("tool-broken", fail=True)]), ModuleFailed),
    ],
)
async def test_a_revision_that_cannot_run_changes_nothing(
    open_chat: Any, configs: ConfigManager, broken: str, refusal: type[Exception]
) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two"]))
    await chat.say("a")
    before = await chat.events()
    await revised(configs, chat, broken)

    with pytest.raises(refusal):
        await chat.sessions.upgrade_session(chat.session_id)

    session = await chat.sessions.get_session(chat.session_id)
    assert (session.revision, session.status, session.error) == (1, "active", None)
    assert await chat.events() == before
    assert await chat.say("b") == "two"


async def test_a_revision_that_is_not_there_and_a_session_that_is_closed_are_refused(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(replies=["one"]))

    with pytest.raises(RevisionNotFound):
        await chat.sessions.upgrade_session(chat.session_id, 7)
    await chat.sessions.patch_session(chat.session_id, {"status": "completed"})
    with pytest.raises(SessionClosed):
        await chat.sessions.upgrade_session(chat.session_id)
    assert await chat.sessions.upgrade_session("nobody") is None


async def test_a_session_that_runs_a_turn_is_not_upgraded(open_chat: Any, configs: ConfigManager) -> None:
    chat = await open_chat(bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: done]]"]))
    import amplifier_module_tool_gate as gate

    gate.reset()
    await revised(configs, chat, bundle_text(replies=["new"]))
    going = asyncio.create_task(chat.say("go"))
    async with asyncio.timeout(10):
        await gate.entered.wait()

    with pytest.raises(SessionBusy):
        await chat.sessions.upgrade_session(chat.session_id)

    gate.release.set()
    assert await going == "done"
    assert (await chat.sessions.upgrade_session(chat.session_id)).revision == 2


async def test_a_session_that_could_not_be_opened_is_mended_by_a_revision_that_can(
    open_chat: Any, configs: ConfigManager, make_sessions: MakeSessions, tmp_path: Any
) -> None:
    extra = tmp_path / "extra.md"
    extra.write_text("---\nbundle:\n  name: extra\n---\n")
    text = bundle_text(replies=["one"]).replace("includes:\n", f"includes:\n- bundle: {extra}\n")
    chat = await open_chat(text)
    await chat.sessions._runtime.close()
    extra.unlink()
    other = await chat.reopened(make_sessions())
    with pytest.raises(NotRunnable):
        await other.say("a")
    assert (await other.sessions.get_session(chat.session_id)).status == "failed"
    await revised(configs, other, bundle_text(replies=["mended"]))

    session = await other.sessions.upgrade_session(chat.session_id)

    assert (session.status, session.error, session.revision) == ("active", None, 2)
    assert await other.say("a") == "mended"


async def test_another_process_notices_that_a_session_was_upgraded(
    open_chat: Any, configs: ConfigManager, make_sessions: MakeSessions
) -> None:
    chat = await open_chat(bundle_text(replies=["one", "old"]))
    await chat.say("a")
    await revised(configs, chat, bundle_text(replies=["first", "new"]))
    elsewhere = make_sessions()

    await elsewhere.upgrade_session(chat.session_id)

    assert await chat.say("b") == "new"
