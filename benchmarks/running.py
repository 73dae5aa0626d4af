"""Running a benchmark: the event loop that the server uses, and an end whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from figures import Figure, show
from uvicorn.loops.auto import auto_loop_factory


def main(measure: Callable[[], Awaitable[Sequence[Figure]]], *, limit_seconds: float) -> None:
    """Measure and print. More than `limit_seconds` is a failure."""

    async def bounded() -> Sequence[Figure]:
        async with asyncio.timeout(limit_seconds):
            return await measure()

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        show(runner.run(bounded()))
