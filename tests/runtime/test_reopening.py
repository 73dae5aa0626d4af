"""Sessions that are opened, closed, refused, and opened again from their rows."""

import asyncio
import gc
import shutil
import uuid
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import MissingVariables, NotRunnable
from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.session_manager import SessionClosed, SessionNotFound
from amplifier_app_api.models.turn import StopReason, TurnStatus
from amplifier_app_api.runtime.opening import ModuleFailed
from amplifier_app_api.runtime.workspace import InvalidWorkingDir
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.stopping import stop_turn
from amplifier_app_api.storage.turns import open_turn_of
from runtime_bundles import MODULES, bundle_text, from_folder

MakeSessions = Callable[..., SessionManager]


def context_of(sessions: SessionManager, session_id: str) -> Any:
    live = sessions._runtime._live.get(session_id, within="default")
    return live.opened.kernel.session.coordinator.get("context")


async def test_a_session_goes_on_after_a_restart_where_it_was(open_chat: Any, make_sessions: MakeSessions) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two", "three", "four"]))
    assert await chat.say("a") == "one"
    await chat.sessions._runtime.close()

    by_message = await chat.reopened(make_sessions())
    assert await by_message.say("b") == "two"
    await by_message.sessions._runtime.close()

    by_stream = await chat.reopened(make_sessions())
    assert (await by_stream.stream("c"))[-2]["content"] == "three"
    await by_stream.sessions._runtime.close()

    by_resume = await chat.reopened(make_sessions())
    session = await by_resume.sessions.resume_session(chat.session_id)
    assert session.status == "active"
    assert await by_resume.say("d") == "four"
    assert len(await by_resume.transcript()) == 8


async def test_a_restored_context_gets_exactly_the_messages_it_was_given(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat = await open_chat(
        bundle_text(
            replies=['[[think: hm]] [[tool: write_file {"file_path": "a", "content": "1"}]] [[then: done]]', "x"]
        )
    )
    await chat.say("write")
    live = context_of(chat.sessions, chat.session_id)
    before = await live.get_messages()
    await chat.sessions._runtime.close()

    again = make_sessions()
    await again.resume_session(chat.session_id)
    restored = context_of(again, chat.session_id)
    after = await restored.get_messages()

    def without_times(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in message.items() if key != "metadata"} for message in messages]

    assert without_times(after) == without_times(before)
    assert [message["role"] for message in after] == ["user", "assistant", "tool", "assistant"]


async def test_a_manager_that_wrote_in_between_is_noticed_and_the_session_opened_again(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two", "three"]))
    other = await chat.reopened(make_sessions())

    assert await chat.say("a") == "one"
    assert await other.say("b") == "two"
    assert await chat.say("c") == "three"
    assert [content for role, content in await chat.transcript() if role == "assistant"] == ["one", "two", "three"]


async def test_a_session_stays_on_the_revision_it_was_opened_with(
    open_chat: Any, configs: ConfigManager, make_sessions: MakeSessions
) -> None:
    chat = await open_chat(bundle_text(replies=["old", "old again"]))
    session = await chat.sessions.get_session(chat.session_id)
    await configs.update_config(session.config_id, yaml_content=bundle_text(replies=["new"]))

    assert await chat.say("a") == "old"
    assert await (await chat.reopened(make_sessions())).say("b") == "old again"
    newer = await chat.sessions.create_session(session.config_id)
    older = await chat.sessions.create_session(session.config_id, revision=1)
    assert (newer.revision, older.revision) == (2, 1)
    assert (await chat.sessions.send_message(newer.session_id, "a"))["response"] == "new"
    assert (await chat.sessions.send_message(older.session_id, "a"))["response"] == "old"


async def test_an_unknown_module_refuses_the_opening_and_stores_nothing(open_chat: Any, sessions: Any) -> None:
    with pytest.raises(NotRunnable) as refused:
        await open_chat(bundle_text(tools=[{"module": "tool-unheard-of"}]))

    assert [item.code for item in refused.value.items] == ["module_not_found"]
    assert "tool-unheard-of" in refused.value.items[0].detail
    assert await sessions.count_sessions() == 0


async def test_a_module_that_raises_is_named_and_its_secret_is_not(open_chat: Any, sessions: Any) -> None:
    broken = from_folder("tool-broken", fail=True, password="${DB_PASSWORD}")

    with pytest.raises(ModuleFailed) as refused:
        await open_chat(bundle_text(tools=[broken]), variables={"DB_PASSWORD": "hunter2-hunter2"})

    assert refused.value.facts == {"module": "tool-broken"}
    assert "hunter2" not in str(refused.value) and "***" in str(refused.value)
    assert all("hunter2" not in item.detail for item in refused.value.items)
    assert await sessions.count_sessions() == 0


async def test_a_module_that_mounts_nothing_refuses_the_opening(open_chat: Any) -> None:
    await open_chat(bundle_text(tools=[from_folder("tool-broken")]))

    with pytest.raises(ModuleFailed, match="mounted nothing"):
        await open_chat(bundle_text(tools=[from_folder("tool-broken", nothing=True)]))


async def test_a_session_that_may_miss_tools_opens_without_them_and_says_so(open_chat: Any) -> None:
    text = bundle_text(tools=[{"module": "tool-unheard-of"}, from_folder("tool-broken", fail=True)])

    chat = await open_chat(text, allow_missing=True)

    session = await chat.sessions.get_session(chat.session_id)
    assert [(module.module, module.kind) for module in session.degraded] == [
        ("tool-unheard-of", "tool"),
        ("tool-broken", "tool"),
    ]
    notices = [event for event in await chat.events() if event["type"] == "notice"]
    assert [notice["level"] for notice in notices] == ["warning", "warning"]
    assert await chat.say("hi") == "hi"


async def test_a_missing_provider_is_never_missed(open_chat: Any) -> None:
    with pytest.raises(NotRunnable):
        await open_chat(bundle_text(provider={"module": "provider-unheard-of"}), allow_missing=True)


async def test_missing_variables_are_one_refusal_that_names_each(open_chat: Any) -> None:
    text = bundle_text(scripted={"a": "${FIRST}", "b": "${SECOND:?tell me}"})

    with pytest.raises(MissingVariables) as refused:
        await open_chat(text)

    assert [item.code for item in refused.value.items] == ["missing_variable", "missing_variable"]
    assert [item.pointer for item in refused.value.items] == ["/providers/0/config/a", "/providers/0/config/b"]


async def test_variables_are_given_with_the_session_sealed_in_its_row_and_used_after_a_restart(
    open_chat: Any, make_sessions: MakeSessions, db: Database
) -> None:
    from sqlalchemy import text as sql

    chat = await open_chat(
        bundle_text(replies=["hello ${WHO_IS_IT}", "bye ${WHO_IS_IT}"]), variables={"WHO_IS_IT": "Ada-1815"}
    )
    assert await chat.say("a") == "hello Ada-1815"
    rows = await db.read(lambda conn: conn.execute(sql("SELECT variables FROM sessions")).scalars().all())

    assert "Ada" not in str(rows) and rows[0].startswith("sealed.1.")
    assert await (await chat.reopened(make_sessions())).say("b") == "bye Ada-1815"


async def test_a_later_opening_that_fails_refuses_the_message_and_the_session_waits_for_resume(
    open_chat: Any, make_sessions: MakeSessions, tmp_path: Path
) -> None:
    name = f"tool-wandering-{uuid.uuid4().hex[:8]}"  # a process loads a module id from one folder for good
    module = tmp_path / name
    shutil.copytree(MODULES / "tool-broken", module)
    (module / "amplifier_module_tool_broken").rename(module / f"amplifier_module_{name.replace('-', '_')}")
    chat = await open_chat(bundle_text(tools=[{"module": name, "source": str(module)}]))
    away = tmp_path / "away"
    module.rename(away)
    later = await chat.reopened(make_sessions())

    with pytest.raises(NotRunnable):
        await later.say("hi")

    session = await later.sessions.get_session(chat.session_id)
    assert (session.status, session.error.code) == ("failed", "config_not_runnable")
    assert await later.transcript() == []
    with pytest.raises(SessionClosed):
        await later.say("hi")
    with pytest.raises(NotRunnable):
        await later.sessions.resume_session(chat.session_id)
    away.rename(module)
    resumed = await later.sessions.resume_session(chat.session_id)
    assert (resumed.status, resumed.error) == ("active", None)
    assert await later.say("hi") == "hi"


async def test_a_second_source_for_a_module_of_this_process_is_refused_with_the_reason(
    open_chat: Any, tmp_path: Path
) -> None:
    await open_chat(bundle_text(tools=[from_folder("tool-gate")]))
    copy = tmp_path / "other" / "tool-gate"
    shutil.copytree(MODULES / "tool-gate", copy)

    with pytest.raises(NotRunnable) as refused:
        await open_chat(bundle_text(tools=[{"module": "tool-gate", "source": str(copy)}]))

    assert [item.code for item in refused.value.items] == ["module_conflict"]
    assert "already loaded from another source" in refused.value.items[0].detail


async def test_a_closed_session_takes_no_message_until_it_is_resumed(open_chat: Any) -> None:
    chat = await open_chat(bundle_text(replies=["one", "two"]))
    await chat.say("a")

    closed = await chat.sessions.patch_session(chat.session_id, {"status": "completed", "title": "Done"})

    assert (closed.status, closed.title) == ("completed", "Done")
    with pytest.raises(SessionClosed):
        await chat.say("b")
    assert (await chat.sessions.resume_session(chat.session_id)).status == "active"
    assert await chat.say("b") == "two"
    types = [event["type"] for event in await chat.events()]
    assert types.count("session.closed") == 1 and types.count("session.resumed") == 1


async def test_tags_and_titles_change_one_by_one_and_null_clears_them(open_chat: Any) -> None:
    chat = await open_chat(title="First", tags={"a": "1", "b": "2"})

    changed = await chat.sessions.patch_session(chat.session_id, {"tags": {"b": None, "c": "3"}})
    assert (changed.title, changed.tags) == ("First", {"a": "1", "c": "3"})
    changed = await chat.sessions.patch_session(chat.session_id, {"title": None, "tags": None})
    assert (changed.title, changed.tags) == (None, {})


async def test_a_turn_that_is_ended_from_its_rows_is_interrupted_and_its_calls_answered(
    open_chat: Any, make_sessions: MakeSessions, db: Database
) -> None:
    text = bundle_text(tools=[from_folder("tool-gate")], replies=["[[tool: gate {}]] [[then: done]]", "back"])
    chat = await open_chat(text)
    import amplifier_module_tool_gate as gate

    gate.reset()
    follower = await chat.sessions.open_stream(chat.session_id, "go")
    await asyncio.wait_for(gate.entered.wait(), 5)

    turn_id = await db.read(open_turn_of, chat.session_id)
    lost = {"status": TurnStatus.INTERRUPTED, "stop_reason": StopReason.NODE_LOST}
    await db.write(stop_turn, chat.session_id, turn_id, within="default", said="Lost.", **lost)

    events = await chat.events()
    assert [event["type"] for event in events[-2:]] == ["tool.completed", "turn.interrupted"]
    assert (events[-1]["stop_reason"], events[-1]["turn_id"]) == ("node_lost", turn_id)
    assert (await chat.transcript())[-1] == ("tool", "Lost.")
    # The server that was taken for gone finds that its epoch is over.
    gate.release.set()
    await follower.close()
    reopened = await chat.reopened(make_sessions())
    assert await reopened.say("hello?") == "back"


async def test_idle_sessions_are_closed_and_open_again_by_themselves(
    open_chat: Any, make_sessions: MakeSessions
) -> None:
    manager = make_sessions(idle_close=timedelta(milliseconds=1))
    text = bundle_text(replies=["one", "two"], hooks=[from_folder("hooks-recorder")])
    chat = await open_chat(text, manager=manager)
    import amplifier_module_hooks_recorder as recorder

    await chat.say("a")
    async with asyncio.timeout(5):
        await recorder.session_ended(chat.session_id)

    assert await chat.say("b") == "two"


async def test_no_more_sessions_are_kept_in_memory_than_allowed(open_chat: Any, make_sessions: MakeSessions) -> None:
    manager = make_sessions(live_sessions=2)
    chats = [await open_chat(bundle_text(replies=["one", "two"]), manager=manager) for _ in range(4)]

    assert manager._runtime.live_count == 2
    assert [await chat.say("x") for chat in chats] == ["one"] * 4
    assert manager._runtime.live_count == 2
    assert [await chat.say("x") for chat in chats] == ["two"] * 4


async def test_a_closed_session_leaves_nothing_in_memory(open_chat: Any, sessions: SessionManager) -> None:
    held = []
    for _ in range(5):
        chat = await open_chat()
        await chat.say("hi")
        kernel = sessions._runtime._live.get(chat.session_id, within="default").opened.kernel
        held.append(weakref.ref(kernel.session.coordinator.get("context")._inner))
        held.append(weakref.ref(kernel))
        del kernel
        await sessions.delete_session(chat.session_id)
    await asyncio.sleep(0)
    gc.collect()

    assert [reference() for reference in held] == [None] * len(held)
    assert sessions._runtime.live_count == 0


async def test_openers_of_one_config_at_once_share_its_preparation(
    configs: ConfigManager, sessions: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amplifier_app_api.runtime import prepared_cache

    prepared: list[str] = []
    real = prepared_cache.prepare

    async def counted(document: Any, **kwargs: Any) -> Any:
        prepared.append(document.text)
        return await real(document, **kwargs)

    monkeypatch.setattr(prepared_cache, "prepare", counted)
    config = await configs.create_config("shared", bundle_text())

    opened = await asyncio.gather(*(sessions.create_session(config.config_id) for _ in range(8)))

    assert len({session.session_id for session in opened}) == 8
    assert len(prepared) == 1


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", ".", "a/../../b"])
async def test_a_working_directory_outside_of_the_workspaces_is_refused(open_chat: Any, path: str) -> None:
    with pytest.raises(InvalidWorkingDir):
        await open_chat(working_dir=path)


async def test_sessions_can_share_a_working_directory(open_chat: Any, options: Any) -> None:
    replies = ['[[tool: write_file {"file_path": "note", "content": "shared"}]] [[then: ok]]']
    writer = await open_chat(bundle_text(replies=replies), working_dir="team")
    reader = await open_chat(bundle_text(replies=['[[tool: read_file {"file_path": "note"}]]']), working_dir="team")

    await writer.say("write")

    assert "shared" in await reader.say("read")
    assert (options.data_dir / "workspaces" / "default" / "team" / "note").read_text() == "shared"


async def test_what_a_module_wants_people_to_read_is_a_notice(open_chat: Any) -> None:
    context = {"module": "context-persistent", "config": {"transcript_path": "/tmp/somewhere.jsonl"}}

    chat = await open_chat(bundle_text(session={"context": context}))

    notices = [event for event in await chat.events() if event["type"] == "notice"]
    assert len(notices) == 1 and "transcript_path" in notices[0]["text"]


async def test_an_unknown_session_is_not_found_by_any_call(sessions: SessionManager) -> None:
    for unknown in ("3b0c9a9e-0000-4000-8000-000000000000", "no\0thing", ""):
        assert await sessions.get_session(unknown) is None
        assert await sessions.resume_session(unknown) is None
        assert await sessions.delete_session(unknown) is False
        for call in (sessions.send_message(unknown, "hi"), sessions.cancel(unknown), sessions.follow(unknown, after=0)):
            with pytest.raises(SessionNotFound):
                await call


@pytest.mark.parametrize("option", ["allowed_read_paths", "allowed_write_paths"])
async def test_a_config_cannot_open_folders_that_the_server_does_not_allow(open_chat: Any, option: str) -> None:
    with pytest.raises(ModuleFailed, match=option):
        await open_chat(bundle_text(tools=[{"module": "tool-filesystem", "config": {option: ["/etc"]}}]))


async def test_a_config_may_read_below_the_source_roots(open_chat: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("known to all")
    tool = {"module": "tool-filesystem", "config": {"allowed_read_paths": [str(tmp_path)]}}
    read = f'[[tool: read_file {{"file_path": "{tmp_path}/notes.txt"}}]]'

    chat = await open_chat(bundle_text(tools=[tool], replies=[read]))

    assert "known to all" in await chat.say("read")
