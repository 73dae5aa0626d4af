from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplifier_app_api.bundles import (
    Edit,
    InvalidDocument,
    ModuleExists,
    add_include,
    add_module,
    parse_document,
    parse_yaml,
)
from amplifier_app_api.errors import Conflict

ENTRY = {"module": "tool-new", "source": "/srv/new", "config": {"key": "${KEY}", "on": "yes", "text": "two\nlines\n"}}


def only_gained(before: str, after: str) -> bool:
    """Whether the second text is the first with something inserted in one place."""
    gained = len(after) - len(before)
    start = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before))
    return gained > 0 and any(after[:at] + after[at + gained :] == before for at in range(start + 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bundle: {name: x}\n", "bundle: {name: x}\ntools:\n  - module: a\n"),
        ("bundle: {name: x}", "bundle: {name: x}\ntools:\n  - module: a\n"),
        ("bundle: {name: x}\n# the end\n", "bundle: {name: x}\n# the end\ntools:\n  - module: a\n"),
        ("bundle: {name: x}\n...\n", "bundle: {name: x}\ntools:\n  - module: a\n...\n"),
        ("{bundle: {name: x}}\n", "{bundle: {name: x}, tools: [{module: a}]}\n"),
        ("tools: # none yet\nbundle: {name: x}\n", "tools: # none yet\n  - module: a\nbundle: {name: x}\n"),
        ("bundle: {name: x}\ntools:", "bundle: {name: x}\ntools:\n  - module: a\n"),
        ("tools: [] # none\nbundle: {name: x}\n", "tools: [{module: a}] # none\nbundle: {name: x}\n"),
        ("tools: [ {module: b}, ]\nbundle: {name: x}\n", "tools: [ {module: b}, {module: a}, ]\nbundle: {name: x}\n"),
        (
            "tools:\n- module: b   # why\n\n# next\nbundle: {name: x}\n",
            "tools:\n- module: b   # why\n- module: a\n\n# next\nbundle: {name: x}\n",
        ),
        (
            "tools:\n    - module: b\n      # about b\n\nbundle: {name: x}\n",
            "tools:\n    - module: b\n      # about b\n    - module: a\n\nbundle: {name: x}\n",
        ),
        (
            "tools:\r\n  - module: 'b'\r\nbundle: {name: x}\r\n",
            "tools:\r\n  - module: 'b'\r\n  - module: a\r\nbundle: {name: x}\r\n",
        ),
        (
            "---\nbundle: {name: x}\n---\n\nBody: [\n",
            "---\nbundle: {name: x}\ntools:\n  - module: a\n---\n\nBody: [\n",
        ),
        (
            "\ufeff---\r\nbundle: {name: x}\r\n---\r\nBody\r\n",
            "\ufeff---\r\nbundle: {name: x}\r\ntools:\r\n  - module: a\r\n---\r\nBody\r\n",
        ),
        (
            "---\nbundle:\n  name: x\n  description: |\n    one\n---\nBody\n",
            "---\ntools:\n  - module: a\nbundle:\n  name: x\n  description: |\n    one\n---\nBody\n",
        ),
    ],
)
def test_an_entry_is_inserted_and_every_other_byte_stays(text: str, expected: str) -> None:
    assert add_module(text, "tools", {"module": "a"}) == Edit(expected, "inserted")


@pytest.mark.parametrize("nothing", ["~", "null", '""', "[ ]", "{}"])
def test_what_stands_for_an_empty_list_becomes_one(nothing: str) -> None:
    text = f"bundle: {{name: x}}\ntools: {nothing} # nothing\nhooks: []\n"

    edit = add_module(text, "tools", ENTRY)

    assert parse_yaml(edit.text) == {"bundle": {"name": "x"}, "tools": [ENTRY], "hooks": []}
    assert "# nothing" in edit.text or edit.how == "redumped"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("bundle: {name: x}\ntools: &shared\n  - module: b\nhooks: *shared\n", id="a shared list"),
        pytest.param("base: &b\n  tools: [{module: b}]\n<<: *b\nbundle: {name: x}\n", id="a merged list"),
    ],
)
def test_where_no_insertion_can_be_proven_the_yaml_is_written_anew(text: str) -> None:
    before = parse_yaml(text)

    edit = add_module(text, "tools", ENTRY)

    assert edit.how == "redumped"
    assert parse_yaml(edit.text) == {**before, "tools": [*before["tools"], ENTRY]}


def test_a_rewritten_header_leaves_the_body_alone() -> None:
    edit = add_module("---\ntools: &t [{module: b}]\nhooks: *t\n---\n\n Body \n", "tools", {"module": "a"})

    assert edit.how == "redumped"
    assert edit.text.endswith("---\n\n Body \n")
    assert parse_document(edit.text).data["hooks"] == [{"module": "b"}]


@pytest.mark.parametrize("section", ["tools", "providers", "hooks"])
def test_an_identity_that_is_there_is_a_conflict(section: str) -> None:
    text = f"{section}:\n  - module: a\n    id: one\n  - module: b\n"

    with pytest.raises(ModuleExists, match="b") as refused:
        add_module(text, section, {"module": "b", "config": {}})
    assert isinstance(refused.value, Conflict)
    assert refused.value.code == "module_exists"
    with pytest.raises(ModuleExists):
        add_module(text, section, {"module": "other", "id": "one"})
    assert add_module(text, section, {"module": "a"}).how == "inserted"
    assert add_module(text, section, {"module": "b", "id": "two"}).how == "inserted"


def test_replace_merges_into_the_entry_and_keeps_the_comments_around_it() -> None:
    text = "# top\ntools:\n  # about a\n  - module: a\n    config: {dirs: [x], deep: {k: 1}}\n  - module: b # b\n"

    edit = add_module(text, "tools", {"module": "a", "config": {"dirs": ["y"], "deep": {"l": 2}}}, replace=True)

    assert parse_yaml(edit.text)["tools"] == [
        {"module": "a", "config": {"dirs": ["x", "y"], "deep": {"k": 1, "l": 2}}},
        {"module": "b"},
    ]
    assert edit.how == "redumped"
    assert [comment in edit.text for comment in ("# top", "# about a", "# b")] == [True] * 3


def test_replace_in_a_flow_list_writes_only_that_entry() -> None:
    edit = add_module("tools: [{module: a}, {module: b}] # list\n", "tools", {"module": "a", "id": None}, replace=True)

    assert edit.text == "tools: [{module: a, id: null}, {module: b}] # list\n"


def test_replace_that_changes_nothing_leaves_the_text() -> None:
    text = "tools: [{module:   a}]\n"

    assert add_module(text, "tools", {"module": "a"}, replace=True) == Edit(text, "inserted")


def test_replace_of_what_is_not_there_adds_it() -> None:
    assert add_module("bundle: {name: x}\n", "hooks", {"module": "h"}, replace=True).how == "inserted"


@pytest.mark.parametrize("entry", [{}, {"module": ""}, {"module": 3}])
def test_an_entry_must_name_its_module(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        add_module("bundle: {name: x}\n", "tools", entry)


def test_a_section_that_is_no_list_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="must be a list"):
        add_module("tools: text\n", "tools", {"module": "a"})


def test_an_include_is_appended_as_the_predecessors_wrote_it() -> None:
    text = "bundle: {name: x}\n\nincludes:\n  - bundle: foundation # the base\n"

    edit = add_include(text, "file:///srv/x")

    assert edit == Edit(f"{text}  - bundle: file:///srv/x\n", "inserted")


@pytest.mark.parametrize("form", ["foundation", "{bundle: foundation}", "'foundation'"])
def test_a_bundle_that_is_included_already_is_a_conflict_unless_replaced(form: str) -> None:
    text = f"includes: [{form}]\n"

    with pytest.raises(ModuleExists):
        add_include(text, "foundation")
    assert add_include(text, "foundation", replace=True) == Edit(text, "inserted")


@pytest.mark.parametrize("uri", ["", " "])
def test_an_include_must_name_something(uri: str) -> None:
    with pytest.raises(InvalidDocument):
        add_include("bundle: {name: x}\n", uri)


words = st.sampled_from(["alpha", "beta", "'quoted'", '"double"', "yes", "010", "~", "1.0", "x: y".replace(":", "-")])
comments = st.sampled_from(["", "", "  # note", " # tools: [a]", "# - module: no"])
blank = st.sampled_from(["", "", "\n", "# alone\n", "\n\n    # far\n"])
newlines = st.sampled_from(["\n", "\r\n"])


@st.composite
def block_entry(draw: st.DrawFn, number: int, indent: str) -> str:
    lines = [f"{indent}- module: m{number}{' ' if (note := draw(comments)).startswith('#') else ''}{note}"]
    if draw(st.booleans()):
        lines.append(f"{indent}  config:")
        lines.append(f"{indent}    key: {draw(words)}")
        if draw(st.booleans()):
            lines += [f"{indent}    text: |{draw(st.sampled_from(['', '-', '+']))}", f"{indent}      line", ""]
        if draw(st.booleans()):
            lines.append(f"{indent}    list: [1, {draw(words)}, {{a: b}}]")
    return "\n".join(lines) + "\n" + draw(blank)


@st.composite
def section(draw: st.DrawFn, name: str) -> str:
    shape = draw(st.sampled_from(["absent", "null", "flow", "empty", "block", "block", "block"]))
    note = draw(comments)
    note = f" {note}" if note.startswith("#") else note
    if shape == "absent":
        return ""
    if shape == "null":
        return f"{name}:{note}\n{draw(blank)}"
    if shape == "empty":
        return f"{name}: []{note}\n{draw(blank)}"
    if shape == "flow":
        return f"{name}: [{{module: m0}}, {{module: m1, config: {{k: {draw(words)}}}}}]{note}\n{draw(blank)}"
    indent = draw(st.sampled_from(["", "  ", "    "]))
    entries = [draw(block_entry(number, indent)) for number in range(draw(st.integers(1, 3)))]
    return f"{name}:{note}\n{draw(blank)}{''.join(entries)}"


@st.composite
def documents(draw: st.DrawFn) -> str:
    parts = ["bundle:\n  name: x # name\n", *(draw(section(name)) for name in ("providers", "tools", "hooks"))]
    text = draw(blank) + "".join(draw(st.permutations(parts)))
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    if draw(st.booleans()):
        text = f"---\n{text}\n---\n\nBody # not a comment\n"
    return text.replace("\n", draw(newlines))


@settings(max_examples=300, deadline=None)
@given(documents(), st.sampled_from(["providers", "tools", "hooks"]))
def test_every_commented_document_gains_one_entry_and_loses_nothing(text: str, section: str) -> None:
    before = parse_document(text)

    edit = add_module(text, section, ENTRY)

    after = parse_document(edit.text)
    assert after.data == {**before.data, section: [*(before.data.get(section) or []), ENTRY]}
    assert after.instruction == before.instruction
    assert edit.how == "redumped" or only_gained(text, edit.text)


@settings(max_examples=100, deadline=None)
@given(documents())
def test_a_document_without_text_blocks_is_never_written_anew(text: str) -> None:
    if "|" not in text:
        assert add_module(text, "tools", ENTRY).how == "inserted"
        assert add_include(text, "foundation").how == "inserted"
