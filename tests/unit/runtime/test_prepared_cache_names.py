"""Prepared bundles and the names that tenants registered: nothing of one reaches another."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.runtime.prepared_cache import PreparedBundleCache

USES_IT = "bundle:\n  name: mine\nincludes:\n  - bundle: shared\n"


class Asked:
    """The sources of a server that counts how often somebody prepares."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.times = 0

    def __call__(self, names: Mapping[str, str], hold: Hold) -> Sources:
        self.times += 1
        return Sources(names=names, roots=(self._root,), builtin_modules=frozenset({"p", "loop", "ctx"}))


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


@pytest.fixture
def cache(asked: Asked) -> PreparedBundleCache:
    return PreparedBundleCache(asked, size=8, limit=timedelta(seconds=30))


def shared(folder: Path, version: str) -> dict[str, str]:
    """The name `shared`, for a bundle of this version that runs."""
    file = folder / f"{version}.yaml"
    session = "session: {orchestrator: loop, context: ctx}\nproviders: [{module: p}]\n"
    file.write_text(f"bundle: {{name: shared, version: '{version}'}}\n{session}tools: [{{module: p}}]\n")
    return {"shared": str(file)}


async def test_each_tenant_gets_what_its_own_name_stands_for(
    cache: PreparedBundleCache, asked: Asked, tmp_path: Path
) -> None:
    ones, others = shared(tmp_path, "1"), shared(tmp_path, "2")

    mine = await cache.get(USES_IT, tenant="one", names=ones)
    theirs = await cache.get(USES_IT, tenant="other", names=others)
    nobodys = await cache.get(USES_IT, tenant="third", names={})

    assert [str(stamp.path) for stamp in mine.files] == [ones["shared"]]
    assert [str(stamp.path) for stamp in theirs.files] == [others["shared"]]
    assert "bundle_not_found" in {problem.code for problem in nobodys.problems}
    assert asked.times == 3


async def test_the_same_names_share_a_preparation_and_other_names_do_not(
    cache: PreparedBundleCache, asked: Asked, tmp_path: Path
) -> None:
    names = shared(tmp_path, "1")

    first = await cache.get(USES_IT, tenant="one", names=names)
    again = await cache.get(USES_IT, tenant="one", names=dict(names))
    moved = await cache.get(USES_IT, tenant="one", names=shared(tmp_path, "2"))

    assert again is first
    assert moved is not first
    assert asked.times == 2


async def test_a_refresh_drops_what_one_tenant_prepared(
    cache: PreparedBundleCache, asked: Asked, tmp_path: Path
) -> None:
    names = shared(tmp_path, "1")
    mine = await cache.get(USES_IT, tenant="one", names=names)
    theirs = await cache.get(USES_IT, tenant="other", names=names)

    cache.forget("one")

    assert await cache.get(USES_IT, tenant="one", names=names) is not mine
    assert await cache.get(USES_IT, tenant="other", names=names) is theirs


async def test_a_preparation_that_a_refresh_overtakes_is_answered_and_not_kept(
    cache: PreparedBundleCache, asked: Asked, tmp_path: Path
) -> None:
    names = shared(tmp_path, "1")
    waiting = asyncio.ensure_future(cache.get(USES_IT, tenant="one", names=names))
    await asyncio.sleep(0)  # it has asked
    cache.forget("one")

    overtaken = await waiting

    assert await cache.get(USES_IT, tenant="one", names=names) is not overtaken
    assert asked.times == 2
