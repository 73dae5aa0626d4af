"""The command, as a process: what it prints, how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

COMMAND = [sys.executable, "-m", "amplifier_app_api"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def serving(data_dir: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready, and its address. It is killed at the end if it still runs."""
    log = data_dir.with_suffix(".log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", "--data", str(data_dir), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("amplifier-api is ready on http://"), log.read_text()
            yield process, line.split()[4]
        finally:
            process.kill()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which the command refused."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("amplifier-api: ")]
    return sentence.removeprefix("amplifier-api: ")


def test_a_server_says_where_it_is_and_keeps_everything_below_its_folder(data_dir: Path) -> None:
    with serving(data_dir) as (_, address):
        assert httpx2.get(f"{address}/ready").json() == {"ready": True}
        (config,) = httpx2.get(f"{address}/configs").json()["configs"]

    assert config["name"] == "foundation-default"
    assert (data_dir / "app.db").exists()
    assert data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_with_open_streams_long_before_its_grace(data_dir: Path, number: int) -> None:
    with serving(data_dir) as (process, address), httpx2.Client(base_url=address) as client:
        (config,) = client.get("/configs").json()["configs"]
        session = client.post("/sessions", json={"config_id": config["config_id"]}).json()
        with client.stream("GET", f"/sessions/{session['session_id']}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": open"
            process.send_signal(number)

            rest = list(lines)
            # Well below the 20 s that the server would give to a running turn.
            assert process.wait(timeout=10) == 0

    assert "event: session.created" in rest


def test_a_second_signal_ends_the_grace_of_a_running_turn(data_dir: Path) -> None:
    with serving(data_dir) as (process, address), httpx2.Client(base_url=address) as client:
        (config,) = client.get("/configs").json()["configs"]
        session = client.post("/sessions", json={"config_id": config["config_id"]}).json()
        path, slow = f"/sessions/{session['session_id']}", {"message": "[[slow: tokens=1000 delay_ms=100]]"}
        with client.stream("POST", f"{path}/stream", json=slow) as stream:
            lines = stream.iter_lines()
            assert any(line == "event: message.delta" for line in lines)
            process.send_signal(signal.SIGTERM)
            for _ in lines:
                pass  # until the server ends the stream: then it waits for the turn
            process.send_signal(signal.SIGTERM)
            # Well below the 20 s of grace, and the 100 s that the answer takes.
            assert process.wait(timeout=10) == 0

    with serving(data_dir) as (_, address), httpx2.Client(base_url=address) as client:
        # Nobody's turn is lost by it: the next server goes on with it before it answers its first request.
        (turn,) = client.get(f"{path}/turns").json()["turns"]
        assert turn["status"] == "running"
        with client.stream("GET", f"{path}/events") as events:
            assert any(line == "event: turn.recovered" for line in events.iter_lines())
        assert client.post(f"{path}/cancel").json()["status"] == "cancelled"


def test_a_second_server_on_the_same_folder_is_refused(data_dir: Path) -> None:
    with serving(data_dir):
        sentence = refused(run("serve", "--port", "0", "--data", str(data_dir)))

    assert sentence.startswith(f"The data folder {data_dir} is in use by another server")


def test_a_port_that_is_taken_is_refused(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refused(run("serve", "--port", str(port), "--data", str(data_dir)))

    assert sentence == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_an_address_that_others_reach_needs_a_word(data_dir: Path) -> None:
    sentence = refused(run("serve", "--host", "0.0.0.0", "--port", "0", "--data", str(data_dir)))

    assert sentence.startswith("0.0.0.0 can be reached from other machines")
    assert "--insecure-bind" in sentence
    with serving(data_dir, "--host", "0.0.0.0", "--insecure-bind") as (_, address):
        port = address.rpartition(":")[2]
        answer = httpx2.get(f"http://127.0.0.1:{port}/ready", headers={"Host": "agents.example.com"})
        assert answer.json() == {"ready": True}


def test_a_wrong_setting_is_refused_by_its_name(data_dir: Path) -> None:
    done = run("serve", "--data", str(data_dir), AMPLIFIER_STREAM_PING="soon")

    assert refused(done) == ("AMPLIFIER_STREAM_PING: must be a number of seconds, or a number with ms, s, m, h or d")


def test_a_file_that_is_no_database_is_refused(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not a database, but notes\n" * 100)

    sentence = refused(run("serve", "--port", "0", "--data", str(data_dir), "--database-url", f"sqlite:///{other}"))

    assert sentence == "The database cannot be used now: file is not a database."
    assert other.read_text().startswith("not a database")


def test_an_address_that_is_no_database_is_refused_without_its_password(data_dir: Path) -> None:
    address = "postgresql://me:hunter2@127.0.0.1:1/app"

    unknown = refused(run("serve", "--port", "0", "--data", str(data_dir), "--database-url", f"{address}?colour=red"))
    absent = refused(run("serve", "--port", "0", "--data", str(data_dir), "--database-url", address))

    assert unknown.startswith("AMPLIFIER_DATABASE_URL: the PostgreSQL URL has an option that is unknown here (colour)")
    assert absent.endswith("Connection refused.")
    assert "hunter2" not in unknown + absent


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    sentence = refused(run("serve", "--port", "0", "--data", str(tmp_path / "file" / "data")))

    assert sentence == f"the data folder {tmp_path}/file/data cannot be made: Not a directory"


def test_doctor_says_what_is_there_and_never_shows_a_key(data_dir: Path) -> None:
    done = run("doctor", "--data", str(data_dir), ANTHROPIC_API_KEY="sk-ant-secret", AMPLIFIER_STREM_PING="1")

    assert done.returncode == 0, done.stdout
    assert "ANTHROPIC_API_KEY" in done.stdout
    assert "sk-ant-secret" not in done.stdout
    assert "AMPLIFIER_STREM_PING is not a setting: did you mean AMPLIFIER_STREAM_PING?" in done.stdout
    assert not data_dir.exists()


def test_doctor_ends_with_1_when_something_is_missing(data_dir: Path) -> None:
    done = run("doctor", "--data", str(data_dir), AMPLIFIER_SOURCE_ROOTS="/no/such/folder")

    assert done.returncode == 1
    assert "problem source root   /no/such/folder cannot be read" in done.stdout


def test_version_names_the_kernel() -> None:
    assert "(amplifier-core 2.0.2, Python 3." in run("version").stdout
