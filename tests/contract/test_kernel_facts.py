"""What the kernel does that one would not expect, one test each: when one fails, `runtime/kernel/` can be simpler."""

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amplifier_core import AmplifierSession, HookResult, ModuleLoader
from amplifier_core.loader import ModuleValidationError

from amplifier_app_api.runtime.kernel.dispose import dispose
from runtime_faults import written_module


class Context:
    async def add_message(self, message: Any) -> None: ...

    async def get_messages(self) -> list[Any]:
        return []

    async def set_messages(self, messages: Any) -> None: ...


class Loop:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.task: asyncio.Task[Any] | None = None

    async def execute(self, prompt: str, **kwargs: Any) -> Any:
        self.task = asyncio.current_task()
        return await self.work()


class Loader:
    """Mounts a loop and a context, and fails for everything else."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.asked: list[str] = []
        self.loop = Loop(work)
        self.context = Context()

    async def load(self, module_id: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(module_id)

        async def mount(coordinator: Any) -> None:
            match module_id:
                case "loop":
                    await coordinator.mount("orchestrator", self.loop)
                case "context":
                    await coordinator.mount("context", self.context)
                case _:
                    raise RuntimeError("cannot be mounted")

        return mount

    def get_on_session_ready_queue(self) -> list[Any]:
        return []

    def clear_on_session_ready_queue(self) -> None: ...

    def enqueue_on_session_ready(self, *args: Any) -> None: ...

    def cleanup(self) -> None: ...


async def done() -> str:
    return "done"


def plan(**sections: Any) -> dict[str, Any]:
    return {"session": {"orchestrator": {"module": "loop"}, "context": {"module": "context"}}, **sections}


async def opened(work: Callable[[], Any] = done, **sections: Any) -> tuple[Any, Loader]:
    session: Any = AmplifierSession(plan(**sections))
    loader = Loader(work)
    session.coordinator.loader = loader
    await session.initialize()
    return session, loader


async def test_the_loader_given_to_a_session_is_ignored_and_the_one_on_the_coordinator_is_used() -> None:
    ignored, used = Loader(done), Loader(done)
    session: Any = AmplifierSession(plan(), loader=ignored)
    assert session.coordinator.loader is None
    session.coordinator.loader = used

    await session.initialize()

    assert (ignored.asked, used.asked) == ([], ["loop", "context"])
    await session.cleanup()


async def test_a_tool_that_cannot_be_mounted_does_not_keep_a_session_from_opening() -> None:
    session, loader = await opened(tools=[{"module": "tool-broken"}], hooks=[{"module": "hooks-broken"}])

    assert loader.asked == ["loop", "context", "tool-broken", "hooks-broken"]
    assert await session.execute("hi") == "done"
    await session.cleanup()


async def test_a_session_keeps_the_very_mapping_it_was_given() -> None:
    mine = plan()
    session: Any = AmplifierSession(mine)

    assert session.config is mine
    assert session.coordinator.config is mine


async def test_what_a_loop_raises_comes_out_as_a_runtime_error_without_its_cause() -> None:
    async def fail() -> str:
        raise LookupError("the real one")

    session, _ = await opened(fail)

    with pytest.raises(RuntimeError, match=r"^Execution failed: ") as raised:
        await session.execute("hi")

    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    await session.cleanup()


async def test_cancelling_who_awaits_a_turn_does_not_stop_its_loop_and_cancelling_the_loop_does() -> None:
    entered, go_on, passed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        entered.set()
        await go_on.wait()
        passed.set()
        return "done"

    session, loader = await opened(wait)
    awaiter = asyncio.ensure_future(session.execute("hi"))
    await asyncio.wait_for(entered.wait(), 5)
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiter
    go_on.set()
    await asyncio.wait_for(passed.wait(), 5)

    entered.clear()
    go_on.clear()
    awaiter = asyncio.ensure_future(session.execute("hi"))
    await asyncio.wait_for(entered.wait(), 5)
    assert loader.loop.task is not None
    loader.loop.task.cancel()
    with pytest.raises(RuntimeError, match="CancelledError"):
        await asyncio.wait_for(awaiter, 5)
    await session.cleanup()


async def test_the_cancellation_token_stays_set_after_a_turn() -> None:
    session, _ = await opened()
    session.coordinator.cancellation.request_immediate()

    await session.execute("hi")

    assert session.coordinator.cancellation.is_cancelled
    session.coordinator.cancellation.reset()
    assert not session.coordinator.cancellation.is_cancelled
    await session.cleanup()


@pytest.mark.parametrize("let_go", [False, True])
async def test_a_finished_session_stays_in_memory_until_its_references_are_cut(let_go: bool) -> None:
    session, loader = await opened()
    held = weakref.ref(loader.context)
    await session.cleanup()
    if let_go:
        dispose(session)
    del session, loader
    gc.collect()

    assert (held() is None) is let_go


async def test_the_engine_refuses_half_a_character() -> None:
    async def half() -> str:
        return "a\udc80"

    session, _ = await opened(half)

    with pytest.raises(UnicodeEncodeError):
        await session.execute("hi")
    await session.cleanup()


async def test_validation_does_not_see_the_type_of_a_folder_that_is_the_package_itself(tmp_path: Path) -> None:
    code = """
    __amplifier_module_type__ = "hook"

    async def mount(coordinator, config=None):
        return None
    """
    entry = written_module(tmp_path, "tool", code, layout="folder")

    with pytest.raises(ModuleValidationError):
        await ModuleLoader()._validate_module(entry["module"], Path(entry["source"]))

    assert str(tmp_path) not in sys.path


async def test_the_registry_tells_who_listens_so_that_the_host_can_pass_it_by() -> None:
    session, _ = await opened()
    hooks = session.coordinator.hooks

    async def listen(event: str, data: Any) -> HookResult:
        return HookResult(action="continue")

    hooks.register("llm:stream_block_delta", listen, 0, name="listen")

    listened = hooks.list_handlers()
    assert listened.get("llm:stream_block_delta") == ["listen"]
    assert not listened.get("llm:stream_block_start")
    await session.cleanup()
