"""Laws of composition that hold whatever the bundles are."""

import copy
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.bundles.bundle import Bundle
from amplifier_app_api.bundles.compose import compose, deep_merge, merge_modules
from amplifier_app_api.bundles.delegation import child_plan, overlaid
from amplifier_app_api.bundles.mount_plan import kernel_plan, mount_plan
from amplifier_app_api.bundles.values import fingerprint_of, same

# The name of a key says what it holds, as in real options. Where a key holds a list here and a text there, the
# way of merging depends on who meets whom first, and no law could hold.
scalars = st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 1, width=16) | st.sampled_from(["a", "b", "1"])
lists = st.lists(scalars | st.fixed_dictionaries({"k": scalars}), max_size=3, unique_by=fingerprint_of)
options = st.recursive(
    st.fixed_dictionaries({}, optional={"s1": scalars, "s2": scalars, "l1": lists, "l2": lists}),
    lambda inner: st.fixed_dictionaries({}, optional={"s1": scalars, "l1": lists, "m1": inner, "m2": inner}),
    max_leaves=3,
)
entries = st.fixed_dictionaries(
    {"module": st.sampled_from(["t", "u", "v"])},
    optional={"source": st.sampled_from(["x", "y"]), "config": options},
)
module_lists = st.lists(entries, max_size=3, unique_by=lambda entry: entry["module"])
agents = st.dictionaries(st.sampled_from(["scout", "ns:scout", "scribe"]), options, max_size=2)


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    name = draw(st.sampled_from(["one", "two", "three"]))
    data: dict[str, Any] = {
        "bundle": {
            "name": name,
            "version": draw(st.sampled_from(["1", "2", ""])),
            "description": draw(st.text(max_size=1)),
        },
        "session": draw(options),
        "providers": draw(module_lists),
        "tools": draw(module_lists),
        "hooks": draw(module_lists),
        "agents": draw(agents),
        "spawn": draw(options),
        "context": {"include": draw(st.lists(st.sampled_from(["a.md", "b.md", "one:c.md", "two:c.md"]), max_size=3))},
    }
    instruction = draw(st.none() | st.sampled_from(["go", "stop"]))
    return Bundle.from_data(data, folder=Path("/bundles", name), instruction=instruction)


def shown(bundle: Bundle) -> object:
    """Everything of a bundle, order included where the format gives it a meaning."""
    fields = {name: getattr(bundle, name) for name in bundle.__slots__ if name != "includes"}
    ordered = {name: list(fields[name]) for name in ("context", "pending_context", "agents")}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return fingerprint_of({"fields": plain, "ordered": ordered})


@given(bundles(), bundles(), bundles())
def test_how_bundles_are_grouped_does_not_matter(a: Bundle, b: Bundle, c: Bundle) -> None:
    assert shown(compose(compose(a, b), c)) == shown(compose(a, compose(b, c))) == shown(compose(a, b, c))


@given(bundles(), bundles())
def test_an_include_that_stands_twice_counts_once(a: Bundle, own: Bundle) -> None:
    assert shown(compose(a, a, own)) == shown(compose(a, own))


@given(bundles(), bundles())
def test_the_includer_wins_and_nothing_is_lost(a: Bundle, own: Bundle) -> None:
    result = compose(a, own)

    assert (result.name, result.folder) == (own.name, own.folder)
    assert {entry["module"] for entry in result.tools} == {entry["module"] for entry in (*a.tools, *own.tools)}
    assert set(result.agents) == {*a.agents, *own.agents}
    assert all(same(result.agents[name], own.agents[name]) for name in own.agents)


@given(bundles(), bundles())
def test_composing_changes_neither_side(a: Bundle, b: Bundle) -> None:
    before = copy.deepcopy((a, b))

    plan = kernel_plan(compose(a, b))
    _write_into(plan)

    assert [shown(bundle) for bundle in before] == [shown(a), shown(b)]


def _write_into(value: Any) -> None:
    for item in list(value.values()) if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _write_into(item)
    value.clear()


@given(bundles(), bundles())
def test_a_plan_holds_what_the_bundle_holds(a: Bundle, b: Bundle) -> None:
    composed = compose(a, b)

    plan = mount_plan(composed)

    assert set(plan) <= {"session", "providers", "tools", "hooks", "agents", "spawn"}
    assert same(plan.get("tools", []), list(composed.tools))
    assert all(plan.values())


@given(options, options)
def test_merging_again_changes_nothing(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    merged = deep_merge(earlier, later)

    assert same(deep_merge(merged, later), merged)
    assert same(deep_merge({}, later), later)
    assert same(deep_merge(later, {}), later)


@given(module_lists, module_lists)
def test_modules_keep_the_place_they_had_first(earlier: list[Any], later: list[Any]) -> None:
    merged = [entry["module"] for entry in merge_modules(earlier, later)]

    first = [entry["module"] for entry in earlier]
    assert merged == first + [entry["module"] for entry in later if entry["module"] not in first]


@given(options, options, options)
def test_an_overlay_replaces_what_it_names_and_leaves_the_rest(
    parent: dict[str, Any], one: dict[str, Any], two: dict[str, Any]
) -> None:
    before = copy.deepcopy((parent, one, two))

    assert same(overlaid(overlaid(parent, one), two), overlaid(parent, overlaid(one, two)))
    assert same(overlaid(parent, {}), parent)
    assert same(list(before), [parent, one, two])


@given(bundles(), bundles())
def test_a_childs_plan_shares_nothing_with_its_parents(parent: Bundle, agent: Bundle) -> None:
    plan, overlay = mount_plan(parent), mount_plan(agent)
    before = copy.deepcopy([plan, overlay])

    _write_into(child_plan(plan, overlay))

    assert same(before, [plan, overlay])
