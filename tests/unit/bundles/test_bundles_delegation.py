import copy
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from amplifier_app_api.bundles.delegation import child_plan, child_session_id, inherited, total_cost
from amplifier_app_api.bundles.preferences import InvalidPreference, prefer, prefer_existing

PARENT: dict[str, Any] = {
    "session": {"orchestrator": {"module": "loop", "config": {"steps": [1], "a": 1}}, "context": "ctx"},
    "providers": [{"module": "provider-x", "config": {"api_key": "k"}}],
    "tools": [{"module": "t1", "config": {"dirs": ["a"]}}, {"module": "t2"}],
    "agents": {"scout": {"description": "s"}, "scribe": {"description": "w"}},
}


def test_an_agent_replaces_lists_inside_options_and_adds_tools() -> None:
    child = child_plan(PARENT, {"tools": [{"module": "t1", "config": {"dirs": ["b"]}}, "t3"]})

    assert child["tools"] == [{"module": "t1", "config": {"dirs": ["b"]}}, {"module": "t2"}, {"module": "t3"}]
    assert child["session"] == PARENT["session"]


def test_a_child_cannot_change_its_parent() -> None:
    before = copy.deepcopy(PARENT)
    agent = {"session": {"orchestrator": {"config": {"b": []}}}}

    child = child_plan(PARENT, agent)
    child["session"]["orchestrator"]["config"]["b"].append("changed")
    child["tools"][0]["config"]["dirs"].append("changed")
    child["agents"]["scout"]["description"] = "changed"

    assert before == PARENT
    assert agent == {"session": {"orchestrator": {"config": {"b": []}}}}


@pytest.mark.parametrize(
    ("access", "names"),
    [("none", []), ("all", ["scout", "scribe"]), (["scribe", "ghost"], ["scribe"]), ({"x": {}}, ["scout", "scribe"])],
)
def test_an_agent_has_the_agents_it_declares(access: Any, names: list[str]) -> None:
    assert list(child_plan(PARENT, {"agents": access})["agents"]) == names


def test_spawn_says_which_tools_children_inherit() -> None:
    without = {**PARENT, "spawn": {"exclude_tools": ["t2"]}}
    only = {**PARENT, "spawn": {"tools": [{"module": "only"}], "exclude_tools": ["only"]}}

    assert [tool["module"] for tool in child_plan(without, {})["tools"]] == ["t1"]
    assert [tool["module"] for tool in child_plan(without, {"tools": ["t2"]})["tools"]] == ["t1", "t2"]
    assert [tool["module"] for tool in child_plan(only, {})["tools"]] == ["only"]


def test_one_call_may_narrow_what_is_inherited_but_not_what_the_agent_declares() -> None:
    assert inherited(PARENT, "tools", {"inherit_tools": []})["tools"] == []
    assert inherited(PARENT, "tools", {"inherit_tools": []}, ["t2"])["tools"] == [{"module": "t2"}]
    assert inherited(PARENT, "tools", {"exclude_tools": ["t1", "t2"]}, [{"module": "t2"}])["tools"] == [
        {"module": "t2"}
    ]
    assert inherited(PARENT, "hooks", {"exclude_hooks": ["h"]}) == PARENT


def test_the_id_of_a_child_carries_its_parent_and_its_agent() -> None:
    child = child_session_id("Tide Watcher!", parent_session_id="0123456789abcdef-fedcba9876543210_b")

    assert re.fullmatch(r"fedcba9876543210-[0-9a-f]{16}_tide-watcher", child)
    assert child_session_id("a") != child_session_id("a")


def test_cost_is_added_exactly_and_what_is_no_amount_does_not_count() -> None:
    amounts = [{"cost_usd": "0.10"}, {"cost_usd": 0.2}, {"cost_usd": "nan"}, {"cost_usd": True}, {"cost_usd": []}, None]

    assert total_cost(amounts) == Decimal("0.30")
    assert total_cost([{"cost_usd": "unknown"}]) is None


def test_a_preference_cannot_say_where_a_key_goes() -> None:
    wanted = {"provider": "x", "model": "m", "config": {"base_url": "http://evil", "api_key": "e", "temperature": 1}}

    assert prefer(PARENT, [wanted])["providers"] == [
        {
            "module": "provider-x",
            "config": {"api_key": "k", "temperature": 1, "priority": 0, "default_model": "m"},
        }
    ]
    assert "temperature" not in str(PARENT)


@pytest.mark.parametrize("preference", [{"provider": "x"}, {"model": "m"}, {"provider": "", "model": "m"}])
def test_a_preference_names_a_provider_and_a_model(preference: dict[str, Any]) -> None:
    with pytest.raises(InvalidPreference):
        prefer(PARENT, [preference])


async def test_a_pattern_takes_the_last_of_the_models_there_are_and_else_the_next_preference() -> None:
    async def models(entry: Mapping[str, Any]) -> Sequence[str]:
        return ["m-1", "m-3", "M-2", "z"] if entry["module"] == "provider-x" else []

    async def chosen(*wanted: str) -> Any:
        plan = await prefer_existing(PARENT, [{"provider": "x", "model": model} for model in wanted], models)
        return plan["providers"][0]["config"].get("default_model")

    assert await chosen("m-*") == "m-3"
    assert await chosen("q-*", "Z") == "Z"
    assert await chosen("q-*") is None
