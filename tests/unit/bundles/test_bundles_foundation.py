"""The bundles that ship: what can be included, what it brings, and that the pages about it say the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import BUILTIN_BUNDLES, PreparedBundle, Sources, check_storable, prepare
from amplifier_app_api.bundles.builtin import BUILTIN_FOLDER
from amplifier_app_api.bundles.delegation import child_plan
from amplifier_app_api.bundles.mentions import mentions_in
from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.modules.schemas import unknown_options

ROOT = Path(__file__).resolve().parents[3]
FOUNDATION = BUILTIN_FOLDER / "foundation"
PARTS = sorted(
    f"foundation:{path.relative_to(FOUNDATION).with_suffix('')}"
    for folder in ("", "behaviors", "bundles")
    for path in (FOUNDATION / folder).iterdir()
    if path.is_file() and path.stem != "bundle"
)
AGENTS = sorted(f"foundation:{path.stem}" for path in (FOUNDATION / "agents").iterdir())
SOURCES = Sources(builtin_modules=frozenset(BUILTIN_MODULES))


async def prepared(*includes: str, more: str = "") -> PreparedBundle:
    """A config on `includes` with the scripted provider."""
    names = "".join(f"\n  - bundle: {name}" for name in includes)
    text = f"bundle: {{name: mine}}\nincludes:{names}\nproviders: [{{module: provider-scripted}}]\n{more}"
    return await prepare(check_storable(text), sources=SOURCES)


async def everything() -> PreparedBundle:
    """Foundation with all of its parts and all agents that ship."""
    return await prepared("foundation", *PARTS, more=f"agents: {{include: {AGENTS}}}\n")


def modules(bundle: PreparedBundle, *sections: str) -> set[str]:
    return {entry["module"] for section in sections for entry in bundle.mount_plan.get(section, [])}


def options(entries: list[dict[str, Any]], module: str) -> dict[str, Any]:
    (entry,) = (entry for entry in entries if entry["module"] == module)
    return entry.get("config", {})


def rows(title: str) -> list[list[str]]:
    """The table below a heading of the reference page, without the backquotes of its first column."""
    page = (ROOT / "docs/reference/foundation.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("name", [*BUILTIN_BUNDLES, *PARTS])
async def test_each_part_can_be_included_by_itself_without_a_problem_or_a_warning(name: str) -> None:
    bundle = await prepared("foundation:minimal", name)

    assert (bundle.problems, bundle.warnings) == ((), ())


@pytest.mark.parametrize("path", sorted(FOUNDATION.rglob("*.*")), ids=lambda path: path.name)
def test_no_part_names_a_source_or_reaches_for_the_network(path: Path) -> None:
    text = path.read_text("utf-8")

    assert re.findall(r"source:|://|git\+", text) == []


async def test_all_parts_together_compose_and_leave_the_bundle_its_name() -> None:
    bundle = await everything()

    assert (bundle.problems, bundle.warnings) == ((), ())
    assert bundle.bundle.name == "mine"
    assert {found.kind for found in bundle.activations.values()} == {"builtin"}


async def test_what_foundation_does_by_itself_is_safe_and_waits_for_nobody() -> None:
    bundle = await prepared("foundation")
    tools, hooks = bundle.mount_plan["tools"], bundle.mount_plan["hooks"]

    assert modules(bundle, "hooks") == {"hooks-todo-reminder", "hooks-status-context", "hooks-redaction"}
    assert options(tools, "tool-bash") == options(tools, "tool-web") == options(tools, "tool-filesystem") == {}
    assert options(hooks, "hooks-redaction") == {"rules": ["secrets"]}
    assert options(hooks, "hooks-status-context") == {"inject_role": "system", "include_git": False}


async def test_what_git_says_is_told_in_nobodys_name_but_the_users() -> None:
    bundle = await prepared("foundation", "foundation:behaviors/status-context")

    assert options(bundle.mount_plan["hooks"], "hooks-status-context") == {"inject_role": "user", "include_git": True}


async def test_redaction_on_top_of_foundation_covers_people_as_well() -> None:
    bundle = await prepared("foundation", "foundation:behaviors/redaction")

    assert options(bundle.mount_plan["hooks"], "hooks-redaction") == {"rules": ["secrets", "pii-basic"]}


async def test_the_minimal_bundle_has_file_tools_and_an_instruction_and_nothing_else() -> None:
    bundle = await prepared("foundation:minimal")

    assert bundle.mount_plan == {
        "session": {"orchestrator": "loop-streaming", "context": "context-simple"},
        "providers": [{"module": "provider-scripted"}],
        "tools": [{"module": "tool-filesystem"}],
    }
    assert (await bundle.system_prompt() or "").startswith("You are a careful, helpful assistant.")


async def test_streaming_replaces_another_loop_and_keeps_its_options() -> None:
    session = "session: {orchestrator: {module: loop-streaming, config: {max_iterations: 3}}}\n"
    bundle = await prepared("foundation", "foundation:behaviors/streaming-ui", more=session)

    assert bundle.mount_plan["session"]["orchestrator"] == {"module": "loop-streaming", "config": {"max_iterations": 3}}


async def test_the_prompt_has_the_rules_for_working_and_for_delegating_each_once() -> None:
    prompt = await (await prepared("foundation")).system_prompt() or ""

    assert prompt.startswith("You are a capable, careful assistant.")
    assert (prompt.count("\n# How to work\n"), prompt.count("\n# Giving tasks to agents\n")) == (1, 1)


async def test_the_tools_that_the_texts_name_are_there() -> None:
    prompt = await (await prepared("foundation")).system_prompt() or ""
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)?)`", prompt.split("# Tools")[1].split("# Safety")[0]))

    assert named == {"read_file", "edit_file", "write_file", "grep", "glob", "bash", "web_fetch", "web_search"}


async def test_every_agent_says_what_it_is_for_and_has_an_instruction_with_the_common_rules() -> None:
    agents = (await everything()).mount_plan["agents"]

    assert sorted(agents) == AGENTS
    for name, agent in agents.items():
        assert "Give it" in agent["description"] and "Example" in agent["description"], name
        assert len(" ".join(agent["description"].split())) <= 1_000, name  # what the tools for delegating show
        assert mentions_in(agent["instruction"]) == ("@foundation:context/shared/common-agent-base.md",), name
        assert "Report" in agent["instruction"], name
        assert "provider_preferences" not in agent, name


@pytest.mark.parametrize("row", rows("Agents"), ids=lambda row: row[0])
async def test_an_agent_that_reads_cannot_write_whatever_the_session_may(row: list[str]) -> None:
    name, _, files, _ = row
    tools = "tools: [{module: tool-filesystem, config: {denied_write_paths: [secrets]}}]\n"
    bundle = await prepared("foundation", more=f"{tools}agents: {{include: ['{name}']}}\n")

    child = child_plan(bundle.plan(), bundle.plan()["agents"][name])

    denied = {"reads": ["/"], "writes": ["secrets"]}[files]
    assert options(child["tools"], "tool-filesystem") == {"denied_write_paths": denied}


async def test_no_option_of_a_part_is_unknown_to_its_module() -> None:
    bundle = await everything()
    plan = bundle.mount_plan
    entries = [*plan["tools"], *plan["hooks"], *plan["providers"]]
    entries += [entry for agent in plan["agents"].values() for entry in agent.get("tools", [])]

    assert [unknown for entry in entries for unknown in unknown_options(entry["module"], entry.get("config", {}))] == []


async def test_the_reference_page_lists_what_can_be_included() -> None:
    assert sorted(row[0] for row in rows("Names to include")) == ["foundation", *PARTS]


async def test_the_reference_page_lists_the_modules_of_foundation() -> None:
    bundle = await prepared("foundation")
    session = bundle.mount_plan["session"]

    assert {row[0] for row in rows("What foundation does by itself")} == {
        session["orchestrator"],
        session["context"],
        *modules(bundle, "tools", "hooks"),
    }


async def test_the_reference_page_lists_the_agents_and_which_are_in_the_team() -> None:
    team = (await prepared("foundation")).mount_plan["agents"]

    assert {row[0]: row[1] for row in rows("Agents")} == {name: "yes" if name in team else "no" for name in AGENTS}


def test_the_reference_page_lists_the_texts() -> None:
    texts = {f"foundation:{path.relative_to(FOUNDATION)}" for path in (FOUNDATION / "context").rglob("*.md")}

    assert {row[0] for row in rows("Texts to mention")} == texts


def configs_to_copy() -> list[str]:
    page = (ROOT / "docs/howto/use-foundation.md").read_text(encoding="utf-8")
    return re.findall(r"^```(?:yaml|markdown)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", configs_to_copy(), ids=lambda text: re.findall(r"name: (\S+)", text)[0])
async def test_a_config_of_the_how_to_runs_as_it_stands(text: str) -> None:
    bundle = await prepare(check_storable(text), sources=SOURCES)
    plan = bundle.mount_plan
    entries = [*plan["tools"], *plan.get("hooks", []), *plan["providers"]]

    assert (bundle.problems, bundle.warnings) == ((), ())
    assert [unknown for entry in entries for unknown in unknown_options(entry["module"], entry.get("config", {}))] == []
