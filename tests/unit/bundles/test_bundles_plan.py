"""A plan as it is shown: modules, variables, includes, problems, and no secret."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources, VariableScope, check_storable, prepare
from amplifier_app_api.bundles.anchored import anchored
from amplifier_app_api.bundles.document import Document, parse_yaml
from amplifier_app_api.bundles.fetched import Fetched
from amplifier_app_api.bundles.plan import masked, plan_of
from amplifier_app_api.bundles.strict import misspelt_sections, unknown_sections
from amplifier_app_api.bundles.tracing import trace
from amplifier_app_api.bundles.variable_origins import variable_origins
from amplifier_app_api.models.plan import Plan

MODULES = frozenset({"loop-streaming", "context-simple", "tool-filesystem", "provider-scripted", "provider-anthropic"})
FOUNDATION = "bundle: {name: dev}\nincludes: ['foundation:minimal']\n"


async def planned(text: str, *roots: Path, scope: VariableScope | None = None) -> Plan:
    sources = Sources(roots=roots, builtin_modules=MODULES)
    document = check_storable(text)
    prepared = await prepare(document, sources=sources)
    return plan_of(prepared, trace(document, sources), scope or VariableScope())


def variables(text: str, scope: VariableScope) -> list[tuple[str, str, str]]:
    found = variable_origins(parse_yaml(text), scope)
    return [(use.name, use.pointer, use.origin) for use in found]


async def test_a_plan_names_every_module_and_where_it_comes_from() -> None:
    plan = await planned(
        FOUNDATION + "providers: [{module: provider-scripted}]\n"
        "agents:\n  scout: {description: looks, tools: [{module: tool-filesystem}]}\n"
    )

    assert plan.runnable
    assert [(module.id, module.kind, module.origin, module.agent) for module in plan.modules] == [
        ("loop-streaming", "orchestrator", "builtin", None),
        ("context-simple", "context", "builtin", None),
        ("provider-scripted", "provider", "builtin", None),
        ("tool-filesystem", "tool", "builtin", None),
        ("tool-filesystem", "tool", "builtin", "scout"),
    ]
    assert [module.pointer for module in plan.modules][2:] == [
        "/providers/0",
        "/tools/0",
        "/agents/scout/tools/0",
    ]


async def test_a_module_from_a_source_is_shown_with_it(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("async def mount(coordinator, config=None):\n    return None\n")

    plan = await planned(f"bundle: {{name: dev}}\ntools: [{{module: tool-own, source: '{tmp_path}'}}]\n", tmp_path)

    assert [(module.id, module.origin, module.source) for module in plan.modules] == [
        ("tool-own", "source", str(tmp_path))
    ]


async def test_a_remote_source_is_shown_with_its_commit_and_without_its_password(tmp_path: Path) -> None:
    uri = "git+https://me:sk-hidden@example.com/org/bundle@main"
    (tmp_path / "bundle.yaml").write_text("bundle: {name: far}\ntools: [{module: tool-filesystem}]\n")

    def fetch(text: str, pin: str | None) -> Fetched:
        resolved = uri.replace("@main", "@4f1c")
        assert (text, pin) in [(uri, None), (uri, resolved)]
        return Fetched(uri=text, resolved=resolved, path=tmp_path, source_root=tmp_path, commit="4f1c")

    sources = Sources(builtin_modules=MODULES, fetch=fetch)
    document = check_storable(f"bundle: {{name: dev}}\nincludes: ['{uri}']\n")
    prepared = await prepare(document, sources=sources)
    plan = plan_of(prepared, trace(document, sources, prepared.sources), VariableScope())

    assert [source.model_dump() for source in plan.sources] == [
        {
            "uri": "git+https://***@example.com/org/bundle@main",
            "resolved": "git+https://***@example.com/org/bundle@4f1c",
            "commit": "4f1c",
        }
    ]
    assert plan.provenance["/tools/0/module"].includes == ["git+https://***@example.com/org/bundle@main"]
    assert "sk-hidden" not in plan.model_dump_json()


async def test_includes_are_a_tree_in_order_and_a_repeated_one_stands_in_full_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("bundle: {name: a}\nincludes: [./shared.yaml]\n")
    (tmp_path / "b.yaml").write_text("bundle: {name: b}\nincludes: [./shared.yaml]\n")
    (tmp_path / "shared.yaml").write_text("bundle: {name: shared}\nincludes: ['foundation:minimal']\n")

    plan = await planned(f"bundle: {{name: d}}\nincludes: ['{tmp_path}/a.yaml', '{tmp_path}/b.yaml']\n", tmp_path)

    shared = {"include": "./shared.yaml", "name": "shared", "repeated": False}
    minimal = {"include": "foundation:minimal", "name": "foundation-minimal", "repeated": False, "includes": []}
    assert [node.model_dump() for node in plan.includes] == [
        {
            "include": f"{tmp_path}/a.yaml",
            "name": "a",
            "repeated": False,
            "includes": [{**shared, "includes": [minimal]}],
        },
        {
            "include": f"{tmp_path}/b.yaml",
            "name": "b",
            "repeated": False,
            "includes": [{**shared, "repeated": True, "includes": []}],
        },
    ]


async def test_a_module_that_an_include_asks_for_in_vain_is_a_problem_of_that_document(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("bundle: {name: more}\n\ntools:\n  - module: tool-nowhere\n")

    plan = await planned(
        f"bundle: {{name: dev}}\nincludes: ['foundation:minimal', '{tmp_path}/more.yaml']\n"
        "providers: [{module: provider-scripted}]\n",
        tmp_path,
    )

    (problem,) = plan.problems
    assert (problem.code, problem.pointer, problem.line) == ("module_not_found", None, None)
    assert problem.origin is not None
    assert (problem.origin.document, problem.origin.line) == ("more", 4)
    assert problem.origin.includes == [f"{tmp_path}/more.yaml"]
    assert not plan.runnable
    assert [module.origin for module in plan.modules if module.id == "tool-nowhere"] == ["missing"]


async def test_a_value_of_an_include_that_json_cannot_carry_is_a_problem_of_that_document(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("bundle: {name: more}\nspawn:\n  a: 1\n  day: 2024-01-01\n  b: .inf\n")

    plan = await planned(
        f"bundle: {{name: dev}}\nincludes: ['foundation:minimal', '{tmp_path}/more.yaml']\n"
        "providers: [{module: provider-scripted}]\n",
        tmp_path,
    )

    assert [(problem.code, problem.origin and problem.origin.line) for problem in plan.problems] == [
        ("invalid_document", 4),
        ("invalid_document", 5),
    ]
    assert plan.mount_plan["spawn"] == {"a": 1, "day": "2024-01-01", "b": "inf"}


async def test_an_include_that_cannot_be_had_names_the_way_to_it(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("bundle: {name: more}\nincludes: [./gone.yaml]\n")

    plan = await planned(f"bundle: {{name: dev}}\nincludes:\n  - '{tmp_path}/more.yaml'\n", tmp_path)

    problem = plan.problems[0]
    assert (problem.code, problem.pointer, problem.line) == ("bundle_not_found", "/includes/0", 3)
    assert problem.origin is not None
    assert problem.origin.includes == [f"{tmp_path}/more.yaml", "./gone.yaml"]


async def test_a_variable_without_a_value_is_a_problem_at_the_line_that_names_it() -> None:
    text = FOUNDATION + "providers:\n  - module: provider-anthropic\n    config:\n      api_key: ${MY_KEY}\n"

    plan = await planned(text)

    (problem,) = plan.problems
    assert (problem.code, problem.pointer, problem.line) == ("missing_variable", "/providers/0/config/api_key", 6)
    assert not plan.runnable
    given = await planned(text, scope=VariableScope({"MY_KEY": "sk-hidden"}))
    assert given.runnable
    assert [use.origin for use in given.variables] == ["session"]
    assert "sk-hidden" not in given.model_dump_json()


@pytest.mark.parametrize(
    ("written", "scope", "expected"),
    [
        ("${N}", VariableScope({"N": "x"}, {"N": "y"}, ["N"]), "session"),
        ("${N}", VariableScope({}, {"N": "y"}, ["N"]), "environment"),
        ("${N}", VariableScope({}, {"N": "y"}, []), "missing"),
        ("${N:-d}", VariableScope({}, {"N": "y"}, []), "default"),
        ("${N:-d}", VariableScope({"N": ""}), "default"),
        ("${N:-d}", VariableScope({"N": "x"}), "session"),
        ("${N}", VariableScope({"N": ""}), "session"),
        ("${N:?say}", VariableScope({"N": ""}), "missing"),
    ],
)
def test_a_variable_says_where_its_value_would_come_from(written: str, scope: VariableScope, expected: str) -> None:
    text = f"providers:\n  - module: m\n    config:\n      a: {written}\n"

    assert variables(text, scope) == [("N", "/providers/0/config/a", expected)]


@pytest.mark.parametrize(("host", "expected"), [("good.example", "environment"), ("evil.example", "missing")])
def test_a_variable_of_the_environment_is_missing_for_a_host_that_the_operator_does_not_allow(
    host: str, expected: str
) -> None:
    text = f"providers: [{{module: m, config: {{a: '${{N}}', base_url: 'https://{host}'}}}}]\n"
    scope = VariableScope({}, {"N": "y"}, ["N", "N@good.example"])

    assert variables(text, scope) == [("N", "/providers/0/config/a", expected)]


def test_a_key_that_a_provider_gets_without_naming_it_is_among_the_variables() -> None:
    text = "providers:\n  - module: provider-anthropic\n  - {module: m, config: {a: '${B}'}}\n"
    scope = VariableScope({}, {"ANTHROPIC_API_KEY": "x", "B": "y"}, ["ANTHROPIC_API_KEY", "B"])

    assert variables(text, scope) == [
        ("ANTHROPIC_API_KEY", "/providers/0/config/api_key", "environment"),
        ("B", "/providers/1/config/a", "environment"),
    ]


def test_variables_of_agents_and_of_spawn_are_found_where_they_stand() -> None:
    text = (
        "agents: {scout: {session: {context: {module: c, config: {a: '${A}'}}}}}\n"
        "spawn: {tools: [{module: t, config: {b: ['${B:-1}', '${C:-2}']}}]}\n"
    )

    assert sorted(variables(text, VariableScope())) == [
        ("A", "/agents/scout/session/context/config/a", "missing"),
        ("B", "/spawn/tools/0/config/b/0", "default"),
        ("C", "/spawn/tools/0/config/b/1", "default"),
    ]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"api_key": "sk-1"}, {"api_key": "***"}),
        ({"api_key": "${KEY}"}, {"api_key": "${KEY}"}),
        ({"api_key": "${KEY:-sk-1}"}, {"api_key": "***"}),
        ({"Authorization": "Bearer ${KEY} sk-1"}, {"Authorization": "***"}),
        ({"x-api-key": "sk-1"}, {"x-api-key": "***"}),
        ({"password": 1234}, {"password": "***"}),
        ({"secrets": ["a", {"b": "c"}]}, {"secrets": ["***", {"b": "***"}]}),
        ({"max_tokens": 5, "use_token": True}, {"max_tokens": 5, "use_token": True}),
        ({"source": "git+https://me:sk-1@host/x@main"}, {"source": "git+https://***@host/x@main"}),
        ({"n": float("inf"), 1: b"x"}, {"n": "inf", "1": "b'x'"}),
    ],
)
def test_what_stands_under_the_name_of_a_secret_is_masked(value: Mapping[object, object], seen: object) -> None:
    assert masked(value) == seen


def test_a_section_that_was_meant_to_be_one_is_told_with_the_near_name() -> None:
    document = Document(text := "bundle: {name: a}\nprovider: []\nnotes: 1\n", parse_yaml(text))

    (misspelt,) = misspelt_sections(document)
    assert (misspelt.code, misspelt.pointer, misspelt.line) == ("unknown_section", "/provider", 2)
    assert misspelt.detail == "There is no section 'provider'; did you mean providers?"
    assert list(unknown_sections(document)) == [
        "The section 'notes' (line 3) means nothing in a bundle and is left out.",
    ]


async def test_the_relative_references_of_a_file_start_from_its_folder(tmp_path: Path) -> None:
    text = (
        "bundle: {name: own}\n"
        "includes: [./parts/more.yaml]\n"
        "context: {include: [notes.md, 'own:docs/a.md', 'more:b.md']}\n"
        "tools: [{module: t, source: ../module}]\n"
    )

    document = anchored(Document(text, parse_yaml(text)), tmp_path / "here")

    assert document.text == text
    assert document.data == {
        "bundle": {"name": "own"},
        "includes": [f"{tmp_path}/here/parts/more.yaml"],
        "context": {
            "include": ["more:b.md"],
            "notes.md": f"{tmp_path}/here/notes.md",
            "own:docs/a.md": f"{tmp_path}/here/docs/a.md",
        },
        "tools": [{"module": "t", "source": f"{tmp_path}/module"}],
    }
