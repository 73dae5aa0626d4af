"""Threads for work that waits for others: for sources to be fetched, for dependencies to be installed.

They are not those of the event loop, which everything else uses: sources that never answer, however many, must not
keep prompts from being built.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 32

_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="prepare")


async def in_waiting_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread` with threads of its own; further work waits for its turn."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: context.run(work, *args, **kwargs))
