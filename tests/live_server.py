"""A real server process, and a client that reads its streams."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2

COMMAND = [sys.executable, "-m", "amplifier_app_api"]


class LiveServer:
    """`amplifier-api serve` on a free port: started, killed, started again on the same data."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.client = httpx2.Client(timeout=30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self._process is not None:
            self.kill()

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start, and return when it takes requests."""
        with self.log.open("a") as errors:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", "--data", str(self.data_dir), *self._arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self._environment},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("amplifier-api is ready on http://"), self.log.read_text()
        self.client.base_url = httpx2.URL(line.split()[4])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._ended()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> int:
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._process = None
        return code

    def post(self, path: str, body: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The JSON of a POST that succeeds."""
        answer = self.client.post(path, json=body, **kwargs)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON of a GET that succeeds."""
        answer = self.client.get(path, **kwargs)
        assert answer.is_success, answer.text
        return answer.json()

    def config(self, text: str) -> str:
        """Store a bundle; its id."""
        return self.post("/configs", {"name": "test", "yaml_content": text})["config_id"]

    def session(self, config_id: str, **fields: Any) -> str:
        """Open a session; its id."""
        return self.post("/sessions", {"config_id": config_id, **fields})["session_id"]

    def say(self, session_id: str, message: str) -> dict[str, Any]:
        """Send a message and wait for the answer."""
        return self.post(f"/sessions/{session_id}/messages", {"message": message})

    def stream(self, session_id: str, message: str) -> Iterator[dict[str, Any]]:
        """Send a message and yield what comes."""
        with self.client.stream("POST", f"/sessions/{session_id}/stream", json={"message": message}) as answer:
            assert answer.is_success, answer.read()
            yield from payloads(answer.iter_lines())

    def turn_ended(self, session_id: str) -> dict[str, Any]:
        """The last turn of a session, when it has ended."""
        deadline = time.monotonic() + 30
        while True:
            turn = self.get(f"/sessions/{session_id}/turns", params={"limit": 1})["turns"][0]
            if turn["ended_at"] is not None:
                return turn
            assert time.monotonic() < deadline, turn
            time.sleep(0.05)

    def transcript(self, session_id: str) -> list[dict[str, Any]]:
        """The messages."""
        return self.get(f"/sessions/{session_id}/messages", params={"limit": 200})["messages"]

    def log_of(self, session_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Every durable event after a number."""
        last = self.get(f"/sessions/{session_id}")["last_seq"]
        events: list[dict[str, Any]] = []
        with self.client.stream("GET", f"/sessions/{session_id}/events", params={"after": after}) as answer:
            for event in payloads(answer.iter_lines()):
                events += [event] if "seq" in event else []
                if event.get("seq", 0) >= last:
                    return events
        raise AssertionError("the stream ended before the log did")


def payloads(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of every event of a stream."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
