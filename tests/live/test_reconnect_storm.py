"""A reader whose connection breaks all the time, of a real server: what it has seen at the end is the answer."""

import json
import random
import socket
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from live_server import LiveServer

ENDS = {"turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted"}
BUNDLE = """\
bundle: {name: storm}
includes: [{bundle: foundation}]
providers: [{module: provider-scripted}]
"""


@dataclass
class Storm:
    """A reader over many connections: only whole events count, and each connection ends when its time is over."""

    server: LiveServer
    session_id: str
    last_id: str = "0"
    events: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list[tuple[str | None, dict[str, Any]]])
    connections: int = 0

    def read(self, seconds: float) -> None:
        """One connection, cut off after so many seconds wherever it is."""
        self.connections += 1
        address = urlsplit(str(self.server.client.base_url))
        until = time.monotonic() + seconds
        buffer = b""
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            request = f"GET /sessions/{self.session_id}/events HTTP/1.0\r\nLast-Event-ID: {self.last_id}\r\n\r\n"
            connection.sendall(request.encode())
            while (left := until - time.monotonic()) > 0 and not self.ended:
                connection.settimeout(left)
                try:
                    piece = connection.recv(random.choice([7, 100, 5000]))
                except TimeoutError:
                    return
                if not piece:
                    return
                buffer += piece
                while b"\n\n" in buffer:
                    block, buffer = buffer.split(b"\n\n", 1)
                    self._take(block.decode())

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
        if "data" in fields:
            self.events.append((fields.get("id"), json.loads(fields["data"])))
            self.last_id = fields.get("id", self.last_id)

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1][1]["type"] in ENDS

    def pieces(self, request: int) -> list[dict[str, Any]]:
        return [event for _, event in self.events if event["type"] == "message.delta" and event["request"] == request]

    def text(self, request: int) -> str:
        """The pieces of a request, each of which must begin where the one before ended."""
        text = ""
        for piece in self.pieces(request):
            assert piece["offset"] == len(text)
            text += piece["text"]
        return text

    @property
    def numbers(self) -> list[int]:
        return [event["seq"] for _, event in self.events if "seq" in event]


def begin(server: LiveServer, session_id: str, message: str) -> threading.Thread:
    """Send a message, and leave as soon as it is accepted: the turn goes on."""

    def send() -> None:
        for event in server.stream(session_id, message):
            if event["type"] == "turn.started":
                return

    sender = threading.Thread(target=send)
    sender.start()
    return sender


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_reader_that_drops_all_the_time_has_seen_the_answer_once(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arguments = [] if database == "sqlite" else ["--database-url", request.getfixturevalue("postgres_url")]
    with LiveServer(tmp_path / "data", *arguments) as server:
        session_id = server.session(server.config(BUNDLE))
        sender = begin(server, session_id, "[[slow: tokens=600 delay_ms=8]]")
        storm = Storm(server, session_id)
        while not storm.ended:
            storm.read(random.uniform(0.1, 0.3))
        sender.join()

        answer = storm.events[-1][1]["response"]
        (completed,) = [event for _, event in storm.events if event["type"] == "message.completed"]
        ids = [name for name, _ in storm.events]

        assert storm.connections > 10
        assert storm.text(1) == answer == completed["blocks"][0]["text"]
        assert storm.numbers == list(range(1, len(storm.numbers) + 1))
        assert len(set(ids)) == len(ids) and None not in ids
        assert storm.numbers == [event["seq"] for event in server.log_of(session_id)]


def test_what_was_said_before_the_server_was_killed_is_not_said_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        session_id = server.session(server.config(BUNDLE))
        sender = begin(server, session_id, "[[slow: tokens=150 delay_ms=20]]")
        storm = Storm(server, session_id)
        while len(storm.text(1)) < 200 or not rows_of(tmp_path / "data"):
            storm.read(random.uniform(0.1, 0.3))
        sender.join()
        server.kill()

        kept, said = rows_of(tmp_path / "data"), storm.text(1)
        assert kept and (kept.startswith(said) or said.startswith(kept))

        server.start()
        while not storm.ended:
            storm.read(random.uniform(0.1, 0.3))

        assert storm.numbers == list(range(1, len(storm.numbers) + 1))
        assert storm.text(1) in (said, kept)
        assert any(event["type"] == "message.discarded" and event["request"] == 1 for _, event in storm.events)
        assert storm.events[-1][1]["type"] == "turn.completed"
        assert storm.text(2) == storm.events[-1][1]["response"]
        assert rows_of(tmp_path / "data") == ""


def rows_of(data: Path) -> str:
    """The text of an unfinished answer, as the database of the data folder has it."""
    connection = sqlite3.connect(f"file:{data / 'app.db'}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT text FROM event_deltas ORDER BY number").fetchall()
    finally:
        connection.close()
    return "".join(text for (text,) in rows)
