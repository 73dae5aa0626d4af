"""What the built-in modules cost: mounting each, a turn of each loop with tools, compaction, a provider's first use.

A module is mounted on a kernel session of its own, which is made before the clock starts. Turns are those of the
managers in process, with everything that is written down for them.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from figures import Figure, Samples, ratio, timed
from in_process import bare_coordinator, managers
from running import main

from amplifier_app_api.modules import BUILTIN_MODULES, load_mount

MOUNTS = 100
ROUNDS = 12
TURNS = 10
CALLS = (0, 1, 8)
LOOPS = ("loop-basic", "loop-streaming")
CALL = 'todo {"action": "list"}'
MESSAGES = 2_000
COMPACTIONS = 15
FIRST_USES = 3
MB = 1_000_000

OPTIONS: dict[str, dict[str, Any]] = {
    "provider-anthropic": {"api_key": "k"},
    "provider-openai": {"api_key": "k"},
    "provider-azure-openai": {"api_key": "k", "azure_endpoint": "https://azure.invalid"},
    "provider-gemini": {"api_key": "k"},
}
"""What a module does not mount without."""


async def measure() -> list[Figure]:
    """Every figure of this page."""
    with tempfile.TemporaryDirectory(prefix="bench-modules-") as folder:
        mounts = [timed(f"mount: {module}", (await _mounts(module, folder)).wall) for module in BUILTIN_MODULES]
        first = await asyncio.to_thread(_first_uses)
        return [*mounts, *await _turns(), *await _compactions(folder), *first]


async def _mounts(module_id: str, folder: str) -> Samples:
    samples = Samples()
    for number in range(MOUNTS + 1):
        if number == 1:
            samples = Samples()  # the first one imported it
        coordinator = bare_coordinator(folder)
        close = await samples.of(load_mount(module_id)(coordinator, dict(OPTIONS.get(module_id, {}))))
        closing = close() if close is not None else None
        if closing is not None:
            await closing
    return samples


async def _turns() -> list[Figure]:
    """Loops and numbers of calls take turns, each on a session of its own, new in every round."""
    taken = {(loop, calls): Samples() for loop in LOOPS for calls in CALLS}
    async with managers() as inside:
        configs = {loop: (await inside.configs.create_config(loop, _bundle(loop))).config_id for loop in LOOPS}
        for number in range(ROUNDS + 1):
            if number == 1:
                taken = {key: Samples() for key in taken}  # the round before warmed up
            for (loop, calls), samples in taken.items():
                session = (await inside.sessions.create_session(configs[loop])).session_id
                for _ in range(TURNS):
                    await samples.of(inside.sessions.send_message(session, _message(calls)))
                await inside.sessions.delete_session(session)
    figures: list[Figure] = []
    for loop in LOOPS:
        for calls in CALLS:
            name = f"{loop}: a turn with {calls} tool {'call' if calls == 1 else 'calls'}"
            figures += [timed(name, taken[loop, calls].wall), timed(f"{name}: CPU", taken[loop, calls].cpu)]
    return figures


def _bundle(loop: str) -> str:
    return json.dumps(
        {
            "bundle": {"name": loop},
            "session": {"orchestrator": loop, "context": "context-simple"},
            "providers": [{"module": "provider-scripted"}],
            "tools": [{"module": "tool-todo"}],
        }
    )


def _message(calls: int) -> str:
    """A message that makes the scripted provider ask for so many calls at once, of a tool that does next to nothing."""
    if not calls:
        return "Say this again, please."
    return f"[[tools: {' | '.join([CALL] * calls)}]]"


async def _compactions(folder: str) -> list[Figure]:
    """A conversation twice as long as the budget: the request that makes room, and the one after it."""
    messages = _conversation(MESSAGES)
    taking, first, later = Samples(), Samples(), Samples()
    for number in range(COMPACTIONS + 1):
        if number == 1:
            taking, first, later = Samples(), Samples(), Samples()
        coordinator = bare_coordinator(folder)
        await load_mount("context-simple")(coordinator, {})
        context = coordinator.get("context")
        await taking.of(context.set_messages(messages))
        provider = SimpleNamespace(get_info=lambda: SimpleNamespace(defaults={"context_window": 80_000}))
        shown = await first.of(context.get_messages_for_request(provider=provider))
        if len(shown) >= len(messages):
            raise RuntimeError("nothing was compacted")
        await later.of(context.get_messages_for_request(provider=provider))
    return [
        timed(f"{MESSAGES:,} messages taken in", taking.wall),
        timed(f"compaction of {MESSAGES:,} messages", first.wall),
        timed("the request after it", later.wall),
        ratio("after it : compaction", statistics.median(later.wall) / statistics.median(first.wall)),
    ]


def _conversation(length: int) -> list[dict[str, Any]]:
    """Exchanges of four: a question, a tool call, its result, an answer."""
    messages: list[dict[str, Any]] = []
    for number in range(length // 4):
        call = {"id": f"call-{number}", "tool": "todo", "arguments": {"action": "list"}}
        messages += [
            {"role": "user", "content": f"Question {number}: " + "what else is there to do here? " * 10},
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call-{number}", "name": "todo", "content": "a line of output\n" * 25},
            {"role": "assistant", "content": f"Answer {number}: " + "this is what I found. " * 10},
        ]
    return messages


def _first_uses() -> list[Figure]:
    """In processes of their own, one after the other; the first of each compiles and is not counted."""
    figures: list[Figure] = []
    for module in (module for module in BUILTIN_MODULES.values() if module.kind == "provider"):
        told = [_first_use(module.id) for _ in range(FIRST_USES + 1)][1:]
        memory = statistics.median(each["bytes"] for each in told)
        figures.append(timed(f"first use of {module.id}", [each["wall"] for each in told]))
        figures.append(timed(f"first use of {module.id}: CPU", [each["cpu"] for each in told]))
        figures.append(Figure(f"first use of {module.id}: memory", memory / MB, "MB"))
    return figures


def _first_use(module_id: str) -> dict[str, float]:
    command = [sys.executable, "import_cost.py", module_id, json.dumps(OPTIONS.get(module_id, {}))]
    done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True, timeout=60)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(measure, limit_seconds=300)
