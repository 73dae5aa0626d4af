"""Every built-in module against the kernel's own conformance suite.

The kernel's pytest plugin, which would find modules by their folder names, is off; its fixtures are given here.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.message_models import ChatResponse, TextBlock
from amplifier_core.models import ProviderInfo
from amplifier_core.testing import EventRecorder, MockContextManager, MockCoordinator, MockTool
from amplifier_core.validation import (
    ContextValidator,
    HookValidator,
    OrchestratorValidator,
    ProviderValidator,
    ToolValidator,
)
from amplifier_core.validation.behavioral import (
    ContextBehaviorTests,
    HookBehaviorTests,
    OrchestratorBehaviorTests,
    ProviderBehaviorTests,
    ToolBehaviorTests,
)

from amplifier_app_api.modules import BUILTIN_MODULES, load_mount
from doubles.fake_llm import FakeLLM

VALIDATORS = {
    "orchestrator": OrchestratorValidator,
    "context": ContextValidator,
    "provider": ProviderValidator,
    "tool": ToolValidator,
    "hook": HookValidator,
}
POINTS = {"orchestrator": "orchestrator", "context": "context", "provider": "providers", "tool": "tools"}


def ids_of(kind: str) -> list[str]:
    return [module.id for module in BUILTIN_MODULES.values() if module.kind == kind]


def options_for(module_id: str, llm: FakeLLM) -> dict[str, Any]:
    return {
        "provider-anthropic": {"api_key": "test", "base_url": llm.url},
        "provider-gemini": {"api_key": "test", "base_url": llm.url},
        "provider-openai": {"api_key": "test", "base_url": llm.url},
        "provider-azure-openai": {"api_key": "test", "azure_endpoint": llm.url},
        "provider-vllm": {"base_url": llm.url},
        "provider-ollama": {"host": llm.url},
    }.get(module_id, {})


class Double:
    """The smallest provider a loop can use."""

    name = "double"

    def get_info(self) -> ProviderInfo:
        return ProviderInfo(id="double", display_name="Double")

    async def list_models(self) -> list[Any]:
        return []

    async def complete(self, request: Any, **_: Any) -> ChatResponse:
        return ChatResponse(content=[TextBlock(text="an answer")])

    def parse_tool_calls(self, response: ChatResponse) -> list[Any]:
        return []


@pytest.fixture
def coordinator(tmp_path: Path) -> MockCoordinator:
    made = MockCoordinator()
    made.register_capability("session.working_dir", str(tmp_path))
    return made


@pytest.fixture
def mock_deps() -> tuple[Any, dict[str, Any], dict[str, Any], Any]:
    return MockContextManager(), {"default": Double()}, {"test_tool": MockTool("test_tool")}, EventRecorder()


@pytest.fixture
async def mounted(request: pytest.FixtureRequest, coordinator: MockCoordinator, llm: FakeLLM) -> AsyncIterator[Any]:
    """The object that the module named by the parameter mounts; the first of several."""
    module = BUILTIN_MODULES[request.param]
    cleanup = await load_mount(module.id)(coordinator, options_for(module.id, llm))
    found = coordinator.get(POINTS[module.kind])
    yield next(iter(found.values())) if isinstance(found, dict) else found
    if cleanup is not None:
        await cleanup()


@pytest.fixture
async def hook_cleanup(request: pytest.FixtureRequest, coordinator: MockCoordinator) -> Any:
    """What the hook module named by the parameter gives to be closed by."""
    return await load_mount(request.param)(coordinator, {})


@pytest.fixture
def orchestrator_module(mounted: Any) -> Any:
    return mounted


@pytest.fixture
def context_module(mounted: Any) -> Any:
    return mounted


@pytest.fixture
def provider_module(mounted: Any) -> Any:
    return mounted


@pytest.fixture
def tool_module(mounted: Any) -> Any:
    return mounted


@pytest.mark.parametrize("mounted", ids_of("orchestrator"), indirect=True)
class TestOrchestrators(OrchestratorBehaviorTests):
    pass


@pytest.mark.parametrize("mounted", ids_of("context"), indirect=True)
class TestContexts(ContextBehaviorTests):
    pass


@pytest.mark.parametrize("mounted", ids_of("provider"), indirect=True)
class TestProviders(ProviderBehaviorTests):
    pass


@pytest.mark.parametrize("mounted", ids_of("tool"), indirect=True)
class TestTools(ToolBehaviorTests):
    pass


@pytest.mark.usefixtures("hook_cleanup")
@pytest.mark.parametrize("hook_cleanup", ids_of("hook"), indirect=True)
class TestHooks(HookBehaviorTests):
    pass


@pytest.mark.parametrize("module_id", BUILTIN_MODULES)
async def test_the_kernel_finds_nothing_wrong_with_the_structure_of(module_id: str, llm: FakeLLM) -> None:
    module = BUILTIN_MODULES[module_id]

    result = await VALIDATORS[module.kind]().validate(module.target, config=options_for(module_id, llm))

    assert [f"{check.name}: {check.message}" for check in [*result.errors, *result.warnings]] == []
