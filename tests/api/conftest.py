"""The whole service in process: the app over ASGI, on a database file of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI

from amplifier_app_api.app import create_app
from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings

SCRIPTED = """\
bundle:
  name: scripted
includes:
  - bundle: foundation
providers:
  - module: provider-scripted
"""


@pytest.fixture
async def services(data_dir: Path) -> AsyncIterator[Services]:
    async with open_services(Settings(data_dir=data_dir, default_config=False)) as opened:
        yield opened


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services=services)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def config_id(client: httpx2.AsyncClient) -> str:
    """A Config that answers with the user's own words."""
    answer = await client.post("/configs", json={"name": "scripted", "yaml_content": SCRIPTED})
    assert answer.status_code == 201, answer.text
    return answer.json()["config_id"]


@pytest.fixture
async def session_id(client: httpx2.AsyncClient, config_id: str) -> str:
    """A session of that Config."""
    answer = await client.post("/sessions", json={"config_id": config_id})
    assert answer.status_code == 201, answer.text
    return answer.json()["session_id"]


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    type: str
    id: str | None
    data: dict[str, Any]


def parsed(text: str) -> list[Frame]:
    """The events of a stream; comments and `retry` are left out."""
    frames: list[Frame] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            frames.append(Frame(fields["event"], fields.get("id"), orjson.loads(fields["data"])))
    return frames


class EndlessReader:
    """A client that reads a stream until it has seen enough, then hangs up as a browser does."""

    def __init__(self, body: bytes, until: Callable[[list[Frame]], bool]) -> None:
        self._body: bytes | None = body
        self._until = until
        self._sent = bytearray()
        self._enough = asyncio.Event()
        self.opened = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._enough.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self._sent.extend(message.get("body", b""))
        if self._sent:
            self.opened.set()
        if self._until(self.frames):
            self._enough.set()

    @property
    def frames(self) -> list[Frame]:
        return parsed(self._sent.decode())


Follow = Callable[..., Awaitable[list[Frame]]]


@pytest.fixture
def frames_of() -> Callable[[str], list[Frame]]:
    return parsed


@pytest.fixture
def follow(app: FastAPI) -> Follow:
    """Reads a stream `until` it has seen enough; `when_open` runs once the first bytes are there."""

    async def read(
        path: str,
        *,
        until: Callable[[list[Frame]], bool],
        query: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        when_open: Callable[[], Awaitable[None]] | None = None,
    ) -> list[Frame]:
        reader = EndlessReader(body, until)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST" if body else "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
        }
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(app(scope, reader.receive, reader.send))
            if when_open is not None:
                await reader.opened.wait()
                await when_open()
        return reader.frames

    return read
