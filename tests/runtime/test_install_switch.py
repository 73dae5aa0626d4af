"""The switch that lets the server install what modules need."""

import os
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import NotRunnable
from amplifier_app_api.core import ConfigManager
from amplifier_app_api.core.planner import ConfigPlanner
from runtime_bundles import MODULES, bundle_text, from_folder
from third_party import forget_modules, wheel


async def test_a_session_gets_what_its_modules_need_when_the_operator_allows_it(
    open_chat: Any, make_sessions: Any, tmp_path: Path
) -> None:
    forget_modules(MODULES, tmp_path)
    wheel(tmp_path / "wheels", "tide-tables", "2.1", "NEXT = 'high water at four'\n")
    environment = {**os.environ, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "wheels")}
    text = bundle_text(tools=[from_folder("tool-tides")], replies=["[[tool: tides {}]] [[then: thanks]]"])
    with pytest.raises(NotRunnable, match="AMPLIFIER_INSTALL_DEPENDENCIES=on"):
        await open_chat(text)

    manager = make_sessions(install_dependencies=True, environment=environment)
    chat = await open_chat(text, manager=manager)

    assert await chat.say("when?") == "thanks"
    assert ("tool", "high water at four") in await chat.transcript()
    forget_modules(MODULES, tmp_path)


async def test_a_plan_says_what_would_be_installed_and_installs_nothing(
    make_sessions: Any, configs: ConfigManager, tmp_path: Path
) -> None:
    forget_modules(MODULES, tmp_path)
    environment = {**os.environ, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "nowhere")}
    runtime = make_sessions(install_dependencies=True, environment=environment)._runtime
    planner = ConfigPlanner(configs, runtime.opener, runtime.options)

    plan = await planner.plan_document(bundle_text(tools=[from_folder("tool-tides")]), {})

    assert plan.runnable is True
    assert [warning for warning in plan.warnings if "tide-tables" in warning] == [
        "tool-tides needs tide-tables<3,>=2.0, which is installed when a session opens."
    ]
    assert not list((runtime.options.data_dir / "modules").glob("*"))
