"""What a provider costs a process that has not used it yet: `import_cost.py <module> <options as JSON>`.

Prints, as JSON, the seconds (on the clock, and of the processors) and the resident bytes of mounting it for the first
time. What a server has loaded anyway is loaded before.
"""

import asyncio
import importlib
import json
import sys
import time

from in_process import bare_coordinator
from machine import resident_bytes

from amplifier_app_api.modules import load_mount


async def cost(module_id: str, options: dict[str, object]) -> dict[str, float]:
    """Of the first mount: the import of the vendor's SDK is most of it."""
    coordinator = bare_coordinator(".")
    memory, began, used = resident_bytes(), time.perf_counter(), time.process_time()
    close = await load_mount(module_id)(coordinator, options)
    taken = {
        "wall": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "bytes": resident_bytes() - memory,
    }
    if close is not None:
        await close()
    return taken


if __name__ == "__main__":
    importlib.import_module("amplifier_app_api.app")
    print(json.dumps(asyncio.run(cost(sys.argv[1], json.loads(sys.argv[2])))))
