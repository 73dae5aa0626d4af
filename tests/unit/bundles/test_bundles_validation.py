import pytest

from amplifier_app_api.bundles import InvalidDocument, InvalidYaml, NotRunnable, RelativeReference, check_storable
from amplifier_app_api.errors import ErrorItem, Invalid

GOOD = """bundle:
  name: dev-config
  version: 1.0.0
includes:
  - bundle: foundation
  - harbor:behaviors/pier
  - git+https://github.com/acme/harbor@v1#subdirectory=x
  - file:///srv/bundles/x
  - /srv/bundles/y.yaml
providers:
  - module: provider-anthropic
    source: ${MODULES}/provider-anthropic
    config:
      api_key: sk-ant-xxx
session:
  orchestrator: loop-streaming
  context: {module: context-persistent, config: }
tools:
hooks: []
agents: {include: [scout], inline: {tools: [{module: t}]}}
context: {include: [notes.md], guide: other.md}
spawn: {exclude_tools: [a]}
anything: else
"""


def test_a_whole_document_is_storable_and_kept_as_it_is() -> None:
    assert check_storable(GOOD).text == GOOD


def problems(text: str) -> list[tuple[str, str | None, int | None]]:
    with pytest.raises(Invalid) as refused:
        check_storable(text)
    return [(item.code, item.pointer, item.line) for item in refused.value.items]


@pytest.mark.parametrize(
    ("section", "pointer"),
    [
        ("bundle: ", "/bundle"),
        ("bundle: harbor", "/bundle"),
        ("bundle: {}", "/bundle/name"),
        ("bundle: {name: ''}", "/bundle/name"),
        ("bundle: {name: '  '}", "/bundle/name"),
        ("bundle: {name: 7}", "/bundle/name"),
        ("bundle: {name: x, description: [a]}", "/bundle/description"),
        ("bundle: {name: x, version: {a: b}}", "/bundle/version"),
    ],
)
def test_a_document_needs_a_bundle_with_a_name(section: str, pointer: str) -> None:
    assert problems(f"{section}\n") == [("invalid_document", pointer, 1)]


@pytest.mark.parametrize(
    ("section", "pointer"),
    [
        ("includes: foundation", "/includes"),
        ("includes: [{behavior: x}]", "/includes/0"),
        ("includes: [foundation, '']", "/includes/1"),
        ("includes: [3]", "/includes/0"),
        ("session: [a]", "/session"),
        ("session: {orchestrator: 3}", "/session/orchestrator"),
        ("session: {context: {module: 3}}", "/session/context/module"),
        ("session: {context_source: 3}", "/session/context_source"),
        ("tools: tool-a", "/tools"),
        ("tools: {module: a}", "/tools"),
        ("tools: {}", "/tools"),
        ("tools: [tool-a]", "/tools/0"),
        ("tools: [{module: a}, {source: /x}]", "/tools/1/module"),
        ("hooks: [{module: a, config: text}]", "/hooks/0/config"),
        ("hooks: [{module: a, source: {type: git}}]", "/hooks/0/source"),
        ("providers: [{module: a, id: [x]}]", "/providers/0/id"),
        ("agents: 5", "/agents"),
        ("agents: {include: ab}", "/agents/include"),
        ("agents: {x: {tools: t}}", "/agents/x/tools"),
        ("context: a.md", "/context"),
        ("context: {include: }", "/context/include"),
        ("context: {include: [3]}", "/context/include/0"),
        ("context: {guide: [x]}", "/context/guide"),
        ("spawn: [x]", "/spawn"),
    ],
)
def test_a_known_section_has_its_shape(section: str, pointer: str) -> None:
    assert problems(f"bundle: {{name: x}}\n{section}\n") == [("invalid_document", pointer, 2)]


@pytest.mark.parametrize(
    ("section", "pointer"),
    [
        ("includes: [./x.yaml]", "/includes/0"),
        ("includes: [{bundle: ../x}]", "/includes/0"),
        ("includes: [sub/x.yaml]", "/includes/0"),
        ("includes: [x.md]", "/includes/0"),
        ("includes: ['file://x.yaml']", "/includes/0"),
        ("tools: [{module: a, source: ./m}]", "/tools/0/source"),
        ("providers: [{module: a, source: m/x}]", "/providers/0/source"),
        ("hooks: [{module: a, source: .}]", "/hooks/0/source"),
        ("session: {orchestrator: {module: a, source: ./m}}", "/session/orchestrator/source"),
        ("session: {context: a, context_source: ../m}", "/session/context_source"),
        ("agents: {scout: {tools: [{module: a, source: ./m}]}}", "/agents/scout/tools/0/source"),
        (
            "agents: {scout: {session: {orchestrator: {module: a, source: ./m}}}}",
            "/agents/scout/session/orchestrator/source",
        ),
    ],
)
def test_a_stored_document_names_nothing_by_a_relative_path(section: str, pointer: str) -> None:
    text = f"bundle: {{name: x}}\n{section}\n"

    with pytest.raises(RelativeReference):
        check_storable(text)
    assert problems(text) == [("relative_reference", pointer, 2)]


@pytest.mark.parametrize(
    "value",
    ["2024-05-06", "2024-05-06T07:08:09Z", ".inf", ".nan", "!!binary aGk=", "!!set {a, b}", "9223372036854775808"],
)
def test_a_value_json_cannot_carry_is_refused_with_its_place(value: str) -> None:
    text = f"bundle: {{name: x}}\ntools:\n  - module: a\n    config:\n      k: [1, {value}]\n"

    assert problems(text) == [("invalid_document", "/tools/0/config/k/1", 5)]


def test_a_key_that_is_no_text_is_refused() -> None:
    assert problems("bundle: {name: x}\ntools: [{module: a, config: {1: one}}]\n") == [
        ("invalid_document", "/tools/0/config", 2)
    ]


def test_every_problem_is_listed_and_the_first_one_names_the_refusal() -> None:
    text = "includes: [./x.yaml]\nbundle: {}\ntools: [3]\n"

    with pytest.raises(RelativeReference, match="and 2 more"):
        check_storable(text)
    assert problems(text) == [
        ("relative_reference", "/includes/0", 1),
        ("invalid_document", "/bundle/name", 2),
        ("invalid_document", "/tools/0", 3),
    ]


def test_lines_are_those_of_the_markdown_text() -> None:
    assert problems("---\nbundle: {name: x}\ntools: [3]\n---\nbody\n") == [("invalid_document", "/tools/0", 3)]


def test_the_list_of_problems_has_an_end() -> None:
    text = "bundle: {name: x}\ncontext:\n" + "".join(f"  k{number}: {number}\n" for number in range(5_000))

    assert len(problems(text)) == 100


@pytest.mark.parametrize(
    ("text", "error"), [("a: [", InvalidYaml), ("", InvalidDocument), ("tools: []", InvalidDocument)]
)
def test_a_text_that_does_not_read_or_has_no_bundle_is_refused(text: str, error: type[Invalid]) -> None:
    with pytest.raises(error):
        check_storable(text)


def test_not_runnable_carries_its_items() -> None:
    items = (ErrorItem(code="module_not_found", detail="no a"), ErrorItem(code="bundle_not_found", detail="no b"))

    refusal = NotRunnable(items)

    assert (refusal.status, refusal.code, refusal.items) == (422, "config_not_runnable", items)
    assert str(refusal) == "no a (and 1 more)"
