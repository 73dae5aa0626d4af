"""When branches of remote sources are looked up again, and what is served when they cannot be."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources
from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.runtime import prepared_cache
from amplifier_app_api.runtime.prepared_cache import PreparedBundleCache

REPO = "git+https://host.test/repo@main"
TEXT = f"bundle: {{name: mine}}\nincludes: ['{REPO}']\n"
MINUTE = timedelta(seconds=60)


class Host:
    """A repository whose looking up takes a minute, by a clock of its own, while it does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.asked = 0
        self.answers = True
        session = "session: {orchestrator: loop, context: ctx}\nproviders: [{module: p}]\n"
        (folder / "bundle.yaml").write_text(f"bundle: {{name: repo}}\n{session}")

    def monotonic(self) -> float:
        return self.now

    def sources(self, names: Mapping[str, str], hold: Hold) -> Sources:
        return Sources(names=names, builtin_modules=frozenset({"p", "loop", "ctx"}), fetch=self.fetch)

    def fetch(self, uri: str, pin: str | None) -> Fetched:
        self.asked += 1
        if not self.answers:
            self.now += MINUTE.total_seconds()
            raise Unresolved("module_fetch_failed", "the host does not answer.")
        resolved = uri.replace("@main", f"@{'a' * 40}")
        return Fetched(uri=uri, resolved=resolved, path=self.folder, source_root=self.folder, commit="a" * 40)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(prepared_cache, "time", host)
    return host


@pytest.fixture
def cache(host: Host) -> PreparedBundleCache:
    return PreparedBundleCache(host.sources, size=8, limit=MINUTE, refresh=MINUTE)


async def test_a_branch_is_looked_up_again_when_it_is_time_and_no_earlier(
    cache: PreparedBundleCache, host: Host
) -> None:
    first = await cache.get(TEXT, tenant="one", names={})
    host.now = 59
    early = await cache.get(TEXT, tenant="one", names={})
    host.now = 60
    later = await cache.get(TEXT, tenant="one", names={})

    assert first is early is later
    assert host.asked == 2


async def test_a_host_that_never_answers_is_not_asked_by_everybody_who_comes(
    cache: PreparedBundleCache, host: Host
) -> None:
    first = await cache.get(TEXT, tenant="one", names={})
    host.now = 60
    host.answers = False

    served = [await cache.get(TEXT, tenant="one", names={}) for _ in range(3)]

    assert all(bundle is first for bundle in served)
    assert host.asked == 2


async def test_what_is_pinned_is_never_looked_up_again(cache: PreparedBundleCache, host: Host) -> None:
    pins = (await cache.get(TEXT, tenant="one", names={})).pins()
    pinned = await cache.get(TEXT, tenant="one", names={}, pins=pins)
    host.now = 10_000

    assert await cache.get(TEXT, tenant="one", names={}, pins=pins) is pinned
    assert host.asked == 2


async def test_a_host_that_never_answered_is_a_problem_and_not_remembered(
    cache: PreparedBundleCache, host: Host
) -> None:
    host.answers = False
    refused = await cache.get(TEXT, tenant="one", names={})
    host.answers = True

    assert "module_fetch_failed" in {problem.code for problem in refused.problems}
    assert (await cache.get(TEXT, tenant="one", names={})).problems == ()
