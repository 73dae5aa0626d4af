import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.bundles import Bundle, InvalidDocument
from amplifier_app_api.bundles.compose import compose, deep_merge, merge_modules
from amplifier_app_api.bundles.mount_plan import kernel_plan, mount_plan


def bundle(folder: Path | None = None, instruction: str | None = None, **data: Any) -> Bundle:
    return Bundle.from_data(data, folder=folder, instruction=instruction)


def test_lists_grow_without_repeats_and_types_are_told_apart() -> None:
    assert deep_merge({"l": [1, "a", {"k": [1]}]}, {"l": [True, 1.0, "1", {"k": [1]}, "a", 1]}) == {
        "l": [1, "a", {"k": [1]}, True, 1.0, "1"]
    }


def test_a_later_null_wins_and_a_list_cannot_be_emptied() -> None:
    assert deep_merge({"a": {"x": 1}, "l": [1]}, {"a": None, "l": []}) == {"a": None, "l": [1]}


def test_modules_meet_by_id_or_else_by_module_in_the_earlier_place() -> None:
    earlier = [{"module": "p", "config": {"l": [1]}}, {"module": "p", "id": "two"}, {"source": "nameless"}]
    later = [{"module": "q"}, {"module": "p", "source": "s", "config": {"l": [2]}}]

    assert merge_modules(earlier, later) == [
        {"module": "p", "source": "s", "config": {"l": [1, 2]}},
        {"module": "p", "id": "two"},
        {"module": "q"},
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=10,
)
mappings = st.dictionaries(st.sampled_from("xyz"), values, max_size=3)


@given(mappings, mappings)
def test_merging_changes_neither_side_and_settles_once_lists_have_met(
    earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    kept = copy.deepcopy((earlier, later))

    once = deep_merge(earlier, later)

    assert (earlier, later) == kept
    assert deep_merge(deep_merge(once, later), later) == deep_merge(once, later)


def test_the_later_bundle_wins_field_by_field() -> None:
    base = bundle(
        Path("/b"),
        "base words",
        bundle={"name": "base", "version": "2.0", "description": "d"},
        session={"orchestrator": {"module": "loop", "config": {"x": 1}}, "context": "ctx"},
        agents={"include": ["scout"], "scribe": {"description": "old", "tools": []}},
        context={"include": ["n.md", "base:p.md"]},
        spawn={"exclude_tools": ["a"]},
    )
    top = bundle(
        bundle={"name": "top"},
        session={"orchestrator": {"config": {"y": 2}}},
        agents={"scribe": {"description": "new"}},
        context={"include": ["other:q.md"]},
        spawn={"exclude_tools": ["b", "a"]},
    )

    result = compose(base, top)

    assert (result.name, result.version, result.description) == ("top", "1.0.0", "d")
    assert result.session == {"orchestrator": {"module": "loop", "config": {"x": 1, "y": 2}}, "context": "ctx"}
    assert result.agents == {"scout": {"name": "scout"}, "scribe": {"description": "new"}}
    assert result.spawn == {"exclude_tools": ["a", "b"]}
    assert result.instruction == "base words"
    assert dict(result.context) == {"base:n.md": Path("/b/n.md")}
    assert dict(result.pending_context) == {"base:p.md": "base:p.md", "other:q.md": "other:q.md"}
    assert dict(result.namespaces) == {"base": Path("/b")}
    assert dict(result.resolve_context().context) == {"base:n.md": Path("/b/n.md"), "base:p.md": Path("/b/p.md")}


def test_the_first_bundle_that_claims_a_namespace_keeps_it() -> None:
    result = compose(bundle(Path("/one"), bundle={"name": "a"}), bundle(Path("/two"), bundle={"name": "a"}))

    assert dict(result.namespaces) == {"a": Path("/one")}
    assert result.folder == Path("/two")


def test_relative_sources_start_from_the_folder_of_their_document_everywhere() -> None:
    result = bundle(
        Path("/b/x"),
        tools=[{"module": "t", "source": "./m"}, {"module": "u", "source": "m"}],
        session={"orchestrator": {"module": "o", "source": "../o"}, "context": "c", "context_source": "./c"},
        agents={
            "scout": {
                "tools": [{"module": "t", "source": "./m"}],
                "session": {"context": {"module": "c", "source": "./c"}},
            }
        },
    )

    assert [entry["source"] for entry in result.tools] == ["/b/x/m", "m"]
    assert result.session["orchestrator"]["source"] == "/b/o"
    assert result.session["context_source"] == "/b/x/c"
    assert result.agents["scout"]["tools"][0]["source"] == "./m"
    assert [spec.source for spec in result.modules() if spec.agent == "scout"] == ["/b/x/c", "/b/x/m"]


@pytest.mark.parametrize("entry", [{"module": ["x"]}, {"module": "x", "id": {"a": "b"}}])
def test_an_identity_nothing_could_be_found_by_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        bundle(tools=[entry])


@pytest.mark.parametrize("section", ["context", "agents"])
def test_a_name_that_is_no_text_is_refused_where_bundles_are_composed_by_names(section: str) -> None:
    with pytest.raises(InvalidDocument):
        Bundle.from_data({section: {1: "x"}})


def test_the_plan_holds_only_what_is_there_and_shares_nothing_with_the_bundle() -> None:
    source = bundle(bundle={"name": "n"}, tools=[{"module": "t", "config": {"l": [1]}}], hooks=[], spawn={})

    plan = mount_plan(source)
    plan["tools"][0]["config"]["l"].append(2)

    assert plan == {"tools": [{"module": "t", "config": {"l": [1, 2]}}]}
    assert source.tools == ({"module": "t", "config": {"l": [1]}},)


def test_several_entries_of_one_provider_get_the_kernels_own_identity() -> None:
    source = bundle(
        providers=[
            {"module": "p", "id": "big"},
            {"module": "p", "id": "small", "instance_id": "mine"},
            {"module": "p"},
            {"module": "q", "id": "only"},
        ]
    )

    assert kernel_plan(source)["providers"] == [
        {"module": "p", "id": "big", "instance_id": "big"},
        {"module": "p", "id": "small", "instance_id": "mine"},
        {"module": "p"},
        {"module": "q", "id": "only"},
    ]


def test_a_bundle_lists_the_modules_it_mounts_whichever_way_they_are_written() -> None:
    source = bundle(
        session={"orchestrator": "o", "orchestrator_source": "/o", "context": {"module": "c"}},
        providers=[{"module": "p", "source": "/p"}],
        tools=[{"id": "x"}, {"module": "t", "config": "text"}, {"module": "u", "source": {"type": "git"}}],
    )

    assert [(spec.module, spec.kind, spec.source, spec.path, spec.flaw) for spec in source.modules()] == [
        ("o", "orchestrator", "/o", ("session", "orchestrator"), None),
        ("c", "context", None, ("session", "context"), None),
        ("p", "provider", "/p", ("providers", 0), None),
        ("", "tool", None, ("tools", 0), "An entry for a module of kind tool names no module."),
        ("t", "tool", None, ("tools", 1), "The config of t must be a mapping."),
        ("u", "tool", None, ("tools", 2), "The source of u must be a text."),
    ]
