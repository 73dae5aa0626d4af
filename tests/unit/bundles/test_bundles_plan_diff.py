"""What two revisions do not share, as text and as plans."""

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.bundles import parse_yaml
from amplifier_app_api.bundles.diff import Composed, differences, unified_lines
from amplifier_app_api.models.plan import Origin, Plan

NAMES = ("revision 1", "revision 2")


def composed(text: str, **provenance: str) -> Composed:
    plan = Plan(
        storable=True,
        runnable=True,
        provenance={at.replace("_", "/"): Origin(document=name) for at, name in provenance.items()},
    )
    return Composed(plan, parse_yaml(text))


def changes(before: str, after: str) -> list[tuple[str, str, object, object]]:
    found = differences(composed(before), composed(after))
    return [(one.pointer, one.change, one.before, one.after) for one in found]


def test_equal_texts_have_no_diff() -> None:
    assert unified_lines("a\nb\n", "a\nb\n", NAMES) == []


def test_texts_that_differ_in_line_ends_alone_say_so() -> None:
    assert unified_lines("a\n", "a\r\n", NAMES) == ["--- revision 1", "+++ revision 2", "\\ Only line ends differ"]


LINES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=30)


@given(LINES, LINES)
def test_a_patch_of_the_lines_leads_from_one_text_to_the_other(old: list[str], new: list[str]) -> None:
    lines = unified_lines("\n".join(old), "\n".join(new), NAMES)

    assert applied(old, lines) == new


def applied(old: list[str], lines: list[str]) -> list[str]:
    """What a patch program makes of it."""
    result: list[str] = []
    at = 0
    for line in lines[2:]:
        if line.startswith("@@"):
            start, _, size = line.split()[1].lstrip("-").partition(",")
            begin = int(start) - (size != "0")
            result += old[at:begin]
            at = begin
        elif line[0] == "+":
            result.append(line[1:])
        else:
            assert old[at] == line[1:]
            result += [old[at]] if line[0] == " " else []
            at += 1
    return result + old[at:]


def test_the_lines_are_those_of_the_standard_library() -> None:
    old = [f"line {number}" for number in range(40)]
    new = [*old[:5], "new", *old[5:20], *old[22:38], "end"]

    ours = unified_lines("\n".join(old), "\n".join(new), NAMES)

    assert ours == list(difflib.unified_diff(old, new, *NAMES, lineterm=""))


def test_texts_that_share_nothing_are_not_compared_line_by_line() -> None:
    # Each of a few lines thousands of times: aligning these takes minutes.
    old, new = "\n".join(["a", "b"] * 20_000), "\n".join(["c", *["b", "a"] * 20_000, "d"])

    assert unified_lines(old, new, NAMES)[2] == "@@ -1,40000 +1,40002 @@"


def test_options_that_changed_are_told_one_by_one() -> None:
    before = "providers: [{module: p, config: {model: a, top: 1, list: [1, 2]}}]"
    after = "providers: [{module: p, config: {model: b, list: [1, 3], new: null}}]"

    assert changes(before, after) == [
        ("/providers/0/config/model", "changed", "a", "b"),
        ("/providers/0/config/list/1", "changed", 2, 3),
        ("/providers/0/config/new", "added", None, None),
        ("/providers/0/config/top", "removed", 1, None),
    ]


def test_modules_meet_by_what_they_are_and_not_by_where_they_stand() -> None:
    before = "tools: [{module: a}, {module: b, config: {n: 1}}, {module: c}]"
    after = "tools: [{module: new}, {module: b, config: {n: 2}}, {module: a}]"

    assert changes(before, after) == [
        ("/tools/0", "added", None, {"module": "new"}),
        ("/tools/1/config/n", "changed", 1, 2),
        ("/tools/2", "removed", {"module": "c"}, None),
    ]


@pytest.mark.parametrize(("before", "after"), [("1", "true"), ("1", "1.0"), ("1", "'1'"), ("null", "'null'")])
def test_values_of_another_type_are_a_difference(before: str, after: str) -> None:
    assert len(changes(f"spawn: {{a: {before}}}", f"spawn: {{a: {after}}}")) == 1


def test_a_secret_that_changed_is_a_difference_and_neither_is_shown() -> None:
    before = "providers: [{module: p, config: {api_key: sk-old}}]"
    after = "providers: [{module: p, config: {api_key: sk-new}}]"

    assert changes(before, after) == [("/providers/0/config/api_key", "changed", "***", "***")]


def test_a_difference_has_the_origin_of_what_is_new_or_was_removed() -> None:
    before = composed("spawn: {a: 1, b: {c: 2}}", _spawn_a="old", _spawn_b_c="gone")
    after = composed("spawn: {a: 2}", _spawn_a="new")

    found = differences(before, after)

    assert [(one.pointer, one.origin and one.origin.document) for one in found] == [
        ("/spawn/a", "new"),
        ("/spawn/b", "gone"),
    ]
