"""What runs for one session: commands that are waited for, and jobs in the background."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from amplifier_app_api.modules.tools.processes import Command, Ending
from amplifier_app_api.modules.tools.refusals import Refused

KEPT_JOBS = 32
"""How many jobs, with what they said, are remembered after they ended."""

_REASONS = {
    "stopped": "it was stopped",
    "time": "it ran longer than it may",
    "processes": "it started more processes than it may",
    "memory": "it used more memory than it may",
    "output": "it said more than it may",
}


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    line: str
    command: Command

    def state(self) -> str:
        return told(self.command.ending)


class Jobs:
    """The jobs of one session, by the ids the model knows. Those that ended longest ago are forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: dict[str, Job] = {}
        self._made = 0

    def check_room(self) -> None:
        running = sum(job.command.ending is None for job in self._jobs.values())
        if running >= self._most:
            raise Refused(f"{running} jobs are running, and no more may; stop one or wait for its end")

    def add(self, line: str, command: Command) -> Job:
        self._made += 1
        job = Job(f"job-{self._made}", line, command)
        self._jobs[job.id] = job
        ended = [known.id for known in self._jobs.values() if known.command.ending is not None]
        for forgotten in ended[: max(0, len(ended) - KEPT_JOBS)]:
            del self._jobs[forgotten]
        return job

    def named(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise Refused(f"There is no job {job_id!r}. Jobs: {', '.join(self._jobs) or 'none'}")
        return job

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    async def stop_all(self) -> None:
        await asyncio.gather(*(job.command.stop() for job in self.all()), return_exceptions=True)


def told(ending: Ending | None) -> str:
    """A sentence about how a command ended, or that it has not."""
    if ending is None:
        return "running"
    if ending.ended_by is not None:
        return f"ended: {_REASONS.get(ending.ended_by, ending.ended_by)}"
    if ending.signal is not None:
        return f"ended by signal {ending.signal}"
    return f"ended with exit code {ending.code}"
