"""What the stores of bundle names and of imported rows promise, on every engine."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.models.bundle import RegisteredBundle
from amplifier_app_api.models.session import SessionStatus
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.bundle_names import (
    count_bundles,
    delete_bundle,
    get_bundle,
    insert_bundle,
    list_bundles,
    names_of,
    put_bundle,
)
from amplifier_app_api.storage.configs import change_config, get_config
from amplifier_app_api.storage.imports import (
    ImportedConfig,
    ImportedMessage,
    ImportedSession,
    config_exists,
    import_config,
    import_session,
    session_exists,
)
from amplifier_app_api.storage.lifecycle import edit_session
from amplifier_app_api.storage.messages import kernel_transcript
from amplifier_app_api.storage.sessions import get_session

MADE = datetime(2026, 2, 4, 16, tzinfo=UTC)
URI = "git+https://github.com/our/tools@main"
CONFIG = ImportedConfig(
    config_id="c1",
    name="mine",
    yaml_content="bundle: {name: é}\r\n",
    description=None,
    tags={"a": "1"},
    created_at=MADE,
    updated_at=MADE,
)
HELLO = {"role": "user", "content": "hello"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = str(tmp_path / "app.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as db:
        yield db


def anything(before: RegisteredBundle | None, count: int) -> None:
    pass


def session(*messages: ImportedMessage, session_id: str = "s1", config_id: str = "c1") -> ImportedSession:
    return ImportedSession(
        session_id=session_id,
        config_id=config_id,
        status=SessionStatus.ACTIVE,
        tags={},
        created_at=MADE,
        updated_at=MADE,
        messages=messages,
    )


# --- names ---


async def test_a_name_is_there_for_its_tenant_alone(db: Database) -> None:
    stored = await db.write(insert_bundle, "tools", uri=URI, description="d", within="one")

    assert await db.read(get_bundle, "tools", within="one") == stored
    assert await db.read(list_bundles, within="one") == [stored]
    assert await db.read(names_of, within="one") == {"tools": URI}
    assert await db.read(get_bundle, "tools", within="other") is None
    assert await db.read(names_of, within="other") == {}
    assert await db.read(count_bundles, within="other") == 0


async def test_the_same_name_twice_is_an_integrity_error(db: Database) -> None:
    await db.write(insert_bundle, "tools", uri=URI, description=None, within="one")

    with pytest.raises(IntegrityError):
        await db.write(insert_bundle, "tools", uri="/else", description=None, within="one")

    assert await db.read(names_of, within="one") == {"tools": URI}


async def test_a_name_that_is_put_again_keeps_when_it_was_made(db: Database) -> None:
    first, first_is_new = await db.write(put_bundle, "tools", uri=URI, description="d", allow=anything, within="one")
    second, second_is_new = await db.write(
        put_bundle, "tools", uri="/else", description=None, allow=anything, within="one"
    )

    assert (first_is_new, second_is_new) == (True, False)
    assert second == await db.read(get_bundle, "tools", within="one")
    assert (second.uri, second.description, second.created_at) == ("/else", None, first.created_at)
    assert first.updated_at is not None
    assert second.updated_at is not None
    assert second.updated_at > first.updated_at


async def test_whoever_puts_a_name_sees_what_is_there_and_may_refuse(db: Database) -> None:
    seen: list[tuple[RegisteredBundle | None, int]] = []

    def refuse(before: RegisteredBundle | None, count: int) -> None:
        seen.append((before, count))
        raise LookupError("no")

    await db.write(insert_bundle, "other", uri=URI, description=None, within="two")
    stored = await db.write(insert_bundle, "tools", uri=URI, description=None, within="one")
    for name in ("tools", "new"):
        with pytest.raises(LookupError):
            await db.write(put_bundle, name, uri="/else", description=None, allow=refuse, within="one")

    assert seen == [(stored, 1), (None, 1)]
    assert await db.read(names_of, within="one") == {"tools": URI}


async def test_a_deleted_name_is_gone_for_its_tenant_alone(db: Database) -> None:
    for tenant in ("one", "two"):
        await db.write(insert_bundle, "tools", uri=URI, description=None, within=tenant)

    assert await db.write(delete_bundle, "tools", within="one") is True
    assert await db.write(delete_bundle, "tools", within="one") is False
    assert await db.read(names_of, within="two") == {"tools": URI}


# --- imported rows ---


async def test_an_imported_config_is_one_like_any_other(db: Database) -> None:
    await db.write(import_config, CONFIG, by="import", within="one")

    found = await db.read(get_config, "c1", within="one")
    assert found is not None
    assert (found.yaml_content, found.tags, found.created_at) == (CONFIG.yaml_content, {"a": "1"}, MADE)
    assert await db.read(config_exists, "c1", within="one") is True
    assert await db.read(config_exists, "c1", within="other") is False
    changed = await db.write(
        change_config,
        "c1",
        lambda config: config.model_copy(update={"yaml_content": "bundle: {name: b}\n"}),
        by="me",
        within="one",
    )
    assert changed is not None
    assert (changed.revision, changed.created_at) == (2, MADE)


async def test_an_id_that_another_tenant_has_is_an_integrity_error(db: Database) -> None:
    await db.write(import_config, CONFIG, by="import", within="one")

    with pytest.raises(IntegrityError):
        await db.write(import_config, CONFIG, by="import", within="other")


async def test_an_imported_session_has_its_transcript_and_a_log_that_goes_on(db: Database) -> None:
    await db.write(import_config, CONFIG, by="import", within="one")
    prompt = ImportedMessage(message_id="m0", role="system", content="Be brief.", kernel=None, created_at=MADE)
    hello = ImportedMessage(message_id="m1", role="user", content="hello", kernel=HELLO, created_at=MADE)

    await db.write(import_session, session(prompt, hello), within="one")

    record = await db.read(get_session, "s1", within="one")
    assert record is not None
    assert (record.session.message_count, record.session.last_seq, record.session.updated_at) == (1, 1, MADE)
    assert await db.read(kernel_transcript, "s1", within="one") == (2, [HELLO])
    assert await db.read(session_exists, "s1", within="one") is True
    assert await db.read(session_exists, "s1", within="other") is False
    _, stored = await db.write(edit_session, "s1", lambda _: {"status": SessionStatus.COMPLETED.value}, within="one")
    assert [(event.seq, event.type) for event in stored] == [(2, "session.closed")]


async def test_a_session_of_no_config_is_an_integrity_error_and_leaves_nothing(db: Database) -> None:
    with pytest.raises(IntegrityError):
        await db.write(import_session, session(config_id="gone"), within="one")

    assert await db.read(session_exists, "s1", within="one") is False
