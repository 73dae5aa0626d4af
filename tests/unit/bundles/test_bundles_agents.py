from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import reading
from amplifier_app_api.bundles.agents import agent_of
from amplifier_app_api.bundles.document import DocumentLimits, InvalidDocument, parse_document, parse_markdown
from amplifier_app_api.bundles.includes import Loaded, load_document, load_source
from amplifier_app_api.bundles.locating import Sources


def agent(text: str) -> dict[str, Any]:
    return agent_of(parse_markdown(text), "roster-name")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def load(path: Path, root: Path) -> Loaded:
    return load_source(str(path), Sources(roots=(root,)))


def test_what_describes_an_agent_stands_below_meta_or_at_the_top() -> None:
    below = agent("---\nmeta: {name: a, description: d, role: r}\ntools: [{module: t}]\n---\nGo.\n")
    at_the_top = agent("---\nname: a\ndescription: d\nrole: r\ntools: [{module: t}]\n---\nGo.\n")

    assert below == at_the_top
    assert below == {"name": "a", "description": "d", "role": "r", "tools": [{"module": "t"}], "instruction": "Go."}


def test_an_agent_has_no_context_includes_or_spawn_of_its_own() -> None:
    text = "---\nname: a\ncontext: {include: [x]}\nincludes: [b]\nspawn: {tools: []}\nagents: {x: {}}\n---\n"

    assert agent(text) == {"name": "a", "description": ""}


@pytest.mark.parametrize("agents", ["sometimes", "3", ""])
def test_access_to_agents_is_all_none_or_a_list(agents: str) -> None:
    with pytest.raises(InvalidDocument, match="all, none or a list"):
        agent(f"---\nmeta: {{name: a}}\nagents: {agents}\n---\n")


def test_a_date_in_a_header_is_a_text_afterwards() -> None:
    assert agent("---\nmeta: {name: a, since: 2024-05-06, log: [2024-05-06]}\n---\n") == {
        "name": "a",
        "description": "",
        "since": "2024-05-06",
        "log": ["2024-05-06"],
    }


def test_files_fill_what_the_roster_leaves_empty_and_nothing_else(tmp_path: Path) -> None:
    file = write(
        tmp_path / "bundle.yaml",
        "bundle: {name: b}\nagents: {include: ['b:scout', 'b:gone'], helper: {description: mine, tools: []}}\n",
    )
    write(tmp_path / "agents/scout.md", "---\nmeta: {name: scout, description: looks}\n---\nLook.\n")
    write(tmp_path / "agents/helper.md", "---\nmeta: {description: file}\ntools: [{module: t}]\n---\nHelp.\n")

    loaded = load(file, tmp_path)

    assert loaded.bundle.agents == {
        "b:scout": {"name": "b:scout", "description": "looks", "instruction": "Look."},
        "b:gone": {"name": "b:gone"},
        "helper": {"description": "mine", "tools": [{"module": "t"}], "name": "helper", "instruction": "Help."},
    }
    assert loaded.warnings == ("The agent 'b:gone' is only a name: it has no file and no definition.",)
    assert [stamp.path.name for stamp in loaded.files] == ["bundle.yaml", "scout.md", "helper.md"]


def test_the_modules_of_agents_are_known_by_their_agent_and_place(tmp_path: Path) -> None:
    file = write(
        tmp_path / "bundle.yaml",
        "bundle: {name: b}\ntools: [{module: own}]\n"
        "agents:\n  include: ['b:scout']\n"
        "  inline: {tools: [bare, {module: t, source: ./m}, {id: x}, 5], session: {orchestrator: {config: {a: 1}}}}\n",
    )
    write(tmp_path / "agents/scout.md", "---\nname: s\nproviders: [{module: p, source: ./p}]\n---\n")

    specs = list(load(file, tmp_path).bundle.modules())

    assert [(spec.agent, spec.module, spec.source, spec.path) for spec in specs] == [
        (None, "own", None, ("tools", 0)),
        ("b:scout", "p", f"{tmp_path}/p", ("agents", "b:scout", "providers", 0)),
        ("inline", "bare", None, ("agents", "inline", "tools", 0)),
        ("inline", "t", f"{tmp_path}/m", ("agents", "inline", "tools", 1)),
    ]
    assert all(spec.flaw is None for spec in specs)


def test_sources_of_an_inline_agent_start_from_its_own_document(tmp_path: Path) -> None:
    write(tmp_path / "lib/b.yaml", "bundle: {name: lib}\nagents: {x: {tools: [{module: t, source: ./m}]}}\n")
    file = write(tmp_path / "top.yaml", "bundle: {name: top}\nincludes: [./lib/b.yaml]\n")

    specs = list(load(file, tmp_path).bundle.modules())

    assert [spec.source for spec in specs] == [f"{tmp_path}/lib/m"]


@pytest.mark.parametrize("name", ["b:../../secret", "../../secret", "b:/etc/passwd", "b:link"])
def test_an_agents_file_lies_below_the_folder_of_its_bundle(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret.md", "---\nname: s\n---\nSECRET\n")
    write(tmp_path / "in/agents/x.md", "---\nname: x\n---\n")
    (tmp_path / "in/agents/link.md").symlink_to(tmp_path / "secret.md")
    file = write(tmp_path / "in/bundle.yaml", f"bundle: {{name: b}}\nagents: {{include: ['{name}']}}\n")

    loaded = load(file, tmp_path)

    assert loaded.bundle.agents == {name: {"name": name}}
    assert loaded.problems == ()
    assert "leads out of the folder of its bundle" in loaded.warnings[0]


def test_a_file_that_cannot_be_used_is_a_warning(tmp_path: Path) -> None:
    names = ["latin", "yaml", "large", "pipe"]
    file = write(tmp_path / "bundle.yaml", f"bundle: {{name: b}}\nagents: {{include: {names}}}\n")
    write(tmp_path / "agents/yaml.md", "---\na: [\n---\n")
    write(tmp_path / "agents/large.md", "x" * 2000)
    (tmp_path / "agents/latin.md").write_bytes(b"caf\xe9")
    (tmp_path / "agents/pipe.md").mkdir()

    loaded = load_source(str(file), Sources(roots=(tmp_path,), limits=DocumentLimits(max_bytes=1000)))

    assert loaded.problems == ()
    assert [warning.partition(":")[0] for warning in loaded.warnings] == [
        "The file of the agent 'latin' cannot be used",
        "The file of the agent 'yaml' cannot be used",
        "The file of the agent 'large' cannot be used",
        "The agent 'pipe' is only a name",
    ]


def test_the_number_of_files_read_for_agents_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_AGENT_FILES", 1)
    file = write(tmp_path / "bundle.yaml", "bundle: {name: b}\nagents: {include: [x, y]}\n")
    for name in "xy":
        write(tmp_path / f"agents/{name}.md", f"---\nname: {name}\n---\nI am {name}.\n")

    loaded = load(file, tmp_path)

    assert [agent.get("instruction") for agent in loaded.bundle.agents.values()] == ["I am x.", None]
    assert "more than 1 files of agents are read" in loaded.warnings[0]


def test_a_stored_document_has_the_agents_of_what_it_includes(tmp_path: Path) -> None:
    file = write(tmp_path / "bundle.yaml", "bundle: {name: b}\nagents: {include: ['b:scout']}\n")
    write(tmp_path / "agents/scout.md", "---\nname: s\n---\nLook.\n")
    document = parse_document(f"bundle: {{name: mine}}\nincludes: ['{file}']\nagents: {{own: {{description: d}}}}\n")

    loaded = load_document(document, Sources(roots=(tmp_path,)))

    assert loaded.warnings == ()
    assert loaded.bundle.agents["b:scout"]["instruction"] == "Look."
    assert loaded.bundle.agents["own"] == {"description": "d"}
