"""Sessions whose configs name real git repositories, from the first opening to a restart."""

import gc
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from amplifier_app_api.app import create_app
from amplifier_app_api.bundles import NotRunnable
from amplifier_app_api.bundles.sources.cache import SourceCache
from amplifier_app_api.core import ConfigManager, SessionManager
from amplifier_app_api.core.bundle_registry import BundleRegistry
from amplifier_app_api.core.planner import ConfigPlanner
from amplifier_app_api.core.session_manager import open_runtime
from amplifier_app_api.models.session import Session
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.services import open_services
from amplifier_app_api.settings import Settings
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.sessions import get_session
from runtime_bundles import MODULES, bundle_text
from third_party import forget_modules, package_of

COMPASS = "tool-compass"


class Repository:
    """A git repository of the test's own, with one branch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._git("init", "-q", "-b", "main")

    @property
    def uri(self) -> str:
        return f"git+file://{self.folder}@main"

    def commit(self, name: str = "README.md", text: str = "Here.") -> str:
        """Write a file, and commit everything there is; the commit."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        self._git("add", "-A")
        identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false")
        self._git(*identity, "commit", "-q", "-m", "change")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        told = subprocess.run(["git", "-C", str(self.folder), *arguments], check=True, capture_output=True, text=True)
        return told.stdout.strip()


@pytest.fixture
def options(tmp_path: Path) -> RuntimeOptions:
    return RuntimeOptions(
        data_dir=tmp_path / "data",
        source_roots=(MODULES, tmp_path / "roots"),
        source_refresh=timedelta(0),
        environment={},
    )


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Below a source root; modules of it are unknown to this process."""
    forget_modules(MODULES, tmp_path)
    yield Repository(tmp_path / "roots" / "shared")
    forget_modules(MODULES, tmp_path)


def bundle(answer: str) -> str:
    return (
        "bundle: {name: shared}\nincludes: [foundation]\n"
        f"providers: [{{module: provider-scripted, config: {{replies: ['{answer}', '{answer}', '{answer}']}}}}]\n"
    )


def including(uri: str) -> str:
    return f"bundle: {{name: mine}}\nincludes: ['{uri}']\n"


Open = Callable[..., Awaitable[Session]]


@pytest.fixture
async def open_session(configs: ConfigManager, sessions: SessionManager) -> AsyncIterator[Open]:
    async def opened(text: str, manager: SessionManager | None = None) -> Session:
        config = await configs.create_config("remote", text)
        return await (manager or sessions).create_session(config.config_id)

    yield opened


async def say(manager: SessionManager, session: Session) -> str:
    return (await manager.send_message(session.session_id, "hello"))["response"]


async def pins(db: Database, session: Session) -> dict[str, str]:
    record = await db.read(get_session, session.session_id, within="default")
    assert record is not None
    return dict(record.sources)


async def test_a_session_with_a_bundle_from_git_opens_and_records_the_commit(
    db: Database, open_session: Open, sessions: SessionManager, repository: Repository
) -> None:
    commit = repository.commit("bundle.yaml", bundle("first"))

    session = await open_session(including(repository.uri))

    assert await say(sessions, session) == "first"
    assert await pins(db, session) == {repository.uri: f"git+file://{repository.folder}@{commit}"}


async def test_a_branch_that_moves_counts_for_the_next_session_and_not_for_one_that_is_opened_again(
    db: Database,
    open_session: Open,
    sessions: SessionManager,
    make_sessions: Callable[..., SessionManager],
    repository: Repository,
) -> None:
    repository.commit("bundle.yaml", bundle("first"))
    old = await open_session(text := including(repository.uri))
    repository.commit("bundle.yaml", bundle("second"))
    new = await open_session(text)
    restarted = make_sessions()

    assert (await say(sessions, old), await say(sessions, new)) == ("first", "second")
    assert (await say(restarted, old), await say(restarted, new)) == ("first", "second")


async def test_a_repository_that_is_gone_serves_on_as_it_was(
    open_session: Open, sessions: SessionManager, repository: Repository
) -> None:
    repository.commit("bundle.yaml", bundle("first"))
    text = including(repository.uri)
    await open_session(text)
    shutil.rmtree(repository.folder)

    assert await say(sessions, await open_session(text)) == "first"


async def test_a_source_that_is_away_refuses_a_message_and_leaves_the_session_as_it_is(
    db: Database, configs: ConfigManager, options: RuntimeOptions, repository: Repository
) -> None:
    repository.commit("bundle.yaml", bundle("here"))
    config = await configs.create_config("remote", including(repository.uri))
    runtime = open_runtime(db, options)
    session = await SessionManager(db, runtime=runtime).create_session(config.config_id)
    await runtime.close()
    away = repository.folder.rename(repository.folder.with_name("away"))
    later = replace(options, data_dir=options.data_dir.with_name("another"))  # nothing is fetched there yet
    runtime = open_runtime(db, later)
    manager = SessionManager(db, runtime=runtime)

    with pytest.raises(NotRunnable) as refusal:
        await say(manager, session)

    assert {item.code for item in refusal.value.items} <= {"module_fetch_failed", "missing_section"}
    found = await manager.get_session(session.session_id)
    assert found is not None and found.status == "active"
    away.rename(repository.folder)
    assert await say(manager, session) == "here"
    await runtime.close()


async def test_what_a_branch_holds_now_is_told_also_when_it_is_wrong(
    open_session: Open, sessions: SessionManager, repository: Repository
) -> None:
    repository.commit("bundle.yaml", bundle("first"))
    text = including(repository.uri)
    old = await open_session(text)
    repository.commit("bundle.yaml", "bundle: [no, mapping]\n")

    with pytest.raises(NotRunnable) as refusal:
        await open_session(text)

    assert "invalid_document" in {item.code for item in refusal.value.items}
    assert await say(sessions, old) == "first"


def with_compass(repository: Repository) -> str:
    return bundle_text(
        tools=[{"module": COMPASS, "source": f"{repository.uri}#subdirectory={COMPASS}"}], replies=["yes", "still"]
    )


async def test_an_unmodified_module_runs_from_git_and_at_a_new_commit_it_is_refused(
    open_session: Open, sessions: SessionManager, repository: Repository
) -> None:
    shutil.copytree(MODULES / COMPASS, repository.folder / COMPASS)
    repository.commit()
    text = with_compass(repository)
    first = await open_session(text)
    repository.commit(f"{COMPASS}/{package_of(COMPASS)}/needle.py", "raise ImportError('another needle')\n")

    with pytest.raises(NotRunnable) as refusal:
        await open_session(text)

    assert [item.code for item in refusal.value.items] == ["module_conflict"]
    assert await say(sessions, first) == "yes"


async def test_a_commit_that_leaves_the_code_of_a_module_as_it_was_is_no_other_version_of_it(
    open_session: Open, sessions: SessionManager, repository: Repository
) -> None:
    shutil.copytree(MODULES / COMPASS, repository.folder / COMPASS)
    before = repository.commit()
    text = with_compass(repository)
    first = await open_session(text)
    after = repository.commit("README.md", "Only words have changed.")

    second = await open_session(text)

    assert before != after
    assert [await say(sessions, first), await say(sessions, second)] == ["yes", "yes"]


async def test_a_module_that_came_with_a_bundle_stays_on_disk_as_long_as_the_process(
    db: Database, configs: ConfigManager, options: RuntimeOptions, repository: Repository
) -> None:
    shutil.copytree(MODULES / COMPASS, repository.folder / COMPASS)
    repository.commit("bundle.yaml", bundle("yes") + f"tools: [{{module: {COMPASS}, source: ./{COMPASS}}}]\n")
    runtime = open_runtime(db, options)
    sessions = SessionManager(db, runtime=runtime)
    config = await configs.create_config("remote", including(repository.uri))
    session = await sessions.create_session(config.config_id)

    await sessions.delete_session(session.session_id)

    assert removable(runtime.opener, options) == []
    await runtime.close()


async def test_a_bundle_that_nothing_runs_from_any_more_may_make_room(
    db: Database, configs: ConfigManager, options: RuntimeOptions, repository: Repository
) -> None:
    repository.commit("bundle.yaml", bundle("yes"))
    runtime = open_runtime(db, options)
    sessions = SessionManager(db, runtime=runtime)
    config = await configs.create_config("remote", including(repository.uri))
    session = await sessions.create_session(config.config_id)

    while_open = removable(runtime.opener, options)
    await sessions.delete_session(session.session_id)

    assert (while_open, len(removable(runtime.opener, options))) == ([], 1)
    await runtime.close()


async def test_a_source_outside_the_list_is_refused_with_the_name_of_the_setting(
    open_session: Open, repository: Repository, tmp_path: Path
) -> None:
    elsewhere = Repository(tmp_path / "elsewhere")
    elsewhere.commit("bundle.yaml", bundle("no"))

    for uri in (elsewhere.uri, "git+https://example.com/org/repo@main"):
        with pytest.raises(NotRunnable) as refusal:
            await open_session(including(uri))

        found = {item.code: item.detail for item in refusal.value.items}
        assert "AMPLIFIER_SOURCE_ALLOW" in found["source_not_allowed"]


async def test_a_pattern_of_the_list_lets_a_repository_in(
    db: Database, open_session: Open, make_sessions: Callable[..., SessionManager], tmp_path: Path
) -> None:
    elsewhere = Repository(tmp_path / "elsewhere")
    elsewhere.commit("bundle.yaml", bundle("yes"))
    allowing = make_sessions(source_allow=(f"git+file://{tmp_path}/elsewhere",))

    assert await say(allowing, await open_session(including(elsewhere.uri), allowing)) == "yes"


async def test_the_plan_of_a_config_shows_the_commit_and_lets_the_source_go(
    db: Database, configs: ConfigManager, options: RuntimeOptions, repository: Repository
) -> None:
    commit = repository.commit("bundle.yaml", bundle("first"))
    config = await configs.create_config("remote", including(repository.uri))
    runtime = open_runtime(db, options)
    planner = ConfigPlanner(configs, runtime.opener, options)

    plan = await planner.plan_config(config.config_id)
    checked = await planner.validate_config(config.config_id)

    assert plan.runnable and checked.valid
    assert [(source.uri, source.commit) for source in plan.sources] == [(repository.uri, commit)]
    assert [include.include for include in plan.includes] == [repository.uri]
    assert len(removable(runtime.opener, options)) == 1
    await runtime.close()


async def test_the_plan_of_a_stored_config_shows_the_commit_over_http(tmp_path: Path, repository: Repository) -> None:
    commit = repository.commit("bundle.yaml", bundle("first"))
    settings = Settings(data_dir=tmp_path / "data", source_roots=(tmp_path / "roots",), default_config=False)
    async with open_services(settings) as services:
        transport = httpx2.ASGITransport(create_app(services=services))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"name": "remote", "yaml_content": including(repository.uri)}
            config_id = (await client.post("/configs", json=body)).json()["config_id"]

            plan = (await client.get(f"/configs/{config_id}/plan")).json()

    resolved = f"git+file://{repository.folder}@{commit}"
    assert plan["runnable"] is True
    assert plan["sources"] == [{"uri": repository.uri, "resolved": resolved, "commit": commit}]


async def test_a_refreshed_name_lets_its_sources_go(
    db: Database, options: RuntimeOptions, repository: Repository
) -> None:
    commit = repository.commit("bundle.yaml", bundle("first"))
    runtime = open_runtime(db, options)
    registry = BundleRegistry(db, sources=runtime.opener.sources, on_refresh=runtime.opener.forget)
    await registry.register_bundle(repository.uri, name="ours")

    found = await registry.refresh_bundle("ours")

    assert found is not None and found.commit == commit
    assert len(removable(runtime.opener, options)) == 1
    await runtime.close()


def removable(opener: SessionOpener, options: RuntimeOptions) -> list[str]:
    """Removes the sources that nothing uses, once no bundle is kept for the next session; their keys."""
    opener.forget("default")
    gc.collect()
    folder = options.data_dir / "sources"
    cache = SourceCache(folder, most_bytes=0)
    return [entry.name for entry in list((folder / "entries").iterdir()) if cache.discard(entry.name)]
