"""A host that makes child sessions, for the tools that ask for them."""

import asyncio
from collections.abc import Callable
from typing import Any

from amplifier_core.models import HookResult
from amplifier_core.testing import MockContextManager, MockCoordinator

from amplifier_app_api.modules import load_mount

AGENTS = {
    "explorer": {"description": "Finds\nthings", "tools": []},
    "reviewer": {"meta": {"name": "reviewer", "description": "Reads critically"}},
}


class Host:
    """Children answer with `answer`, which may raise or wait; `asked` is what they were asked, in order."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.coordinator = MockCoordinator()
        self.coordinator.config.update({"agents": AGENTS, **(config or {})})
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[dict[str, Any]], Any] = lambda given: {
            "output": "done",
            "session_id": given["sub_session_id"],
        }
        self.waiting = asyncio.Event()
        for name in ("session.spawn", "session.resume"):
            self.coordinator.register_capability(name, self._capability(name))

    async def mount(self, module_id: str, options: dict[str, Any] | None = None) -> None:
        await load_mount(module_id)(self.coordinator, options or {})
        for event in (await self.coordinator.collect_contributions("observability.events"))[0]:
            self.coordinator.hooks.register(event, self._hear, name=f"test:{event}")

    async def say(self, *messages: dict[str, Any]) -> None:
        """What was said in the parent session so far."""
        context = MockContextManager()
        for message in messages:
            await context.add_message(message)
        await self.coordinator.mount("context", context)

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.coordinator.get("tools", tool).execute(arguments)

    async def refusal(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert not result.success
        return str(result.output)

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """The events, without what the kernel adds to each."""
        added = ("timestamp", "session_id", "parent_id")
        return [(event, {key: data[key] for key in data if key not in added}) for event, data in self.events]

    def wait_for_ever(self, given: dict[str, Any]) -> Any:
        async def wait() -> None:
            self.waiting.set()
            await asyncio.Event().wait()

        return wait()

    def _capability(self, name: str) -> Any:
        async def ask(**given: Any) -> Any:
            self.asked.append((name, given))
            answer = self.answer(given)
            return await answer if asyncio.iscoroutine(answer) else answer

        return ask

    async def _hear(self, event: str, data: dict[str, Any]) -> HookResult:
        self.events.append((event, data))
        return HookResult(action="continue")


def fails(error: Exception) -> Callable[[dict[str, Any]], Any]:
    def answer(given: dict[str, Any]) -> Any:
        raise error

    return answer
