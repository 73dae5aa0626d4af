import os
from pathlib import Path

import pytest

from amplifier_app_api.bundles import (
    BUILTIN_BUNDLES,
    InvalidDocument,
    NotRunnable,
    PreparedBundle,
    Sources,
    VariableScope,
    check_storable,
    default_config_text,
    expand,
    parse_document,
    prepare,
)
from amplifier_app_api.modules import BUILTIN_MODULES

MODULES = frozenset(BUILTIN_MODULES)

SEED_EXAMPLE = """
bundle:
  name: dev-config
  version: 1.0.0

includes:
  - bundle: foundation

providers:
  - module: provider-anthropic
    config:
      api_key: ${ANTHROPIC_API_KEY}
      model: claude-sonnet-4-5

session:
  orchestrator: loop-streaming
  context: context-persistent
"""


async def prepared(text: str, *roots: Path) -> PreparedBundle:
    return await prepare(check_storable(text), sources=Sources(roots=roots, builtin_modules=MODULES))


def problems(bundle: PreparedBundle) -> list[tuple[str, str | None, int | None]]:
    return [(problem.code, problem.pointer, problem.line) for problem in bundle.problems]


async def test_the_default_config_is_runnable_without_a_network() -> None:
    bundle = await prepared(default_config_text())

    bundle.require_runnable()
    assert bundle.bundle.name == "foundation-default"
    assert bundle.plan()["session"] == {"orchestrator": "loop-streaming", "context": "context-simple"}
    assert bundle.plan()["providers"] == [{"module": "provider-scripted"}]
    assert {found.kind for found in bundle.activations.values()} == {"builtin"}
    assert bundle.warnings == ()
    assert (await bundle.system_prompt() or "").startswith("You are a capable, careful assistant.")


async def test_the_seeds_own_example_composes_and_names_its_variable() -> None:
    bundle = await prepared(SEED_EXAMPLE)

    bundle.require_runnable()
    assert bundle.plan()["session"] == {"orchestrator": "loop-streaming", "context": "context-persistent"}
    assert [(use.name, use.pointer) for use in bundle.variables] == [
        ("ANTHROPIC_API_KEY", "/providers/0/config/api_key")
    ]
    opened = expand(bundle.plan(), VariableScope({"ANTHROPIC_API_KEY": "k"}))
    assert opened["providers"][0]["config"]["api_key"] == "k"
    assert "${ANTHROPIC_API_KEY}" in str(bundle.mount_plan)


async def test_foundation_alone_lacks_a_provider() -> None:
    bundle = await prepared("bundle: {name: x}\nincludes: [foundation]\n")

    assert problems(bundle) == [("missing_section", "/providers", 1)]
    with pytest.raises(NotRunnable, match="no provider"):
        bundle.require_runnable()


async def test_everything_that_stands_in_the_way_is_listed_with_its_place() -> None:
    bundle = await prepared(
        "bundle: {name: x}\n"
        "includes:\n"
        "  - nobody\n"
        "session: {context: {config: {a: 1}}}\n"
        "providers:\n"
        "  - module: provider-nope\n"
        "context:\n"
        "  include: [a.md, 'x:b.md', 'foundation:c.md']\n"
        "  guide: notes.md\n"
        "  abs: /etc/passwd\n"
    )

    assert problems(bundle) == [
        ("bundle_not_found", "/includes/0", 3),
        ("relative_reference", "/context/include/0", 8),
        ("relative_reference", "/context/include/1", 8),
        ("relative_reference", "/context/guide", 9),
        ("source_not_allowed", "/context/abs", 10),
        ("missing_section", "/session/orchestrator", 4),
        ("invalid_document", "/session/context", 4),
        ("module_not_found", "/providers/0", 6),
    ]
    with pytest.raises(NotRunnable) as refused:
        bundle.require_runnable()
    assert refused.value.items == bundle.problems
    assert [problem.module for problem in bundle.module_problems] == ["", "provider-nope"]


async def test_a_problem_an_include_brings_has_no_place_in_the_document(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(
        "bundle: {name: b}\ntools: [{module: tool-nope}, {module: tool-filesystem, config: {d: 2024-05-06}}]\n", "utf-8"
    )

    bundle = await prepared(
        f"bundle: {{name: x}}\nincludes: ['foundation:minimal', {path}]\nproviders: [{{module: provider-scripted}}]\n",
        tmp_path,
    )

    assert problems(bundle) == [("module_not_found", None, None), ("invalid_document", None, None)]


async def test_a_document_below_the_storable_bar_is_refused() -> None:
    with pytest.raises(InvalidDocument):
        await prepare(parse_document("tools: []\n"), sources=Sources())


async def test_what_is_only_missing_in_the_prompt_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("bundle: {name: b}\ncontext: {include: [gone.md, 'ghost:x.md']}\n", "utf-8")

    bundle = await prepared(
        f"bundle: {{name: x}}\nincludes: ['foundation:minimal', {path}]\nproviders: [{{module: provider-scripted}}]\n",
        tmp_path,
    )

    bundle.require_runnable()
    assert bundle.warnings == (
        "The context 'ghost:x.md' names a namespace that is not known; it is left out.",
        "The context file 'b:gone.md' is not there or cannot be read; it is left out.",
    )


async def test_context_files_of_includes_and_of_the_document_reach_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("bundle: {name: b}\ncontext: {include: [a.md]}\n", "utf-8")
    (tmp_path / "a.md").write_text("from the bundle", "utf-8")
    (tmp_path / "own.md").write_text("from the document", "utf-8")

    bundle = await prepared(
        f"---\nbundle: {{name: x}}\nincludes: ['foundation:minimal', {tmp_path}/b.yaml]\n"
        f"providers: [{{module: provider-scripted}}]\ncontext: {{own: {tmp_path}/own.md}}\n---\nBe brief.\n",
        tmp_path,
    )

    bundle.require_runnable()
    prompt = await bundle.system_prompt() or ""
    assert prompt.startswith(f'Be brief.\n\n---\n\n<context_file paths="b:a.md → {tmp_path}/a.md">\nfrom the bundle\n')
    assert f"x:own → {tmp_path}/own.md" in prompt


async def test_the_own_name_of_a_stored_document_stands_for_no_folder(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("bundle: {name: b}\n", "utf-8")
    (tmp_path / "a.md").write_text("not of x", "utf-8")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/scout.md").write_text("---\nname: s\n---\nnot of x\n", "utf-8")

    bundle = await prepared(
        f"---\nbundle: {{name: x}}\nincludes: ['foundation:minimal', {tmp_path}/b.yaml]\n"
        "providers: [{module: provider-scripted}]\nagents: {include: ['x:scout']}\n---\nSee @x:a.md and @b:a.md.\n",
        tmp_path,
    )

    bundle.require_runnable()
    assert bundle.plan()["agents"] == {"x:scout": {"name": "x:scout"}}
    assert bundle.warnings == (
        "The agent 'x:scout' is only a name: it has no file and no definition.",
        "The mention '@x:a.md' leads to no file of a bundle; it stays as it is.",
        "The mention '@b:a.md.' leads to no file of a bundle; it stays as it is. The '.' at its end is part of it.",
    )


async def test_local_mentions_start_in_the_working_directory_of_the_session(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "plan.md").write_text("the plan", "utf-8")
    bundle = await prepared(
        "---\nbundle: {name: x}\nincludes: ['foundation:minimal']\nproviders: [{module: provider-scripted}]\n"
        "---\nKeep to @plan\n"
    )

    built = await bundle.prompt_with_mentions(str(work))
    sent = await bundle.expand_mentions("Do @plan.md", str(work))

    block = 'plan.md">\nthe plan\n</context_file>'
    assert (await bundle.system_prompt(str(work))) == built.text
    assert (built.text or "").endswith(f'<context_file paths="@plan → {work}/{block}')
    assert sent.text == f'<context_file paths="@plan.md → {work}/{block}\n\nDo @plan.md'
    assert await bundle.system_prompt() == "Keep to @plan"


async def test_a_plan_is_the_callers_own() -> None:
    bundle = await prepared(SEED_EXAMPLE)

    bundle.plan()["session"]["orchestrator"] = "changed"

    assert bundle.plan()["session"]["orchestrator"] == "loop-streaming"


async def test_a_changed_file_makes_a_prepared_bundle_stale_and_another_one_of_it(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("bundle: {name: b}\n", "utf-8")
    text = (
        f"bundle: {{name: x}}\nincludes: ['foundation:minimal', {path}]\nproviders: [{{module: provider-scripted}}]\n"
    )
    before, same = await prepared(text, tmp_path), await prepared(text, tmp_path)
    assert before.is_current()

    path.write_text("bundle: {name: c}\n", "utf-8")
    os.utime(path, ns=(1, 1))

    assert not before.is_current()
    after = await prepared(text, tmp_path)
    assert before.fingerprint == same.fingerprint != after.fingerprint
    path.unlink()
    assert not after.is_current()


async def test_a_bundle_with_problems_is_never_current_since_what_was_missing_may_appear(tmp_path: Path) -> None:
    bundle = await prepared(f"bundle: {{name: x}}\nincludes: [{tmp_path}/b.yaml]\n", tmp_path)

    assert bundle.problems
    assert not bundle.is_current()


async def test_a_removed_module_folder_makes_a_prepared_bundle_stale(tmp_path: Path) -> None:
    package = tmp_path / "m" / "amplifier_module_tool_x"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("async def mount(coordinator, config): ...\n", "utf-8")
    bundle = await prepared(f"{default_config_text()}tools: [{{module: tool-x, source: {tmp_path}/m}}]\n", tmp_path)
    assert bundle.is_current()

    (tmp_path / "m").rename(tmp_path / "gone")

    assert not bundle.is_current()


async def test_another_text_has_another_fingerprint() -> None:
    assert (await prepared(SEED_EXAMPLE)).fingerprint != (await prepared(f"{SEED_EXAMPLE}# note\n")).fingerprint


def test_the_built_in_bundles_are_documents_of_the_storable_kind() -> None:
    for name, path in BUILTIN_BUNDLES.items():
        document = check_storable(path.read_text("utf-8"))
        assert document.data["bundle"]["name"] == name
    assert check_storable(BUILTIN_BUNDLES["foundation"].read_text("utf-8")).instruction


async def test_foundation_names_no_provider_and_foundation_default_is_runnable_as_it_is() -> None:
    foundation = await prepared("bundle: {name: mine}\nincludes: [foundation]\n")
    complete = await prepared("bundle: {name: mine}\nincludes: [foundation-default]\n")

    assert "providers" not in foundation.mount_plan
    assert [item.pointer for item in foundation.problems] == ["/providers"]
    assert complete.problems == ()
