"""`amplifier-api migrate-legacy`, and a server that goes on where the predecessor stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from legacy_databases import OLDER, SCRIPTED, Legacy
from live_server import LiveServer

COMMAND = [sys.executable, "-m", "amplifier_app_api", "migrate-legacy"]


def migrate_legacy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(params=["newer", "older"])
def legacy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of either shape, with a session that has talked; whom it talks to counts what the user said."""
    if request.param == "newer":
        text = SCRIPTED + "    config: {replies: [first, second]}\n"
        return Legacy(tmp_path / "amplifier.db").config(text=text).session().close()
    options = {"scripted": {"api_key": None, "config": {"replies": ["first", "second"]}}}
    return Legacy(tmp_path / "amplifier.db", OLDER).setting("providers", options).older_session().close()


def test_a_migrated_session_goes_on_where_it_stopped(legacy: Path, data_dir: Path) -> None:
    done = migrate_legacy(legacy, "--data", data_dir, "--apply")
    assert done.returncode == 0, done.stdout + done.stderr

    with LiveServer(data_dir) as server:
        (config,) = server.get("/configs")["configs"]
        (session,) = server.get("/sessions")["sessions"]
        assert (session["session_id"], session["config_id"]) == ("s1", config["config_id"])
        answer = server.say("s1", "thanks")
        after = server.transcript("s1")
        log = server.log_of("s1")

    assert answer["response"] == "second"
    assert [message["role"] for message in after] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert after[3]["content"] == "There is one: a.txt"
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert log[0]["type"] == "session.created"


def test_a_dry_run_leaves_no_trace(legacy: Path, data_dir: Path) -> None:
    done = migrate_legacy(legacy, "--data", data_dir)

    assert done.returncode == 0, done.stderr
    assert "sessions  1 carried" in done.stdout
    assert "This was a dry run and nothing was written" in done.stdout
    assert not data_dir.exists()


def test_a_second_run_says_that_all_is_there(legacy: Path, data_dir: Path) -> None:
    migrate_legacy(legacy, "--data", data_dir, "--apply")

    again = migrate_legacy(legacy, "--data", data_dir, "--apply")
    dry = migrate_legacy(legacy, "--data", data_dir)

    assert (again.returncode, dry.returncode) == (0, 0)
    assert "sessions  1 already there" in again.stdout
    assert "sessions  1 already there" in dry.stdout


@pytest.mark.postgres
def test_it_writes_to_postgresql_too(legacy: Path, data_dir: Path, postgres_url: str) -> None:
    dry = migrate_legacy(legacy, "--data", data_dir, "--database-url", postgres_url)
    done = migrate_legacy(legacy, "--data", data_dir, "--database-url", postgres_url, "--apply")

    assert (dry.returncode, done.returncode) == (0, 0), dry.stderr + done.stderr
    with LiveServer(data_dir, "--database-url", postgres_url) as server:
        assert server.say("s1", "hello again")["response"] == "second"


def test_what_is_left_behind_ends_the_command_with_1(tmp_path: Path, data_dir: Path) -> None:
    legacy = Legacy(tmp_path / "amplifier.db").config("bad", "bundle: [").config("c1").session().close()

    done = migrate_legacy(legacy, "--data", data_dir, "--apply")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("not carried: config bad: Invalid YAML")
    assert "configs   1 carried, 1 not carried" in lines
    assert "sessions  1 carried" in lines


def test_what_cannot_be_read_ends_the_command_with_2(tmp_path: Path, data_dir: Path) -> None:
    done = migrate_legacy(tmp_path / "gone.db", "--data", data_dir, "--apply")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"amplifier-api: there is no file {tmp_path}/gone.db\n"
    assert not data_dir.exists()


@pytest.mark.parametrize("more", [[], ["--apply"]])
def test_a_server_that_holds_the_data_keeps_it(legacy: Path, data_dir: Path, more: list[str]) -> None:
    with LiveServer(data_dir):
        done = migrate_legacy(legacy, "--data", data_dir, *more)

    assert done.returncode == 2
    assert f"The data folder {data_dir} is in use by another server" in done.stderr
