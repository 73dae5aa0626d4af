"""Warnings about options that a module does not have."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings

MISSPELT = """
bundle: {name: dev}
session:
  orchestrator: {module: loop-streaming, config: {max_iteration: 3}}
  context: {module: context-simple, config: {max_tokens: 1000}}
providers:
  - {module: provider-scripted, config: {reply: a, colour: red}}
tools:
  - {module: tool-delegate, config: {features: {self_delegation: {enable: true}}}}
agents:
  helper: {description: d, instruction: i, tools: [{module: tool-bash, config: {timeuot: 3}}]}
"""


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    (tmp_path / "sources").mkdir()
    settings = Settings(data_dir=tmp_path / "data", default_config=False, source_roots=(tmp_path / "sources",))
    async with open_services(settings) as opened:
        yield opened


async def test_options_that_say_nothing_are_warnings_with_place_and_near_miss(services: Services) -> None:
    found = await services.plans.validate_document(MISSPELT)

    assert found.warnings == [
        "loop-streaming has no option 'max_iteration' (/session/orchestrator/config): did you mean 'max_iterations'?",
        "provider-scripted has no option 'reply' (/providers/0/config): did you mean 'replies'?",
        "provider-scripted has no option 'colour' (/providers/0/config)",
        "tool-delegate has no option 'features.self_delegation.enable' (/tools/0/config): did you mean 'enabled'?",
        "tool-bash has no option 'timeuot' (/agents/helper/tools/0/config): did you mean 'timeout'?",
    ]
    assert (found.valid, found.runnable, found.problems) == (True, True, [])


async def test_a_plan_has_the_same_warnings(services: Services) -> None:
    planned = await services.plans.plan_document(MISSPELT)

    assert planned.warnings == (await services.plans.validate_document(MISSPELT)).warnings


async def test_a_config_with_warnings_runs(services: Services) -> None:
    config = await services.configs.create_config("dev", MISSPELT)
    session = await services.sessions.create_session(config.config_id)

    answer = await services.sessions.send_message(session.session_id, "hi")

    assert (answer["status"], answer["response"]) == ("completed", "hi")


async def test_a_module_from_a_source_is_not_judged_by_the_options_of_the_built_in_one(
    services: Services, tmp_path: Path
) -> None:
    package = tmp_path / "sources" / "tool-web" / "amplifier_module_tool_web"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("async def mount(coordinator, config=None): ...\n", "utf-8")
    with_ours = MISSPELT.replace("module: tool-delegate", "module: tool-web")
    with_theirs = MISSPELT.replace("module: tool-delegate", f"module: tool-web, source: {package.parent}")

    ours = await services.plans.validate_document(with_ours)
    theirs = await services.plans.validate_document(with_theirs)

    assert theirs.problems == []
    assert [warning for warning in ours.warnings if warning not in theirs.warnings] == [
        "tool-web has no option 'features' (/tools/0/config)"
    ]


async def test_the_warnings_of_one_document_are_bounded(services: Services) -> None:
    options = ", ".join(f"wrong{number}: 1" for number in range(1_000))
    text = MISSPELT.replace("reply: a, colour: red", options)

    assert len((await services.plans.validate_document(text)).warnings) == 100


@pytest.mark.parametrize("config", ["null", "{}", "{replies: [a], tokens: 3}"])
async def test_options_that_a_module_has_are_no_warnings(services: Services, config: str) -> None:
    text = f"""
bundle: {{name: dev}}
session: {{orchestrator: loop-basic, context: context-simple}}
providers: [{{module: provider-scripted, config: {config}}}]
"""

    assert (await services.plans.validate_document(text)).warnings == []
