"""The README, followed word by word: its quickstart in a shell against a server, its script in a process.

Only the address is another one. The comment above a block names it; what the block must print stands here.
"""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import live_server
from doubles.fake_llm import FakeLLM
from live_server import LiveServer
from terminal import Terminal, at, blocks_to_run, code_of, free_port, not_in_order

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEY = "sk-ant-canary-8c2d1f40"

# The status that the last command of each block ends with, and what the block prints, in this order.
QUICKSTART: dict[str, tuple[int, list[str]]] = {
    "configs": (0, ['{"configs":[{"config_id":"', '"name":"foundation-default"', '"total":1']),
    "message": (0, ['"status":"completed"', '"response":"Hello"']),
    "stream": (
        0,
        [
            'data: {"type":"connected"',
            '"text":"One "',
            '"text":"word "',
            '"text":"other"',
            '"content":"One word after the other"',
            "event: done\n",
        ],
    ),
    "tool": (0, ["event: tool.started\n", "event: tool.completed\n", '"ok":true', '"content":"Written."']),
    "create": (0, ['"status":422', '"code":"config_not_runnable"', '"code":"missing_section"', '"/providers"']),
    "helpers": (
        0,
        [
            '"revision":2',
            "# My own\\nbundle:",
            '"edit":"inserted"',
            '"revision":3',
            '"edit":"inserted"',
            '"revision":4',
            '"edit":"inserted"',
            '"response":"I am ready."',
        ],
    ),
    "cancel": (0, ["event: message.delta\n", '"status":"cancelled"', '"message":"Cancellation requested"']),
    "transcript": (0, ['"content":"Hello"', "I am ready.", "tokens=1000", "w0", '"interrupted":true', '"total":4']),
    "events": (28, ['"seq":7,"type":"turn.started"', "event: turn.cancelled\n"]),
    "restart": (0, ['"response":"I am still here."', '"message_count":3', "I am ready.", "Do you remember me?"]),
}

PLANNED = [
    "Includes\n└── foundation\n    ├── foundation:behaviors/agents (behavior-agents)\n",
    "provider-anthropic  provider  builtin  mended.yaml:8",
    "ANTHROPIC_API_KEY  /providers/0/config/api_key  session",
    "/providers/0/config/api_key  ${ANTHROPIC_API_KEY}  mended.yaml:10",
    "mended.yaml: can run\n",
]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the quickstart needs curl")


@pytest.fixture(autouse=True)
def served_by_dev_py(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3 dev.py serve` where it made this environment; elsewhere it would first replace it by its own."""
    dev = runpy.run_path(str(ROOT / "dev.py"))
    if dev["is_made"](dev["wanted"]("serve")):
        monkeypatch.setattr(live_server, "COMMAND", [sys.executable, str(ROOT / "dev.py")])


@pytest.fixture
def port() -> int:
    """The same one after a restart, as in the README."""
    return free_port()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "here").mkdir()
    with Terminal(tmp_path / "here") as shell:
        yield shell


def test_every_command_of_the_quickstart_does_what_the_readme_says(
    tmp_path: Path, terminal: Terminal, port: int
) -> None:
    steps = blocks_to_run(README, "quickstart")
    assert list(steps) == list(QUICKSTART)
    steps["configs"] = at(port, steps["configs"])

    with LiveServer(tmp_path / "data", "--port", str(port)) as server:
        for name, commands in steps.items():
            if name == "restart":
                server.kill()
                server.start()
            status, printed = terminal.run(commands)
            expected_status, expected = QUICKSTART[name]
            assert (name, status, not_in_order(printed, expected)) == (name, expected_status, []), printed


def test_the_example_with_a_model_answers_with_the_key_of_the_environment(
    tmp_path: Path, terminal: Terminal, port: int
) -> None:
    commands = at(port, blocks_to_run(README, "quickstart")["configs"]) + blocks_to_run(README, "model")["create"]

    with (
        FakeLLM(api_key=KEY, record=5) as llm,
        LiveServer(tmp_path / "data", "--port", str(port), ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=llm.url),
    ):
        status, printed = terminal.run(commands)
        (asked,) = [request["body"]["model"] for request in llm.recorded()]

    expected = ['{"type":"connected"', "haiku.txt", '"status":"completed"']
    assert (status, not_in_order(printed, expected)) == (0, []), printed
    assert asked == "claude-sonnet-5-5"
    assert KEY not in printed


def test_the_terminal_says_what_is_wrong_with_a_bundle_and_what_the_mended_one_runs(
    tmp_path: Path, terminal: Terminal
) -> None:
    (tmp_path / "here" / ".venv").mkdir()
    (tmp_path / "here" / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    steps = blocks_to_run(README, "check")

    assert terminal.run(steps["validate"]) == (1, f"{code_of(README, 'text')}\n")
    status, printed = terminal.run(steps["plan"])
    columns = re.sub(r"(?<=\S) {2,}", "  ", printed)
    assert (status, not_in_order(columns, PLANNED)) == (0, []), printed


def test_the_script_of_the_readme_answers_without_a_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code_of(README, "python")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "Hello\nand |goodbye|"), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agents"]


def test_the_two_commands_of_the_readme_are_those_that_dev_py_takes() -> None:
    usage = subprocess.run(
        [sys.executable, ROOT / "dev.py", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout

    commands = re.findall(r"^python3 dev\.py \w+", README, re.MULTILINE)
    assert commands == ["python3 dev.py serve", "python3 dev.py test"]
    assert [command for command in commands if command not in usage] == []
