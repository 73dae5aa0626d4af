"""A conversation on the real kernel, and what can be seen of it from outside."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from amplifier_core import AmplifierSession
from amplifier_core.events import ALL_EVENTS
from amplifier_core.loader import ModuleLoader
from amplifier_core.models import HookResult, ToolResult

from amplifier_app_api.modules import load_mount

STREAM = ("llm:stream_block_start", "llm:stream_block_delta", "llm:stream_block_end", "llm:stream_aborted")
Answer = HookResult | None


class BuiltinLoader(ModuleLoader):
    async def load(self, module_id: str, config: Any = None, **_: Any) -> Any:
        mount = load_mount(module_id)

        async def mounted(coordinator: Any) -> Any:
            return await mount(coordinator, config or {})

        return mounted


class CallbackTool:
    """A tool that does what the test says."""

    def __init__(self, name: str, work: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self.name = name
        self.description = f"The tool {name}"
        self.input_schema = {"type": "object"}
        self._work = work

    async def execute(self, arguments: dict[str, Any]) -> Any:
        return await self._work(arguments)


class Chat:
    """One kernel session; `events` is everything it told, in order."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.events: list[tuple[str, dict[str, Any]]] = []
        for event in (*ALL_EVENTS, *STREAM):
            session.coordinator.hooks.register(event, self._record, 1000, f"recorder:{event}")

    async def _record(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    @property
    def coordinator(self) -> Any:
        return self.session.coordinator

    @property
    def orchestrator(self) -> Any:
        return self.coordinator.get("orchestrator")

    async def say(self, prompt: str) -> str:
        return await self.session.execute(prompt)

    async def start(self, prompt: str) -> asyncio.Task[str]:
        """The loop's own task, as a host runs it when it wants to be able to cancel it."""
        coordinator = self.coordinator
        return asyncio.create_task(
            self.orchestrator.execute(
                prompt=prompt,
                context=coordinator.get("context"),
                providers=coordinator.get("providers"),
                tools=coordinator.get("tools"),
                hooks=coordinator.hooks,
                coordinator=coordinator,
            )
        )

    async def history(self) -> list[dict[str, Any]]:
        return await self.coordinator.get("context").get_messages()

    async def add_tool(self, name: str, work: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        await self.coordinator.mount("tools", CallbackTool(name, work), name=name)

    async def add_result(self, name: str, output: Any) -> None:
        async def work(_: dict[str, Any]) -> ToolResult:
            return ToolResult(output=output)

        await self.add_tool(name, work)

    def on(self, event: str, answer: Callable[[dict[str, Any]], Answer]) -> None:
        async def handler(_: str, data: dict[str, Any]) -> Answer:
            return answer(data)

        self.coordinator.hooks.register(event, handler, 0, f"test:{event}")

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == event]

    def names(self, *among: str) -> list[str]:
        return [name for name, _ in self.events if not among or name in among]


OpenChat = Callable[..., Awaitable[Chat]]


@pytest.fixture
async def open_chat() -> AsyncIterator[OpenChat]:
    """`await open_chat(replies=[…], loop="loop-basic", options={…}, context=…, providers=[…])`."""
    opened: list[Chat] = []

    async def open_one(
        *,
        loop: str = "loop-streaming",
        options: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        providers: list[dict[str, Any]] | None = None,
        working_dir: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        hooks: list[str | dict[str, Any]] | None = None,
        capabilities: dict[str, Any] | None = None,
        approval_system: Any = None,
        display_system: Any = None,
        **scripted: Any,
    ) -> Chat:
        plan = {
            "session": {
                "orchestrator": {"module": loop, "config": options or {}},
                "context": context or {"module": "context-simple"},
            },
            "providers": providers if providers is not None else [{"module": "provider-scripted", "config": scripted}],
            "tools": tools or [],
            "hooks": [{"module": hook} if isinstance(hook, str) else hook for hook in hooks or []],
        }
        session = AmplifierSession(plan, approval_system=approval_system, display_system=display_system)
        session.coordinator.loader = BuiltinLoader(session.coordinator)
        if working_dir is not None:
            session.coordinator.register_capability("session.working_dir", working_dir)
        for name, capability in (capabilities or {}).items():
            session.coordinator.register_capability(name, capability)
        chat = Chat(session)
        opened.append(chat)
        await session.initialize()
        return chat

    yield open_one
    for chat in opened:
        await chat.session.cleanup()
