"""The how-to pages, followed: what they tell a reader to write and to run works as it stands there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from amplifier_app_api.models.plan import Plan
from live_server import LiveServer, payloads
from terminal import Terminal, at, blocks_to_run, code_of, free_port, not_in_order

ROOT = Path(__file__).resolve().parents[2]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")


def page(name: str) -> str:
    return (ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8")


@needs_curl
def test_the_module_of_the_page_is_mounted_and_its_tool_called(tmp_path: Path) -> None:
    text, port = page("write-a-module"), free_port()
    package = tmp_path / "my-modules" / "tool-dice" / "amplifier_module_tool_dice"
    assert str((package / "__init__.py").relative_to(tmp_path)) in text
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code_of(text, "python"))

    roots = {"AMPLIFIER_SOURCE_ROOTS": str(tmp_path / "my-modules")}
    with LiveServer(tmp_path / "data", "--port", str(port), **roots), Terminal(tmp_path) as terminal:
        status, printed = terminal.run(at(port, blocks_to_run(text, "module")["dice"]))

    expected = ['"edit":"inserted"', '"tool":"roll_dice","arguments":{"count":3}', '"ok":true', "event: done\n"]
    assert (status, not_in_order(printed, expected)) == (0, []), printed


@needs_curl
def test_variables_of_a_session_fill_what_the_page_leaves_open(tmp_path: Path) -> None:
    port = free_port()
    with LiveServer(tmp_path / "data", "--port", str(port)), Terminal(tmp_path) as terminal:
        status, printed = terminal.run(at(port, blocks_to_run(page("keep-secrets-out"), "secrets")["variables"]))

    expected = ['"code":"missing_variable"', "GREETING: say how to greet", '"response":"Good morning"']
    assert (status, not_in_order(printed, expected)) == (0, []), printed


# What each block of the page prints, in this order.
WORK: dict[str, list[str]] = {
    "session": [],
    "explore": [
        '"response":"The version is in app.py."',
        '"ok":true,"output":"app.py"',
        '"ok":true,"output":"app.py"',
        '"ok":true,"output":"VERSION = 1\\n"',
    ],
    "edit": ['"status":"waiting"', '"tool":"edit_file"', '"options":["allow","deny"]', "VERSION = 1\n"],
    "allow": ['"status":"answered","decision":"allow"'],
    "review": ['"response":"Reviewed."', "VERSION = 2\n", '"role":"tool"', "VERSION = 2", "Fit as it is."],
    "fill": ['"type":"context.compacted"', "}23\n"],
    "speak": [],
    "again": [
        '"response":"It was 1 and is 2 now, and a reviewer found nothing."',
        '"type":"turn.recovered"',
        '"attempt":2,"reused":[],"unknown":[]',
        '"type":"message.discarded"',
    ],
    "account": ['"turns":9,"tool_calls":7', '{"type":"end","records":'],
}


@needs_curl
def test_a_whole_piece_of_work_goes_as_the_page_says(tmp_path: Path) -> None:
    port = free_port()
    steps = blocks_to_run(page("a-whole-piece-of-work"), "work")
    assert list(steps) == list(WORK)
    steps["session"] = at(port, steps["session"])

    with LiveServer(tmp_path / ".amplifier-api", "--port", str(port)) as server, Terminal(tmp_path) as terminal:
        for name, commands in steps.items():
            if name == "again":
                server.kill()
                server.start()
            status, printed = terminal.run(commands)
            assert (name, status, not_in_order(printed, WORK[name])) == (name, 0, []), printed
            if name == "speak":
                until_it_speaks(server)


def until_it_speaks(server: LiveServer) -> None:
    """Return when the newest turn of the only session says something."""
    (session,) = server.get("/sessions")["sessions"]
    place = f"/sessions/{session['session_id']}/events"
    with server.client.stream("GET", place, params={"after": session["last_seq"]}) as answer:
        assert any(event["type"] == "message.delta" for event in payloads(answer.iter_lines()))


def test_the_python_client_of_the_page_prints_an_answer_and_survives_the_death_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    script = tmp_path / "say.py"
    script.write_text(at(port, code_of(page("stream-and-resume"), "python")))

    with LiveServer(tmp_path / "data", "--port", str(port)) as server:
        (config,) = server.get("/configs")["configs"]
        session_id = server.session(config["config_id"])

        def say(message: str) -> subprocess.Popen[str]:
            return subprocess.Popen([sys.executable, script, session_id, message], stdout=subprocess.PIPE, text=True)

        with say("One word after the other") as client:
            assert client.communicate()[0] == "One word after the other\nturn.completed: One word after the other\n"

        with say("[[slow: tokens=150 delay_ms=20]]") as client:
            assert client.stdout is not None
            assert client.stdout.read(5) == "w0 w1"
            server.kill()
            server.start()
            answer = " ".join(f"w{number}" for number in range(150))
            printed = client.stdout.read()
            assert printed.endswith(f"\n(asking again)\n{answer}\nturn.completed: {answer}\n")
            assert client.wait() == 0


def test_the_python_client_of_the_page_is_told_of_a_refusal(tmp_path: Path) -> None:
    port = free_port()
    script = at(port, code_of(page("stream-and-resume"), "python"))

    with LiveServer(tmp_path / "data", "--port", str(port)):
        done = subprocess.run(
            [sys.executable, "-c", script, "no-such-session", "Hello"], capture_output=True, text=True, check=False
        )

    assert (done.returncode, done.stdout) == (1, "")
    assert "HTTP Error 404" in done.stderr


def test_the_config_of_the_page_on_delegation_can_run_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "scout.yaml").write_text(code_of(page("delegate"), "yaml"))
    command = [sys.executable, "-m", "amplifier_app_api", "validate", "scout.yaml", "--var", "ANTHROPIC_API_KEY=any"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "scout.yaml: valid (storable: yes, runnable: yes)\n")


def test_the_plan_of_the_page_has_every_field_of_a_plan_and_no_other() -> None:
    shown = json.loads(code_of(page("plan-and-validate"), "json"))
    read = Plan.model_validate(shown)

    assert [item for item in ("modules", "sources", "includes", "variables", "problems") if not shown[item]] == []
    assert json.loads(read.model_dump_json(by_alias=True)) == shown


def test_a_session_of_a_bundle_from_git_stays_on_its_commit_when_the_branch_moves_as_the_page_says(
    tmp_path: Path,
) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", repository], check=True)
    commit(repository, "before")
    allowed = {"AMPLIFIER_SOURCE_ALLOW": f"git+file://{repository}", "AMPLIFIER_SOURCE_REFRESH": "0"}

    with LiveServer(tmp_path / "data", **allowed) as server:
        config = server.config(f"bundle: {{name: mine}}\nincludes: ['git+file://{repository}@main']\n")
        old = server.session(config)
        first = server.get(f"/configs/{config}/plan")["sources"]
        commit(repository, "after")
        new = server.session(config)
        second = server.get(f"/configs/{config}/plan")["sources"]
        server.kill()
        server.start()

        assert [server.say(session, "Hello")["response"] for session in (old, new)] == ["before", "after"]
        assert first[0]["commit"] != second[0]["commit"]


def commit(repository: Path, reply: str) -> None:
    """A bundle that answers with `reply`, as the newest commit."""
    providers = f"providers: [{{module: provider-scripted, config: {{replies: [{reply}]}}}}]\n"
    (repository / "bundle.yaml").write_text(f"bundle: {{name: theirs}}\nincludes: [foundation]\n{providers}")
    git = ["git", "-C", repository, "-c", "user.name=docs", "-c", "user.email=docs@localhost"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", reply], check=True)
