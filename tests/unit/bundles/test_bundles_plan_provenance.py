"""Where each value of a mount plan was written, through every way of composing."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplifier_app_api.bundles import Sources, dump_yaml, parse_yaml
from amplifier_app_api.bundles.document import Document
from amplifier_app_api.bundles.includes import load_document
from amplifier_app_api.bundles.mount_plan import kernel_plan
from amplifier_app_api.bundles.provenance import origins
from amplifier_app_api.bundles.tracing import trace
from amplifier_app_api.bundles.values import is_list, is_mapping, pointer, pointer_parts, same
from amplifier_app_api.models.plan import Origin


def read(text: str) -> Document:
    return Document(text, parse_yaml(text))


def traced(text: str, *roots: Path) -> tuple[dict[str, Any], dict[str, Origin]]:
    """The mount plan of a document and the origins of its values."""
    document, sources = read(text), Sources(roots=roots)
    plan = kernel_plan(load_document(document, sources).bundle)
    return plan, origins(plan, trace(document, sources).plan)


def short(found: dict[str, Origin]) -> dict[str, tuple[str, int | None]]:
    return {at: (" > ".join(origin.includes) or "here", origin.line) for at, origin in found.items()}


def leaves(value: Any, *at: str | int) -> dict[str, Any]:
    if is_mapping(value):
        return {place: leaf for key, item in value.items() for place, leaf in leaves(item, *at, key).items()}
    if is_list(value):
        return {place: leaf for index, item in enumerate(value) for place, leaf in leaves(item, *at, index).items()}
    return {pointer(*at): value}


def looked_up(data: Any, at: str) -> Any:
    for part in pointer_parts(at):
        data = data[int(part)] if is_list(data) else data[part]
    return data


def test_each_value_of_a_merged_module_has_the_line_it_was_written_in(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "bundle: {name: base}\n"
        "providers:\n"
        "  - module: p\n"
        "    config:\n"
        "      model: small\n"
        "      retries: 1\n"
        "      tags: [a, b]\n"
    )
    text = (
        f"includes: ['{tmp_path}/base.yaml']\n"
        "providers:\n"
        "  - module: p\n"
        "    config:\n"
        "      model: large\n"
        "      tags: [b, c]\n"
    )

    plan, found = traced(text, tmp_path)

    base = f"{tmp_path}/base.yaml"
    assert plan["providers"] == [{"module": "p", "config": {"model": "large", "retries": 1, "tags": ["a", "b", "c"]}}]
    assert short(found) == {
        "/providers/0/module": ("here", 3),
        "/providers/0/config/model": ("here", 5),
        "/providers/0/config/retries": (base, 6),
        "/providers/0/config/tags/0": (base, 7),
        "/providers/0/config/tags/1": (base, 7),
        "/providers/0/config/tags/2": ("here", 6),
    }


def test_an_included_document_is_named_by_the_whole_way_to_it(tmp_path: Path) -> None:
    (tmp_path / "outer.yaml").write_text("bundle: {name: outer}\nincludes: [./inner.md]\n")
    (tmp_path / "inner.md").write_text("---\nbundle: {name: inner}\n\ntools:\n  - module: t\n---\nBe brief.\n")

    _, found = traced(f"includes: ['{tmp_path}/outer.yaml']\n", tmp_path)

    assert found == {
        "/tools/0/module": Origin(
            document="inner", includes=[f"{tmp_path}/outer.yaml", "./inner.md"], pointer="/tools/0/module", line=5
        )
    }


def test_what_an_alias_or_a_merge_key_brings_has_the_line_it_was_written_in() -> None:
    text = (
        "defaults: &defaults\n"
        "  model: small\n"
        "  retries: 1\n"
        "providers:\n"
        "  - module: p\n"
        "    config:\n"
        "      <<: *defaults\n"
        "      retries: 2\n"
    )

    _, found = traced(text)

    assert short(found) == {
        "/providers/0/module": ("here", 5),
        "/providers/0/config/model": ("here", 2),
        "/providers/0/config/retries": ("here", 8),
    }


def test_an_instance_id_that_is_filled_in_comes_from_the_id() -> None:
    plan, found = traced("providers:\n  - {module: p, id: one}\n  - {module: p, id: two}\n")

    assert plan["providers"][1]["instance_id"] == "two"
    assert found["/providers/1/instance_id"].pointer == "/providers/1/id"


def test_what_an_agent_has_from_its_file_is_written_there(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "scout.md").write_text(
        "---\nmeta:\n  name: scout\n  description: Looks around.\ntools:\n  - module: t\n---\n\nLook twice.\n"
    )
    (tmp_path / "bundle.yaml").write_text("bundle: {name: base}\nagents:\n  include: ['base:scout']\n")

    plan, found = traced(f"includes: ['{tmp_path}']\n", tmp_path)

    agent = plan["agents"]["base:scout"]
    assert (agent["description"], agent["instruction"]) == ("Looks around.", "Look twice.")
    at = "/agents/base:scout"
    assert {place: (origin.document, origin.pointer, origin.line) for place, origin in found.items()} == {
        f"{at}/name": ("base", "/agents/include/0", 3),
        f"{at}/description": ("agents/scout.md", "/meta/description", 4),
        f"{at}/tools/0/module": ("agents/scout.md", "/tools/0/module", 6),
        f"{at}/instruction": ("agents/scout.md", "", 9),
    }


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["", "a", "b", "1", "~"]))
OPTIONS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["k", "l", "a/b"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"module": st.sampled_from(["m", "n"])},
        optional={"id": st.sampled_from(["x", "y"]), "config": st.dictionaries(st.sampled_from("kl"), OPTIONS)},
    ),
    max_size=3,
)
SECTIONS = st.fixed_dictionaries(
    {"providers": ENTRIES, "tools": ENTRIES},
    optional={
        "session": st.fixed_dictionaries(
            {
                "orchestrator": st.one_of(
                    st.just("loop"), st.fixed_dictionaries({"module": st.just("loop"), "x": OPTIONS})
                )
            }
        ),
        "spawn": st.dictionaries(st.sampled_from("st"), OPTIONS, max_size=2),
        "agents": st.dictionaries(
            st.sampled_from(["one", "two"]), st.fixed_dictionaries({"name": SCALARS, "x": OPTIONS})
        ),
    },
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.tuples(SECTIONS, SECTIONS, SECTIONS, SECTIONS))
def test_every_value_of_a_plan_is_what_stands_at_its_origin(tmp_path: Path, layers: tuple[Any, ...]) -> None:
    entry, left, right, shared = layers
    # A diamond: both included bundles include the shared one.
    includes = {"left": ["./shared.yaml"], "right": ["./shared.yaml"], "shared": []}
    documents: dict[str, Any] = {"": entry}
    for name, sections in (("left", left), ("right", right), ("shared", shared)):
        documents[name] = {"bundle": {"name": name}, "includes": includes[name], **sections}
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(documents[name]))
    text = dump_yaml({"includes": [f"{tmp_path}/left.yaml", f"{tmp_path}/right.yaml"], **entry})

    plan, found = traced(text, tmp_path)

    values = leaves(plan)
    assert found.keys() == values.keys()
    for at, origin in found.items():
        name = Path(origin.includes[-1]).stem if origin.includes else ""
        assert same(looked_up(documents[name], origin.pointer or ""), values[at])


def test_a_value_that_changed_between_the_two_walks_has_no_origin() -> None:
    plan, found = {"tools": [{"module": "old", "id": 1}]}, trace(read("tools: [{module: new, id: 1}]\n"), Sources())

    assert list(origins(plan, found.plan)) == ["/tools/0/id"]


@pytest.mark.parametrize("value", ["1", "true", "~", "x", "1.0", "'1'"])
def test_a_list_that_grows_keeps_values_of_different_types_apart(tmp_path: Path, value: str) -> None:
    (tmp_path / "base.yaml").write_text("bundle: {name: b}\nspawn: {list: [1, true, null, x, 1.0, '1']}\n")

    plan, found = traced(f"includes: ['{tmp_path}/base.yaml']\nspawn: {{list: [{value}]}}\n", tmp_path)

    assert len(plan["spawn"]["list"]) == 6
    assert {origin.document for origin in found.values()} == {"b"}
