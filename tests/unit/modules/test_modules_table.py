import subprocess
import sys

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import BUILTIN_MODULES, MissingExtra, load_mount


def test_the_table_names_the_modules_that_ship() -> None:
    assert {module.id: module.kind for module in BUILTIN_MODULES.values()} == {
        "loop-basic": "orchestrator",
        "loop-streaming": "orchestrator",
        "context-simple": "context",
        "context-persistent": "context",
        "provider-scripted": "provider",
        "provider-anthropic": "provider",
        "provider-openai": "provider",
        "provider-azure-openai": "provider",
        "provider-vllm": "provider",
        "provider-ollama": "provider",
        "provider-gemini": "provider",
        "tool-filesystem": "tool",
        "tool-bash": "tool",
        "tool-search": "tool",
        "tool-web": "tool",
        "tool-todo": "tool",
        "tool-task": "tool",
        "tool-delegate": "tool",
        "tool-skills": "tool",
        "tool-mcp": "tool",
        "hooks-approval": "hook",
        "hooks-cost": "hook",
        "hooks-logging": "hook",
        "hooks-redaction": "hook",
        "hooks-session-naming": "hook",
        "hooks-status-context": "hook",
        "hooks-todo-reminder": "hook",
    }


@pytest.mark.parametrize("module_id", BUILTIN_MODULES)
def test_a_module_says_of_which_kind_it_is(module_id: str) -> None:
    mount = load_mount(module_id)

    assert sys.modules[mount.__module__].__amplifier_module_type__ == BUILTIN_MODULES[module_id].kind


def test_an_unknown_module_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="loop-nowhere"):
        load_mount("loop-nowhere")


def test_an_sdk_is_imported_only_when_the_module_that_uses_it_is_mounted() -> None:
    script = (
        "import sys; from amplifier_app_api.modules import BUILTIN_MODULES, load_mount;"
        "[load_mount(module) for module in BUILTIN_MODULES];"
        "print([name for name in ('anthropic', 'openai', 'google.genai', 'ollama', 'mcp') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


async def test_a_missing_sdk_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("amplifier_app_api.modules.providers.anthropic")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anthropic", None)

    with pytest.raises(MissingExtra) as raised:
        await load_mount("provider-anthropic")(MockCoordinator(), {"api_key": "k"})

    assert str(raised.value) == (
        "Module provider-anthropic needs the package 'anthropic': install amplifier-app-api[anthropic]"
    )
    assert (raised.value.module_id, raised.value.extra) == ("provider-anthropic", "anthropic")
