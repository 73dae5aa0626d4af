"""Servers as processes: one at a time, and a prompt end."""

import subprocess
import time
from pathlib import Path

import pytest

from live_server import COMMAND, LiveServer


def default_session(server: LiveServer) -> str:
    (config,) = server.get("/configs")["configs"]
    return server.session(config["config_id"])


def test_a_second_server_on_the_same_data_folder_refuses_to_start(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        second = subprocess.run(
            [*COMMAND, "serve", "--port", "0", "--data", str(server.data_dir)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

        assert second.returncode == 1
        assert str(server.process.pid) in second.stderr and "Traceback" not in second.stderr
        assert server.get("/ready") == {"ready": True}


def test_a_second_server_on_the_same_database_file_refuses_to_start(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        database = f"sqlite:///{server.data_dir / 'app.db'}"
        second = subprocess.run(
            [*COMMAND, "serve", "--port", "0", "--data", str(tmp_path / "other"), "--database-url", database],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert second.returncode == 1
    assert "in use" in second.stderr or "another server" in second.stderr.lower()


@pytest.mark.postgres
def test_two_servers_on_one_postgresql_database_serve_the_same_session(tmp_path: Path, postgres_url: str) -> None:
    with (
        LiveServer(tmp_path / "one", "--database-url", postgres_url) as one,
        LiveServer(tmp_path / "two", "--database-url", postgres_url) as two,
    ):
        session_id = default_session(one)
        for server, message in ((one, "hello"), (two, "from the other"), (one, "and back")):
            assert server.say(session_id, message)["response"] == message

        assert [message["role"] for message in one.transcript(session_id)] == ["user", "assistant"] * 3


def test_open_streams_do_not_keep_a_server_that_is_told_to_stop(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        session_id = default_session(server)
        with server.client.stream("GET", f"/sessions/{session_id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": open"
            begun = time.monotonic()
            code = server.terminate()
            rest = list(lines)

    assert code == 0
    assert time.monotonic() - begun < 10
    assert any(line.startswith("event: session.created") for line in rest)


def test_a_turn_that_outlasts_the_grace_of_a_stopping_server_goes_on_when_the_server_is_back(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", AMPLIFIER_SHUTDOWN_GRACE="100ms") as server:
        session_id = default_session(server)
        stream = server.stream(session_id, "[[slow: tokens=100 delay_ms=20]]")
        while next(stream)["type"] != "message.delta":
            pass
        assert server.terminate() == 0
        list(stream)
        server.start()

        turn = server.turn_ended(session_id)
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
        assert turn["response"].split() == [f"w{n}" for n in range(100)]
        types = [event["type"] for event in server.log_of(session_id)]
        assert types.count("turn.recovered") == types.count("message.discarded") == 1
        assert [message["role"] for message in server.transcript(session_id)] == ["user", "assistant"]


def test_the_default_config_does_not_come_back_once_it_was_deleted(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        (config,) = server.get("/configs")["configs"]
        assert config["name"] == "foundation-default"
        assert server.client.delete(f"/configs/{config['config_id']}").status_code == 200
        server.terminate()
        server.start()

        assert server.get("/configs")["total"] == 0
