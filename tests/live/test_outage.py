"""The database goes away in the middle of a turn, and comes back."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from live_server import LiveServer

SLOW = "[[slow: tokens=200 delay_ms=5]]"
WORDS = " ".join(f"w{number}" for number in range(200))
WITH_A_TOOL = "[[tool: list_directory {}]] [[then: done]]"


@contextmanager
def closed(postgres_url: str) -> Iterator[None]:
    """A database that takes nobody: who is connected is thrown out, and new connections are refused."""
    name = urlsplit(postgres_url).path.removeprefix("/")
    elsewhere = urlsplit(postgres_url)._replace(path="/postgres").geturl()

    async def allow(connections: bool) -> None:
        connection = await asyncpg.connect(elsewhere)
        try:
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(connections).lower()}')
            if not connections:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
                )
        finally:
            await connection.close()

    asyncio.run(allow(False))
    try:
        yield
    finally:
        asyncio.run(allow(True))


def until_logged(server: LiveServer, sentence: str) -> None:
    """Return when the server's log says so."""
    deadline = time.monotonic() + 30
    while sentence not in server.log.read_text():
        assert time.monotonic() < deadline, f"it did not log: {sentence}"
        time.sleep(0.01)


def test_a_turn_outlives_an_outage_of_its_database_and_its_reader_sees_every_word_once(
    postgres_url: str, tmp_path: Path
) -> None:
    with LiveServer(tmp_path / "data", AMPLIFIER_DATABASE_URL=postgres_url) as server:
        (config,) = server.get("/configs")["configs"]
        session_id = server.session(config["config_id"])
        said: list[str] = []
        stream = server.stream(session_id, SLOW)
        for event in stream:
            if event["type"] == "message.delta":
                said.append(event["text"])
                break
        with closed(postgres_url):
            refused = server.client.post(
                f"/sessions/{session_id}/turns", json={"message": "hello", "when_busy": "queue"}
            )
            assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
            until_logged(server, "the database is away; the end of a turn waits for it")
        rest = list(stream)

        said += [event["text"] for event in rest if event["type"] == "message.delta"]
        assert "".join(said) == WORDS
        assert [event["status"] for event in rest if event["type"] == "done"] == ["completed"]
        numbers = [event["seq"] for event in server.log_of(session_id)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert server.say(session_id, WITH_A_TOOL)["response"] == "done"
