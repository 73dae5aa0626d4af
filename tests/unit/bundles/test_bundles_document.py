import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.bundles import (
    DocumentLimits,
    DocumentTooComplex,
    InvalidDocument,
    InvalidYaml,
    dump_yaml,
    parse_document,
    parse_yaml,
)
from amplifier_app_api.bundles.document import parse_markdown
from amplifier_app_api.errors import Invalid

MERGE_BOMB = "a0: &a0 {k0: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}], k{i}: v}}\n" for i in range(1, 9)
)
ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
ALIAS_TOWER = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("- " * 50_000, id="100 KB of nested dashes"),
        pytest.param("[" * 200_000, id="nested brackets"),
        pytest.param("{" * 200_000, id="nested braces"),
        pytest.param("? " * 100_000, id="nested complex keys"),
        pytest.param(MERGE_BOMB, id="merge bomb"),
        pytest.param(ALIAS_BOMB, id="alias bomb"),
        pytest.param(ALIAS_TOWER, id="aliases that nest without nesting"),
        pytest.param(
            f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 40_000)}]\n", id="a long text forty thousand times"
        ),
        pytest.param("n: " + "9" * 200_000, id="a number of 200,000 digits"),
        pytest.param("n: 1" + ":01" * 100_000, id="a number to the base of sixty"),
        pytest.param("n: !!int '" + "9" * 5_000 + "'", id="a quoted number with a tag"),
        pytest.param("a: " + "x" * (1 << 20), id="more than a mebibyte"),
        pytest.param("[" + "1," * 50_001 + "]", id="too many values"),
    ],
)
def test_hostile_yaml_is_refused_as_too_complex_before_anything_is_built(text: str) -> None:
    with pytest.raises(DocumentTooComplex) as refused:
        parse_yaml(text)

    assert refused.value.code == "document_too_complex"
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bundle: {name: x\ntools: [\n", 2),
        ("a: 1\nb: 2\na: 3\n", 3),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: &x [*x]\n", 1),
        ("a: 1\nb: *nobody\n", 2),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2),
        ("a: 1\nb: 2024-99-99\n", 2),
        ("a: 1\nb: !!int ''\n", 2),
        ("a: 1\nb: !!bool maybe\n", 2),
        ("a: 1\nb: !!timestamp soon\n", 2),
        ("? [1]\n: 2\n", 1),
        ("a:\n\t- b\n", 2),
        ("&a a: 1\n*a : 2\n", 2),
        ("- a\n- b\n", 1),
        ("just words\n", 1),
        ("a: \x00\n", 1),
        ('a: 1\nb: "\\0"\n', 2),
        ("a: 1\nb: \ud800\n", 2),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidYaml, match=r"^Invalid YAML: ") as refused:
        parse_yaml(text)

    assert isinstance(refused.value, ValueError)
    assert [(item.code, item.line) for item in refused.value.items] == [("invalid_yaml", line)]


def test_a_refusal_never_repeats_more_than_a_piece_of_the_text() -> None:
    with pytest.raises(InvalidYaml) as refused:
        parse_yaml(f"{'k' * 5_000}: 1\n{'k' * 5_000}: 2\n")

    assert len(refused.value.detail) < 200


def test_limits_can_be_set() -> None:
    with pytest.raises(DocumentTooComplex, match="the limit is 3"):
        parse_yaml("a: 1", DocumentLimits(max_bytes=3))
    with pytest.raises(DocumentTooComplex, match="deeper than 2"):
        parse_yaml("a: [[1]]", DocumentLimits(depth=2))
    assert parse_yaml("a: [1]", DocumentLimits(depth=2)) == {"a": [1]}


def test_a_long_text_of_digits_is_no_number_when_it_is_quoted() -> None:
    assert parse_yaml(f"a: '{'9' * 5_000}'") == {"a": "9" * 5_000}


def test_scalars_are_read_as_yaml_1_1() -> None:
    text = "a: yes\nb: off\nc: 010\nd: 1_000\ne: 12:30:45\nf: 2024-05-06\ng: 1.10\nh: ~\n"

    assert parse_yaml(text) == {
        "a": True,
        "b": False,
        "c": 8,
        "d": 1000,
        "e": 45045,
        "f": datetime.date(2024, 5, 6),
        "g": 1.1,
        "h": None,
    }


def test_anchors_and_merge_keys_are_expanded() -> None:
    assert parse_yaml("base: &b {x: 1}\nuse: {<<: *b, y: 2}\n") == {"base": {"x": 1}, "use": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "~", "\ufeff"])
def test_an_empty_text_holds_nothing(text: str) -> None:
    assert parse_yaml(text) == {}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63)
            | st.text(st.characters(codec="ascii"), max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_dumped_data_reads_back_as_the_same_or_is_refused(data: dict[str, object]) -> None:
    text = dump_yaml(data)
    try:
        assert parse_yaml(text) == data
    except Invalid as refusal:
        # YAML escapes of NUL, and the merge key, are texts a document cannot hold.
        assert "\\0" in text or "<<" in text, refusal


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_an_orderly_refusal(text: str) -> None:
    try:
        document = parse_document(text)
    except Invalid as refusal:
        assert refusal.items
    else:
        assert document.text == text
        assert "".join(document.yaml_part) == text


def test_a_yaml_document_has_no_instruction() -> None:
    document = parse_document("bundle: {name: x}\ninstruction: ignored\n")

    assert (document.kind, document.instruction) == ("yaml", None)


def test_the_markdown_body_is_the_instruction() -> None:
    document = parse_document("---\nbundle: {name: tide}\n---\n\n# Keeper\n\nWatch.\n\n")

    assert document.kind == "markdown"
    assert document.data == {"bundle": {"name": "tide"}}
    assert document.instruction == "# Keeper\n\nWatch."


def test_an_empty_body_is_no_instruction() -> None:
    assert parse_document("---\nbundle: {name: tide}\n---\n  \n").instruction is None


def test_crlf_and_a_byte_order_mark_are_kept_in_the_text_and_not_in_the_instruction() -> None:
    text = "\ufeff---\r\nbundle:\r\n  name: tide\r\n---\r\none\r\ntwo\r\n"
    document = parse_document(text)

    assert document.text == text
    assert document.data == {"bundle": {"name": "tide"}}
    assert document.instruction == "one\ntwo"


def test_a_marker_in_front_of_plain_yaml_is_yaml() -> None:
    document = parse_document("---\nbundle:\n  name: tide\n")

    assert (document.kind, document.data) == ("yaml", {"bundle": {"name": "tide"}})


@pytest.mark.parametrize(
    "text",
    [
        "\n---\nbundle: {name: late}\n---\nbody",
        " ---\nbundle: {name: late}\n---\nbody",
        "---\nbundle: {name: open}\n\nYou are helpful. Be: nice: always.",
        "---\nbundle: {name: x}\n----\nbody: [\n",
    ],
)
def test_what_begins_like_front_matter_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument, match="begins like front matter") as refused:
        parse_document(text)

    assert [(item.code, item.line) for item in refused.value.items] == [("invalid_document", 1)]


def test_a_markdown_file_without_front_matter_is_all_instruction() -> None:
    document = parse_markdown("# Only prose\n")

    assert (document.data, document.instruction) == ({}, "# Only prose")


def test_an_error_in_front_matter_names_the_line_of_the_text() -> None:
    with pytest.raises(InvalidYaml) as refused:
        parse_document("---\nbundle: {name: x}\ntools: ]\n---\nbody\n")

    assert refused.value.items[0].line == 3


TEXT = """bundle:
  name: x   # a comment
tools:
  - module: a
  - module: b
    config: {deep: [1, {k: v}]}
a/b~c: 1
"""


@pytest.mark.parametrize(
    ("pointer", "position"),
    [
        ("", (1, 1)),
        ("/bundle", (1, 1)),
        ("/bundle/name", (2, 3)),
        ("/tools", (3, 1)),
        ("/tools/0", (4, 5)),
        ("/tools/1/config", (6, 5)),
        ("/tools/1/config/deep/1/k", (6, 25)),
        ("/a~1b~0c", (7, 1)),
        ("/tools/2", None),
        ("/tools/x", None),
        ("/bundle/version", None),
        ("/bundle/name/deeper", None),
    ],
)
def test_a_pointer_has_a_position_in_the_text(pointer: str, position: tuple[int, int] | None) -> None:
    assert parse_document(TEXT).position(pointer) == position


def test_positions_in_front_matter_count_from_the_first_line_of_the_text() -> None:
    crlf = f"\ufeff---\n{TEXT}---\nbody\n".replace("\n", "\r\n")

    assert parse_document(f"---\n{TEXT}---\nbody\n").position("/tools/1/config") == (7, 5)
    assert parse_document(crlf).position("/tools/1/config") == (7, 5)


def test_what_is_missing_is_nearest_to_what_surrounds_it() -> None:
    assert parse_document(TEXT).nearest_position("/tools/1/config/nope/deeper") == (6, 5)
    assert parse_document("").nearest_position("/bundle/name") == (1, 1)
