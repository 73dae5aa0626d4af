"""Every benchmark, one after the other, each in a process of its own: one table, and what the machine was."""

import json
import subprocess
import sys
from pathlib import Path

from figures import Figure, table
from machine import facts

BENCHMARKS = (
    "turns",
    "opening",
    "preparing",
    "modules",
    "streaming",
    "slow_streams",
    "memory",
    "long_session",
    "tool_turns",
    "many_sessions",
    "recovery",
)
LIMIT_SECONDS = 400


def main() -> int:
    """Run what is named on the command line, or everything; 1 when something did not run."""
    chosen = sys.argv[1:] or BENCHMARKS
    before = facts()
    failed: list[str] = []
    for name in chosen:
        script = Path(__file__).with_name(f"{name}.py")
        done = subprocess.run(
            [sys.executable, str(script), "--json"], stdout=subprocess.PIPE, timeout=LIMIT_SECONDS, check=False
        )
        print(f"\n### {name}\n")
        if done.returncode:
            failed.append(name)
            print("did not run")
            continue
        print(table([Figure(**figure) for figure in json.loads(done.stdout)]), flush=True)
    print("\n### Machine\n")
    for fact, value in before.items():
        print(f"- {fact}: {value}" + (f" before, {facts()[fact]} after" if fact == "load average" else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
