"""Opening a session: on a revision nobody opened before, on a prepared one, and again with a history.

Every "first" is a Config of its own, so that its bundle is prepared anew; modules are imported already.
"""

import statistics
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from figures import Figure, Samples, ratio, timed
from in_process import Managers, config_text, managers
from running import main
from server import Server, serving
from wire import Connection

from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.opening import OpenRequest

T = TypeVar("T")

ROUNDS = 15
LATER = 10
HISTORIES = (10, 500)
MESSAGE = "A message of an ordinary length, which the model is going to repeat word by word."


@dataclass
class Taken:
    """What was measured, by name."""

    samples: defaultdict[str, Samples] = field(default_factory=lambda: defaultdict(Samples))

    async def of(self, name: str, work: Awaitable[T]) -> T:
        """Await `work` and note what it took."""
        return await self.samples[name].of(work)

    def figure(self, name: str, *, at_most_ms: float | None = None) -> Figure:
        """Median and p95 of one."""
        return timed(name, self.samples[name].wall, at_most_ms=at_most_ms)

    def cpu(self, name: str) -> Figure:
        """The same of this process's processors."""
        return timed(f"{name}: CPU", self.samples[name].cpu)


async def measure() -> list[Figure]:
    """Every figure of this page."""
    taken = Taken()
    async with managers() as inside, serving() as server, _connected(server) as connection:
        reopen = {length: await _with_history(inside, connection, length) for length in HISTORIES}
        for number in range(ROUNDS + 1):
            if number == 1:
                taken.samples.clear()  # the round before warmed up
            await _open_over_http(taken, connection, number)
            await _open_in_process(taken, inside, number)
            for length, (managed, remote) in reopen.items():
                await _reopen(taken, inside, connection, managed, remote, f"{length} messages")
    names = [f"{length} messages" for length in HISTORIES]
    small, grown = (taken.samples[f"resume in process, {name}"].wall for name in names)
    return [
        taken.figure("create_session, prepared", at_most_ms=3),
        taken.cpu("create_session, prepared"),
        taken.figure("of it, preparing and mounting"),
        taken.figure("create_session, new revision"),
        taken.figure("POST /sessions, prepared"),
        taken.figure("POST /sessions, new revision"),
        *(taken.figure(f"resume in process, {name}") for name in names),
        *(taken.figure(f"POST /sessions/.../resume, {name}") for name in names),
        ratio("resume, 500 : 10 messages", statistics.median(grown) / statistics.median(small)),
    ]


@asynccontextmanager
async def _connected(server: Server) -> AsyncGenerator[Connection]:
    connection = await Connection.open(server.port)
    yield connection
    await connection.close()


async def _open_over_http(taken: Taken, connection: Connection, number: int) -> None:
    body = {"name": f"bench {number}", "yaml_content": config_text(f"remote-{number}")}
    config = (await connection.json("POST", "/configs", body))["config_id"]
    await taken.of("POST /sessions, new revision", connection.json("POST", "/sessions", {"config_id": config}))
    for _ in range(LATER):
        await taken.of("POST /sessions, prepared", connection.json("POST", "/sessions", {"config_id": config}))


async def _open_in_process(taken: Taken, inside: Managers, number: int) -> None:
    text = config_text(f"local-{number}")
    config = (await inside.configs.create_config(f"bench {number}", text)).config_id
    await taken.of("create_session, new revision", inside.sessions.create_session(config))
    for index in range(LATER):
        await taken.of("create_session, prepared", inside.sessions.create_session(config))
        request = OpenRequest(
            tenant_id="local",
            session_id=f"bench-{number}-{index}",
            text=text,
            working_dir=str(inside.runtime.options.data_dir),
            variables={},
        )
        live = LiveSession(request.session_id, request.tenant_id)
        opening = inside.runtime.opener.open(request, live)
        live.opened = await taken.of("of it, preparing and mounting", opening)
        await live.opened.kernel.close()


async def _with_history(inside: Managers, connection: Connection, length: int) -> tuple[str, str]:
    """A session in process and one of the server, both with `length` messages."""
    config = (await inside.configs.create_config("bench", config_text())).config_id
    managed = (await inside.sessions.create_session(config)).session_id
    body = {"name": f"history of {length}", "yaml_content": config_text()}
    remote_config = (await connection.json("POST", "/configs", body))["config_id"]
    remote = (await connection.json("POST", "/sessions", {"config_id": remote_config}))["session_id"]
    for _ in range(length // 2):
        await inside.sessions.send_message(managed, MESSAGE)
        await connection.json("POST", f"/sessions/{remote}/messages", {"message": MESSAGE})
    return managed, remote


async def _reopen(taken: Taken, inside: Managers, connection: Connection, managed: str, remote: str, name: str) -> None:
    await inside.sessions.patch_session(managed, {"status": "completed"})
    await taken.of(f"resume in process, {name}", inside.sessions.resume_session(managed))
    path = f"/sessions/{remote}"
    await connection.json("PATCH", path, {"status": "completed"})
    await taken.of(f"POST /sessions/.../resume, {name}", connection.json("POST", f"{path}/resume"))


if __name__ == "__main__":
    main(measure, limit_seconds=180)
