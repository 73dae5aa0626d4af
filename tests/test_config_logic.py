"""The logic of a Config's text: parse, change, dump, and refuse what is none."""

from pathlib import Path

import pytest

from amplifier_app_api.bundles import DocumentLimits, check_storable
from amplifier_app_api.core.config_edits import include_edit, provider_edit, tool_edit
from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.storage.database import Database

TEXT = """\
bundle:
  name: test-config
  version: 1.0.0

includes:
  - bundle: foundation

providers:
  - module: provider-anthropic
    config:
      model: claude-sonnet-4-5  # the one we pay for

tools:
  - module: tool-filesystem

session:
  orchestrator: loop-streaming
  context: context-simple
"""

LIMITS = DocumentLimits()


@pytest.fixture
def manager(tmp_path: Path) -> ConfigManager:
    """Parsing and dumping need no open database."""
    return ConfigManager(Database(tmp_path / "app.db"))


def test_yaml_parses_into_its_sections(manager: ConfigManager) -> None:
    document = manager.parse_yaml(TEXT)

    assert list(document) == ["bundle", "includes", "providers", "tools", "session"]
    assert document["bundle"] == {"name": "test-config", "version": "1.0.0"}
    assert document["session"] == {"orchestrator": "loop-streaming", "context": "context-simple"}


def test_a_tool_is_added(manager: ConfigManager) -> None:
    edit = tool_edit("tool-web", config={"timeout": 5})(TEXT, LIMITS)

    assert edit.how == "inserted"
    assert manager.parse_yaml(edit.text)["tools"] == [
        {"module": "tool-filesystem"},
        {"module": "tool-web", "config": {"timeout": 5}},
    ]


def test_a_provider_is_added_and_comments_stay(manager: ConfigManager) -> None:
    edit = provider_edit("provider-openai")(TEXT, LIMITS)

    assert [provider["module"] for provider in manager.parse_yaml(edit.text)["providers"]] == [
        "provider-anthropic",
        "provider-openai",
    ]
    assert "# the one we pay for" in edit.text


def test_a_bundle_is_added_to_the_includes(manager: ConfigManager) -> None:
    edit = include_edit("git+https://example.com/bundle@main")(TEXT, LIMITS)

    assert manager.parse_yaml(edit.text)["includes"] == [
        {"bundle": "foundation"},
        {"bundle": "git+https://example.com/bundle@main"},
    ]


def test_parse_change_dump_parse_comes_round(manager: ConfigManager) -> None:
    document = manager.parse_yaml(TEXT)
    document["tools"].append({"module": "tool-web", "config": {"hosts": ["a", "b"], "on": True, "none": None}})

    dumped = manager.dump_yaml(document)
    assert manager.parse_yaml(dumped) == document
    assert list(manager.parse_yaml(dumped)) == list(document)


@pytest.mark.parametrize("text", ["bundle:\n  name: [unclosed\n", "a: b: c\n", "\tname: x\n", "- not\n- a mapping\n"])
def test_invalid_yaml_is_rejected(manager: ConfigManager, text: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid YAML"):
        manager.parse_yaml(text)


def test_a_name_is_all_a_config_needs_to_be_stored() -> None:
    assert check_storable("bundle:\n  name: minimal\n", LIMITS).data == {"bundle": {"name": "minimal"}}
    with pytest.raises(ValueError, match="name"):
        check_storable("session:\n  orchestrator: loop-basic\n", LIMITS)
