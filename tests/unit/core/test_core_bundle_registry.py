"""The names of a tenant, without HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources
from amplifier_app_api.bundles.fetched import Fetched
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.core import bundle_registry
from amplifier_app_api.core.bundle_names import BundleExists, name_of
from amplifier_app_api.core.bundle_registry import BundleRegistry, TooManyBundles
from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.models.page import PageRequest
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.storage import Database
from amplifier_app_api.storage.bundle_names import names_of

OTHER = Principal(tenant_id="other", subject="somebody")
URI = "git+https://github.com/our/tools@main"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    address = str(tmp_path / "app.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with Database(address) as db:
        yield db


@pytest.fixture
def registry(db: Database) -> BundleRegistry:
    return BundleRegistry(db)


async def names(registry: BundleRegistry) -> list[str]:
    return [bundle.name for bundle in (await registry.page_bundles(PageRequest())).items]


async def test_what_one_tenant_registers_another_does_not_see(db: Database, registry: BundleRegistry) -> None:
    other = registry.scoped(OTHER)
    await registry.register_bundle(URI, name="mine")
    await other.register_bundle("/a/folder", name="theirs")

    assert await names(registry) == ["foundation", "foundation-default", "mine"]
    assert await names(other) == ["foundation", "foundation-default", "theirs"]
    assert await registry.get_bundle("theirs") is None
    assert await other.delete_bundle("mine") is False
    assert await other.refresh_bundle("mine") is None
    assert await db.read(names_of, within="default") == {"mine": URI}


async def test_two_tenants_may_have_the_same_name(db: Database, registry: BundleRegistry) -> None:
    await registry.register_bundle(URI, name="tools")
    _, is_new = await registry.scoped(OTHER).register_bundle("/a/folder", name="tools", replace=True)

    assert is_new is True
    assert await db.read(names_of, within="default") == {"tools": URI}
    assert await db.read(names_of, within="other") == {"tools": "/a/folder"}


async def test_of_callers_who_bring_the_same_name_one_has_it(registry: BundleRegistry) -> None:
    made = await asyncio.gather(
        *(registry.register_bundle(f"/folder/{number}", name="tools") for number in range(5)), return_exceptions=True
    )

    assert sum(isinstance(one, tuple) for one in made) == 1
    assert sum(isinstance(one, BundleExists) for one in made) == 4


async def test_of_callers_who_replace_at_once_each_gets_its_way_in_turn(registry: BundleRegistry) -> None:
    made = await asyncio.gather(
        *(registry.register_bundle(f"/folder/{number}", name="tools", replace=True) for number in range(5))
    )

    assert sorted(is_new for _, is_new in made) == [False, False, False, False, True]
    assert sorted(str(bundle.uri) for bundle, _ in made) == [f"/folder/{number}" for number in range(5)]


async def test_there_is_an_end_to_names(registry: BundleRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_registry, "MAX_NAMES", 1)
    await registry.register_bundle(URI, name="one")

    with pytest.raises(TooManyBundles):
        await registry.register_bundle(URI, name="two")
    await registry.register_bundle("/instead", name="one", replace=True)
    await registry.scoped(OTHER).register_bundle(URI, name="two")


async def test_a_refresh_asks_the_fetcher_anew_and_says_the_commit(db: Database, tmp_path: Path) -> None:
    (tmp_path / "bundle.yaml").write_text("bundle: {name: tools}\n")
    asked: list[tuple[str, str | None]] = []
    refreshed: list[str] = []

    def fetch(uri: str, pin: str | None) -> Fetched:
        asked.append((uri, pin))
        return Fetched(uri=uri, resolved=f"{uri}#abc", path=tmp_path, source_root=tmp_path, commit="abc")

    def sources(names: Mapping[str, str], hold: Hold) -> Sources:
        return Sources(names=names, fetch=fetch, pins={URI: "an old one"})

    registry = BundleRegistry(db, sources=sources, on_refresh=refreshed.append)
    await registry.register_bundle(URI, name="tools")

    found = await registry.refresh_bundle("tools")

    assert found is not None
    assert (found.commit, found.problems) == ("abc", ())
    assert asked == [(URI, None)]
    assert refreshed == ["default"]


async def test_a_name_no_database_can_hold_is_of_nothing(registry: BundleRegistry) -> None:
    assert await registry.get_bundle("a\0b") is None
    assert await registry.delete_bundle("a\0b") is False
    with pytest.raises(InvalidFields):
        await registry.register_bundle(URI, name="a\0b")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("git+https://github.com/our/tools@main", "tools"),
        ("git+https://github.com/our/tools.git", "tools"),
        ("git+https://github.com/our/all@v1#subdirectory=bundles/one", "one"),
        ("zip+https://host/files/tools.zip", "tools"),
        ("https://host/tools.md", "tools"),
        ("https://host/tools/bundle.md", "tools"),
        ("file:///srv/bundles/tools/bundle.yaml", "tools"),
        ("/srv/bundles/tools/", "tools"),
        ("https://host", "host"),
    ],
)
def test_a_uri_suggests_its_last_part_as_the_name(uri: str, name: str) -> None:
    assert name_of(uri) == name
