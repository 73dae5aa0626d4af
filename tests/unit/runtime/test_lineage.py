"""The layers between a root's plan and a child's."""

from typing import Any

import pytest

from amplifier_app_api.bundles import Bundle, MissingVariables, VariableScope, expand
from amplifier_app_api.runtime.lineage import (
    Layer,
    Lineage,
    as_written,
    instruction_in,
    literal,
    overlay_of_bundle,
    with_literal_options,
)

ROOT: dict[str, Any] = {
    "session": {"orchestrator": {"module": "loop-basic", "config": {"a": 1}}, "context": {"module": "context-simple"}},
    "providers": [{"module": "provider-x", "config": {"key": "${KEY}"}}, {"module": "provider-y"}],
    "tools": [{"module": "tool-a"}, {"module": "tool-b"}],
    "hooks": [{"module": "hook-a"}],
    "agents": {"scout": {"description": "s"}},
}


def test_a_lineage_comes_back_from_its_row_as_it_was() -> None:
    lineage = Lineage().below(Layer(agent="a", overlay={"tools": ["tool-c"]})).below(Layer(agent="self", self_depth=1))

    assert Lineage.of_json(lineage.as_json()) == lineage
    assert (lineage.self_depth, Lineage().self_depth) == (1, 0)


def test_each_layer_is_laid_over_the_plan_of_the_one_above() -> None:
    first = Layer(agent="a", overlay={"description": "not of the plan", "tools": [{"module": "tool-c"}]})
    second = Layer(
        agent="b",
        tools={"exclude_tools": ["tool-a", "tool-c"]},
        hooks={"inherit_hooks": []},
        orchestrator={"b": 2},
        preference={"provider": "y", "model": "m"},
        metadata={"agent_name": "b"},
        further={"later": {"description": "l"}},
    )

    plan = Lineage((first, second)).plan(ROOT)

    assert [entry["module"] for entry in plan["tools"]] == ["tool-b"]
    assert plan["hooks"] == []
    assert plan["session"]["orchestrator"]["config"] == {"a": 1, "b": 2}
    assert plan["session"]["metadata"] == {"agent_name": "b"}
    assert plan["providers"][1]["config"] == {"priority": 0, "default_model": "m"}
    assert set(plan["agents"]) == {"scout", "later"}
    assert "description" not in plan
    assert ROOT["session"]["orchestrator"]["config"] == {"a": 1}


def test_what_an_agent_declares_itself_is_not_taken_from_it() -> None:
    layer = Layer(agent="a", overlay={"tools": [{"module": "tool-a"}]}, tools={"exclude_tools": ["tool-a", "tool-b"]})

    assert [entry["module"] for entry in layer.over(ROOT)["tools"]] == ["tool-a"]


def test_options_from_a_running_module_name_no_variables() -> None:
    scope = VariableScope({"KEY": "of the session"}, {"SECRET": "of the server"}, ("SECRET",))
    said = {"providers": [{"module": "provider-x", "config": {"note": "${SECRET} and $${X}"}}]}

    plan = expand(Layer(agent="a", overlay=with_literal_options(said)).over(ROOT), scope)

    assert plan["providers"][0]["config"] == {"key": "of the session", "note": "${SECRET} and $${X}"}
    with pytest.raises(MissingVariables):
        expand(Layer(agent="a", overlay={"tools": [{"module": "t", "config": {"n": "${NOBODY}"}}]}).over(ROOT), scope)


def test_only_options_are_made_literal() -> None:
    agent = {"instruction": "say ${X}", "tools": [{"module": "t", "source": "/${X}", "config": {"deep": ["${X}"]}}]}

    assert with_literal_options(agent) == {
        "instruction": "say ${X}",
        "tools": [{"module": "t", "source": "/${X}", "config": {"deep": ["$${X}"]}}],
    }
    assert literal({"a": ("${X}", 1, None)}) == {"a": ["$${X}", 1, None]}


def test_a_definition_keeps_the_variables_of_the_document_where_nobody_changed_it() -> None:
    written = {"tools": [{"module": "t", "config": {"key": "${KEY}"}}], "description": "d"}
    filled_in = {"tools": [{"module": "t", "config": {"key": "secret"}}], "description": "d"}
    given = {**filled_in, "hooks": [{"module": "h", "config": {"x": "${KEY}"}}]}

    kept = as_written(given, filled_in, written)

    assert kept["tools"] == written["tools"]
    assert kept["hooks"] == [{"module": "h", "config": {"x": "$${KEY}"}}]


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"instruction": "a", "system": {"instruction": "b"}}, "a"),
        ({"system": {"instruction": "b"}}, "b"),
        ({"system": "no mapping"}, None),
        ({"instruction": ""}, None),
    ],
)
def test_the_instruction_of_an_agent_is_at_its_top_or_below_system(agent: dict[str, Any], said: str | None) -> None:
    assert instruction_in(agent) == said


def test_a_bundle_serves_as_an_agent() -> None:
    bundle = Bundle.from_data({"bundle": {"name": "b"}, "tools": [{"module": "tool-c"}]}, instruction="Do it.")

    assert overlay_of_bundle(bundle) == {"tools": [{"module": "tool-c"}], "instruction": "Do it."}
