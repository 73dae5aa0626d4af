"""What becomes of each row of the predecessor's, on both engines."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Connection, func, select

from amplifier_app_api.bundles import DocumentLimits
from amplifier_app_api.core.legacy import LegacyDatabase, Report, Target, Verdict, migrate
from amplifier_app_api.models.config import Config
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.turn import Message
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.bundle_names import names_of
from amplifier_app_api.storage.configs import get_config, get_revision, list_configs
from amplifier_app_api.storage.messages import all_messages, kernel_transcript
from amplifier_app_api.storage.sessions import get_session
from amplifier_app_api.storage.tables import configs, events, messages, sessions
from legacy_databases import CHANGED, JSON_CONFIGS, MADE, OLDER, SCRIPTED, TALK, Legacy

NOT_YAML = "bundle: {name: [\n"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = str(tmp_path / "app.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as db:
        yield db


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[Legacy]:
    legacy = Legacy(tmp_path / "amplifier.db")
    yield legacy
    legacy.close()


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Legacy]:
    legacy = Legacy(tmp_path / "amplifier.db", OLDER)
    yield legacy
    legacy.close()


async def carry(legacy: Legacy, db: Database | None, *, apply: bool = True) -> Report:
    with LegacyDatabase.open(legacy.save()) as source:
        return await migrate(source, Target(db, apply=apply), limits=DocumentLimits())


async def config(db: Database, config_id: str) -> Config:
    found = await db.read(get_config, config_id, within="default")
    assert found is not None
    return found


async def transcript(db: Database, session_id: str = "s1") -> list[Message]:
    return await db.read(all_messages, session_id, within="default")


async def made_config(db: Database) -> dict[str, Any]:
    """The document of the one Config there is."""
    (only,) = (await db.read(list_configs, PageRequest(), within="default")).items
    return yaml.safe_load((await config(db, only.config_id)).yaml_content)


def told(report: Report) -> list[tuple[str, str, str]]:
    return [(entry.kind, entry.identity, str(entry.verdict)) for entry in report.entries]


def reasons(report: Report, identity: str) -> str:
    return "; ".join(reason for entry in report.entries if entry.identity == identity for reason in entry.reasons)


def counted(conn: Connection) -> list[int]:
    tables = (configs, sessions, messages, events)
    return [conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


# --- the newer shape ---


async def test_a_config_keeps_its_id_text_tags_and_times(newer: Legacy, db: Database) -> None:
    newer.config(description="for work", tags='{"env": "dev"}')

    report = await carry(newer, db)

    found = await config(db, "c1")
    assert told(report) == [("config", "c1", "carried")]
    assert report.incomplete == []
    assert (found.yaml_content, found.name, found.description) == (SCRIPTED, "mine", "for work")
    assert (found.tags, found.revision, found.etag) == ({"env": "dev"}, 1, '"1.1"')
    assert found.created_at == datetime.fromisoformat(MADE)
    assert found.updated_at == datetime.fromisoformat(CHANGED)
    first = await db.read(get_revision, "c1", 1, within="default")
    assert first is not None
    assert (first.created_by, first.created_at) == ("migrate-legacy", found.updated_at)


async def test_a_session_keeps_its_id_times_and_transcript(newer: Legacy, db: Database) -> None:
    await carry(newer.config().session(status="completed"), db)

    record = await db.read(get_session, "s1", within="default")
    assert record is not None
    session = record.session
    assert (session.config_id, session.revision, session.status, session.activity) == ("c1", 1, "completed", "idle")
    assert (session.message_count, session.last_seq) == (1, 1)
    assert session.created_at == datetime.fromisoformat(MADE)
    assert session.updated_at == datetime.fromisoformat(CHANGED)
    shown = await transcript(db)
    assert [message.role for message in shown] == ["user", "assistant", "tool", "assistant"]
    assert [message.position for message in shown] == [1, 2, 3, 4]
    assert [message.content for message in shown] == [message["content"] for message in TALK]
    assert shown[1].tool_calls == TALK[1]["tool_calls"]
    assert (shown[2].tool_call_id, shown[2].name) == ("call-1", "list_directory")
    assert await db.read(kernel_transcript, "s1", within="default") == (4, TALK)


async def test_a_second_run_changes_nothing(newer: Legacy, db: Database) -> None:
    newer.config().session()
    await carry(newer, db)
    before = await db.read(counted)

    report = await carry(newer, db)

    assert told(report) == [("config", "c1", "already there"), ("session", "s1", "already there")]
    assert report.incomplete == []
    assert await db.read(counted) == before == [1, 1, 4, 1]


async def test_a_dry_run_says_the_same_and_writes_nothing(newer: Legacy, db: Database) -> None:
    newer.config().config("c2", NOT_YAML).session().session("s2", config_id="c2")

    without_database = await carry(newer, None, apply=False)
    dry = await carry(newer, db, apply=False)
    assert await db.read(counted) == [0, 0, 0, 0]
    wet = await carry(newer, db)

    assert without_database.entries == dry.entries == wet.entries
    assert await db.read(counted) == [1, 1, 4, 1]


async def test_what_cannot_be_stored_is_told_and_the_rest_goes_on(newer: Legacy, db: Database) -> None:
    relative = SCRIPTED.replace("bundle: foundation", "bundle: ./mine.yaml")
    newer.config("bad", NOT_YAML).config("relative", relative).config("good").session("lost", config_id="bad")
    newer.session("orphan", config_id="gone").session("kept", config_id="good")

    report = await carry(newer, db)

    verdicts = {entry.identity: entry.verdict for entry in report.entries}
    assert verdicts == {
        "bad": Verdict.NOT_CARRIED,
        "relative": Verdict.NOT_CARRIED,
        "good": Verdict.CARRIED,
        "lost": Verdict.NOT_CARRIED,
        "orphan": Verdict.NOT_CARRIED,
        "kept": Verdict.CARRIED,
    }
    assert reasons(report, "bad").startswith("Invalid YAML")
    assert "relative path" in reasons(report, "relative")
    assert "(line 5)" in reasons(report, "relative")
    assert reasons(report, "lost") == "its config bad could not be carried"
    assert reasons(report, "orphan") == "its config gone is not there"


async def test_a_row_that_was_put_right_is_carried_by_the_next_run(newer: Legacy, db: Database) -> None:
    newer.config("c1", NOT_YAML).session()
    await carry(newer, db)
    newer.run("DELETE FROM configs").config("c1")

    report = await carry(newer, db)

    assert told(report) == [("config", "c1", "carried"), ("session", "s1", "carried")]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": ""}, "its name is empty: it is called unnamed now"),
        ({"name": "x" * 201}, "its name is longer than 200 characters and was cut"),
        ({"tags": "{"}, "its tags is not JSON"),
        ({"tags": "[]"}, "its tags is not a JSON object"),
        ({"tags": '{"a": 1}'}, "its tag 'a' cannot be one here"),
        ({"description": b"x"}, "its description is not a text"),
        ({"created_at": "soon"}, "its created_at is not a time"),
        ({"text": SCRIPTED + "# enc:gAAAAABk\n"}, "only the predecessor's key opens"),
    ],
)
async def test_a_config_with_a_field_that_has_no_place_is_carried_in_part(
    newer: Legacy, db: Database, values: dict[str, Any], reason: str
) -> None:
    report = await carry(newer.config(**values), db)

    assert told(report) == [("config", "c1", "carried in part")]
    assert reason in reasons(report, "c1")
    assert (await config(db, "c1")).tags == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": b"\xff\xfe"}, "its yaml_content is not a text"),
        ({"text": ""}, "it has no text"),
        ({"text": "bundle: {name: a}\n# \0"}, "its yaml_content holds characters that no database can hold"),
        ({"text": "- a list"}, "the top level must be a mapping of sections (line 1)"),
    ],
)
async def test_a_config_without_a_usable_text_is_not_carried(
    newer: Legacy, db: Database, values: dict[str, Any], reason: str
) -> None:
    report = await carry(newer.config(**values), db)

    assert told(report) == [("config", "c1", "not carried")]
    assert reason in reasons(report, "c1")


async def test_a_status_that_is_not_known_becomes_active(newer: Legacy, db: Database) -> None:
    report = await carry(newer.config().session(status="paused"), db)

    assert reasons(report, "s1") == "its status 'paused' is not one: it is active now"
    record = await db.read(get_session, "s1", within="default")
    assert record is not None
    assert record.session.status == "active"


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ("[{", "its transcript is not JSON"),
        ('[{"role": "user", "content": NaN}]', "its transcript is not JSON"),
        ("{}", "its transcript is not a list"),
        (["hello"], "message 1 of its transcript is not an object"),
        ([*TALK, {"content": "?"}], "message 5 of its transcript has no role that is known"),
        ([{"role": "user", "content": 5}], "the content of message 1 of its transcript is neither text nor blocks"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "the tool calls of message 1 of its transcript are not objects"),
    ],
)
async def test_a_session_with_a_broken_transcript_is_not_carried(
    newer: Legacy, db: Database, stored: Any, reason: str
) -> None:
    report = await carry(newer.config().session(transcript=stored), db)

    assert told(report)[1] == ("session", "s1", "not carried")
    assert reasons(report, "s1") == reason
    assert await db.read(get_session, "s1", within="default") is None


@pytest.mark.parametrize("stored", [None, "", "[]", "null"])
async def test_a_session_that_said_nothing_yet_is_carried(newer: Legacy, db: Database, stored: str | None) -> None:
    report = await carry(newer.config().session(transcript=stored), db)

    assert report.incomplete == []
    assert await transcript(db) == []


async def test_a_call_without_a_result_gets_one(newer: Legacy, db: Database) -> None:
    again = {"role": "user", "content": "and now?"}
    await carry(newer.config().session(transcript=[*TALK[:2], again, *TALK[1:2]]), db)

    shown = await transcript(db)
    assert [message.role for message in shown] == ["user", "assistant", "tool", "user", "assistant", "tool"]
    assert {shown[2].tool_call_id, shown[5].tool_call_id} == {"call-1"}
    assert "not recorded" in shown[2].content


async def test_results_in_blocks_of_a_user_count(newer: Legacy, db: Database) -> None:
    blocks = [{"type": "tool_result", "tool_use_id": "call-1", "content": "a.txt"}]
    talk = [*TALK[:2], {"role": "user", "content": blocks}, TALK[3]]

    await carry(newer.config().session(transcript=talk), db)

    assert await db.read(kernel_transcript, "s1", within="default") == (4, talk)


async def test_a_prompt_at_the_beginning_is_shown_and_not_restored(newer: Legacy, db: Database) -> None:
    await carry(newer.config().session(transcript=[{"role": "system", "content": "Be brief."}, *TALK]), db)

    assert [message.role for message in await transcript(db)][:2] == ["system", "user"]
    assert await db.read(kernel_transcript, "s1", within="default") == (5, TALK)


async def test_a_message_that_tells_its_time_keeps_it(newer: Legacy, db: Database) -> None:
    timed = {"role": "user", "content": "hi", "metadata": {"timestamp": "2026-02-04T17:00:00Z"}}

    await carry(newer.config().session(transcript=[timed, TALK[3]]), db)

    first, second = await transcript(db)
    assert first.created_at == datetime(2026, 2, 4, 17, tzinfo=UTC)
    assert second.created_at == datetime.fromisoformat(MADE)


async def test_columns_and_tables_that_have_no_place_are_told_when_they_hold_something(
    newer: Legacy, db: Database
) -> None:
    newer.run("ALTER TABLE sessions ADD COLUMN owner_user_id TEXT").run("ALTER TABLE configs ADD COLUMN unused TEXT")
    newer.run("CREATE TABLE recipes (recipe_id TEXT)").run("CREATE TABLE users (user_id TEXT)")
    newer.config().session(owner_user_id="ann").session("s2").add("recipes", {"recipe_id": "r"})

    report = await carry(newer, db)

    assert told(report)[:2] == [
        ("table", "recipes", "not carried"),
        ("column", "sessions.owner_user_id", "not carried"),
    ]
    assert [entry.identity for entry in report.incomplete] == ["recipes", "sessions.owner_user_id"]
    assert reasons(report, "sessions.owner_user_id") == "nothing here has a place for it (1 row)"


async def test_a_config_that_was_stored_as_json_is_carried_as_it_is(tmp_path: Path, db: Database) -> None:
    text = '{"bundle": {"name": "mine"}, "includes": [{"bundle": "foundation"}]}'
    legacy = Legacy(tmp_path / "amplifier.db", JSON_CONFIGS)
    fields = {"config_id": "c1", "name": "mine", "config_json": text, "created_at": MADE, "updated_at": MADE}
    legacy.add("configs", fields).add("configs", {**fields, "config_id": "c2", "config_json": "{}"})

    report = await carry(legacy, db)
    legacy.close()

    assert told(report) == [("config", "c1", "carried"), ("config", "c2", "not carried")]
    assert (await config(db, "c1")).yaml_content == text


# --- the older shape ---


async def test_an_older_session_gets_a_config_of_what_it_ran(older: Legacy, db: Database) -> None:
    metadata = '{"bundle": "foundation", "message_count": 1, "tags": {"env": "dev"}}'
    older.older_session(provider="anthropic", model="claude-sonnet-4-5", metadata=metadata)

    report = await carry(older, db)

    assert [(kind, verdict) for kind, _, verdict in told(report)] == [("config", "carried"), ("session", "carried")]
    document = await made_config(db)
    assert document["includes"] == [{"bundle": "foundation"}]
    options = {"api_key": "${ANTHROPIC_API_KEY}", "model": "claude-sonnet-4-5"}
    assert document["providers"] == [{"module": "provider-anthropic", "config": options}]
    record = await db.read(get_session, "s1", within="default")
    assert record is not None
    assert (record.session.tags, record.session.message_count) == ({"env": "dev"}, 1)
    assert await db.read(kernel_transcript, "s1", within="default") == (4, TALK)


async def test_older_sessions_that_ran_the_same_share_a_config(older: Legacy, db: Database) -> None:
    older.older_session("s1").older_session("s2").older_session("s3", provider="openai")

    await carry(older, db)
    again = await carry(older, db)

    assert await db.read(counted) == [2, 3, 12, 3]
    assert [entry.verdict for entry in again.entries] == [Verdict.THERE] * 3


async def test_what_an_older_session_left_open_was_what_was_active(older: Legacy, db: Database) -> None:
    older.setting("active_bundle", "team").setting("active_provider", "scripted")
    older.setting("providers", {"scripted": {"api_key": None, "config": {"replies": ["hello"]}}})

    report = await carry(older.older_session(bundle=None, provider=None), db)

    assert report.incomplete == []
    document = await made_config(db)
    assert document["includes"] == [{"bundle": "team"}]
    assert document["providers"] == [{"module": "provider-scripted", "config": {"replies": ["hello"]}}]


async def test_a_key_in_the_settings_is_never_copied(older: Legacy, db: Database) -> None:
    options = {"temperature": 0.2, "auth_token": "sk-secret-2"}
    older.setting("providers", {"anthropic": {"api_key": "sk-secret-1", "config": options}})

    report = await carry(older.older_session(provider="anthropic"), db)

    assert told(report)[0] == ("setting", "providers.anthropic", "carried in part")
    assert reasons(report, "providers.anthropic") == "its key is not copied: give the server ANTHROPIC_API_KEY"
    document = await made_config(db)
    assert document["providers"][0]["config"] == {"temperature": 0.2, "api_key": "${ANTHROPIC_API_KEY}"}


async def test_sections_among_the_options_of_an_older_session_become_sections(older: Legacy, db: Database) -> None:
    given = '{"tools": [{"module": "tool-x"}], "providers": [{"module": "provider-y"}], "colour": "red", "empty": {}}'

    report = await carry(older.older_session(config=given), db)

    assert reasons(report, "s1") == "its option 'colour' has no place in a bundle"
    document = await made_config(db)
    assert document["tools"] == [{"module": "tool-x"}]
    assert [entry["module"] for entry in document["providers"]] == ["provider-scripted", "provider-y"]


async def test_an_older_session_of_a_relative_bundle_is_not_carried(older: Legacy, db: Database) -> None:
    report = await carry(older.older_session(bundle="./here"), db)

    assert told(report) == [("session", "s1", "not carried")]
    assert "relative path" in reasons(report, "s1")
    assert await db.read(counted) == [0, 0, 0, 0]


async def test_an_older_table_of_sessions_beside_configs_is_read_too(tmp_path: Path, db: Database) -> None:
    configs_only = OLDER + "CREATE TABLE configs (config_id TEXT PRIMARY KEY, name TEXT, yaml_content TEXT, "
    legacy = Legacy(tmp_path / "both.db", configs_only + "description TEXT, created_at, updated_at, tags TEXT);")

    report = await carry(legacy.config().older_session(), db)
    legacy.close()

    assert [kind for kind, _, _ in told(report)] == ["config", "config", "session"]
    assert report.incomplete == []


async def test_names_of_bundles_are_registered(older: Legacy, db: Database) -> None:
    uri = "git+https://github.com/our/tools@main"
    named = {"tools": {"source": uri, "scope": "global"}, "foundation": {"source": uri}, "here": {"source": "./here"}}
    older.setting("bundles", {**named, "none": {}, "a/b": uri})

    report = await carry(older, db)

    assert sorted(told(report)) == [
        ("bundle", "a/b", "not carried"),
        ("bundle", "foundation", "already there"),
        ("bundle", "here", "not carried"),
        ("bundle", "none", "not carried"),
        ("bundle", "tools", "carried"),
    ]
    assert await db.read(names_of, within="default") == {"tools": uri}


async def test_settings_without_a_place_are_told(newer: Legacy, db: Database) -> None:
    newer.setting("modules", {"tool-x": {"source": "/x"}}).setting("theme", "dark").setting("active_bundle", "a")
    newer.setting("active_provider", None).setting("bundles", {})
    newer.add("configuration", {"key": "broken", "value": "{", "updated_at": MADE})

    report = await carry(newer, db)

    assert sorted(told(report)) == [
        ("setting", "active_bundle", "not carried"),
        ("setting", "broken", "not carried"),
        ("setting", "modules.tool-x", "not carried"),
        ("setting", "theme", "not carried"),
    ]
