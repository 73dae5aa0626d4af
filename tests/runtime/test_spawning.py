"""Child sessions: a task of its own, from the parent's bundle."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from amplifier_app_api.bundles import (
    Bundle,
    NotRunnable,
    PreparedBundle,
    VariableScope,
    parse_document,
    prepare,
)
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.session import KernelSession
from amplifier_app_api.runtime.kernel.spawning import Host, SpawnRequest, spawn, with_orchestrator_options
from runtime_bundles import MODULES, bundle_text, from_folder
from third_party import open_bundle, server_sources

ECHO = SpawnRequest(child=Bundle.from_data({"bundle": {"name": "scout"}}), instruction="look around")


@pytest.fixture
def host() -> Host:
    table = ModuleTable()
    limits: dict[str, Any] = {"readable": [], "writable": []}
    return Host(
        table=table, sources=server_sources(table, MODULES), scope=VariableScope({}, {}, ()), file_limits=limits
    )


async def prepared(host: Host, text: str) -> PreparedBundle:
    return await prepare(parse_document(text), sources=host.sources)


@pytest.fixture
async def parent(host: Host) -> AsyncIterator[KernelSession]:
    bundle = (await prepared(host, bundle_text(replies=["parent"]))).bundle
    session = await open_bundle(bundle, host.sources, host.table, session_id="mother")
    yield session
    await session.close()


async def test_a_child_answers_under_an_id_of_its_own_and_says_how_it_ended(host: Host, parent: KernelSession) -> None:
    spawned = await spawn(ECHO, await prepared(host, bundle_text(replies=["found it"])), parent, host)

    assert spawned.output == "found it"
    assert spawned.session_id.endswith("_scout")
    assert (spawned.status, spawned.turn_count) == ("success", 1)


async def test_a_child_that_fails_is_closed_all_the_same(host: Host, parent: KernelSession) -> None:
    text = bundle_text(replies=["[[error: status=500]]"], hooks=[from_folder("hooks-recorder")])
    composed = await prepared(host, text)

    with pytest.raises(RuntimeError):
        await spawn(replace(ECHO, session_id="failing-child"), composed, parent, host)
    import amplifier_module_hooks_recorder as recorder

    assert recorder.ends["failing-child"].is_set()


async def test_a_child_whose_modules_are_nowhere_is_refused(host: Host, parent: KernelSession) -> None:
    child = Bundle.from_data({"tools": [{"module": "tool-nowhere"}]})

    with pytest.raises(NotRunnable) as refused:
        await spawn(replace(ECHO, child=child), await prepared(host, bundle_text()), parent, host)

    assert [item.code for item in refused.value.items] == ["module_not_found"]


async def test_options_for_the_loop_reach_it_whichever_way_it_is_written() -> None:
    as_text = {"session": {"orchestrator": "loop-basic", "orchestrator_source": "/m"}, "tools": []}
    as_mapping = {"session": {"orchestrator": {"module": "loop-basic", "config": {"a": {"b": 1}, "c": 2}}}}
    before = yaml.safe_dump([as_text, as_mapping])

    assert with_orchestrator_options(as_text, {"a": 1})["session"]["orchestrator"] == {
        "module": "loop-basic",
        "source": "/m",
        "config": {"a": 1},
    }
    merged = with_orchestrator_options(as_mapping, {"a": {"d": 3}})["session"]["orchestrator"]["config"]
    assert merged == {"a": {"b": 1, "d": 3}, "c": 2}
    assert yaml.safe_dump([as_text, as_mapping]) == before
