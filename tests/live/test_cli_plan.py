"""`plan` and `validate` in the terminal: what they print, how they end. No server, no database."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "amplifier_app_api"]
GOOD = "bundle: {name: dev}\nincludes: [foundation]\nproviders:\n  - module: provider-scripted\n"
KEYED = "bundle: {name: dev}\nincludes: [foundation]\nproviders:\n  - {module: p, config: {api_key: '${MY_KEY}'}}\n"


def run(folder: Path, *arguments: str, text: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(printed: str) -> list[list[str]]:
    """The cells of what is printed in columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]


def test_a_plan_shows_what_would_run_and_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "dev.yaml").write_text(GOOD)

    done = run(tmp_path, "plan", "dev.yaml")

    assert (done.returncode, done.stderr) == (0, "")
    printed = rows(done.stdout)
    assert ["provider-scripted", "provider", "builtin", "dev.yaml:4"] in printed
    (line,) = [row[3] for row in printed if row[:3] == ["tool-filesystem", "tool", "builtin"]]
    assert re.fullmatch(r"foundation:\d+", line)
    assert ["/providers/0/module", "provider-scripted", "dev.yaml:4"] in printed
    assert ["└── foundation"] in printed
    assert done.stdout.endswith("dev.yaml: can run\n")
    assert "\x1b" not in done.stdout
    assert [found.name for found in tmp_path.iterdir()] == ["dev.yaml"]


def test_the_json_is_the_answer_of_the_server(tmp_path: Path) -> None:
    done = run(tmp_path, "plan", "-", "--json", text=GOOD)

    assert done.returncode == 0
    plan = json.loads(done.stdout)
    assert (plan["storable"], plan["runnable"]) == (True, True)
    assert plan["mount_plan"]["session"] == {"orchestrator": "loop-streaming", "context": "context-simple"}
    assert plan["provenance"]["/session/context"]["includes"] == ["foundation"]


def test_problems_have_one_line_each_with_their_place_and_end_with_1(tmp_path: Path) -> None:
    (tmp_path / "dev.yaml").write_text("bundle:\n  name: dev\nincludes: [foundation]\nprovider: []\n")

    done = run(tmp_path, "validate", "dev.yaml")

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "dev.yaml:1:1: problem: The composed bundle names no provider: add one to providers. [missing_section]",
        "dev.yaml:4:1: problem: There is no section 'provider'; did you mean providers? [unknown_section]",
        "dev.yaml: not valid (storable: yes, runnable: no)",
    ]


def test_a_valid_bundle_ends_with_0(tmp_path: Path) -> None:
    done = run(tmp_path, "validate", "-", text=GOOD)

    assert (done.returncode, done.stdout) == (0, "stdin: valid (storable: yes, runnable: yes)\n")


def test_relative_references_start_from_the_folder_of_the_file_when_it_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "more.yaml").write_text("bundle: {name: more}\ntools: [{module: tool-filesystem, id: x}]\n")
    (tmp_path / "dev.yaml").write_text(GOOD.replace("[foundation]", "[foundation, ./parts/more.yaml]"))

    refused = run(tmp_path, "validate", "dev.yaml")
    by_option = run(tmp_path, "validate", "dev.yaml", "--root", ".")
    by_setting = run(tmp_path, "validate", "dev.yaml", AMPLIFIER_SOURCE_ROOTS=str(tmp_path))

    assert (refused.returncode, by_option.returncode, by_setting.returncode) == (1, 0, 0)
    assert "is not below one of AMPLIFIER_SOURCE_ROOTS. [source_not_allowed]" in refused.stdout
    assert by_option.stdout == by_setting.stdout
    assert by_option.stdout.splitlines() == [
        "dev.yaml: warning: An include of a stored document cannot be a relative path ('./parts/more.yaml'): "
        "the document has no folder. (line 2)",
        "dev.yaml: valid (storable: no, runnable: yes)",
    ]


def test_a_text_from_standard_input_has_no_folder(tmp_path: Path) -> None:
    done = run(tmp_path, "validate", "-", "--root", ".", text="bundle: {name: dev}\nincludes: [./more.yaml]\n")

    assert done.returncode == 1
    assert "[relative_reference]" in done.stdout


def test_a_variable_can_be_given_and_is_never_printed(tmp_path: Path) -> None:
    text = KEYED.replace("module: p,", "module: provider-scripted,")

    without = run(tmp_path, "plan", "-", text=text)
    given = run(tmp_path, "plan", "-", "--var", "MY_KEY=sk-given", text=text)
    allowed = run(tmp_path, "plan", "-", text=text, MY_KEY="sk-found", AMPLIFIER_ENV_ALLOW="MY_KEY")

    assert (without.returncode, given.returncode, allowed.returncode) == (1, 0, 0)
    assert "stdin:4: problem: The variable MY_KEY has no value here. [missing_variable]" in without.stdout
    assert ["MY_KEY", "/providers/0/config/api_key", "session"] in rows(given.stdout)
    assert "sk-" not in given.stdout + allowed.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "no.yaml"], "amplifier-api: no.yaml cannot be read: No such file or directory\n"),
        (["validate", "."], "amplifier-api: . cannot be read: Is a directory\n"),
        (["plan", "bytes.yaml"], "amplifier-api: bytes.yaml cannot be read: it is not UTF-8\n"),
        (["validate", "dev.yaml", "--root", "no"], "amplifier-api: no is not a folder\n"),
        (["plan", "dev.yaml", "--var", "sk-secret"], "amplifier-api: --var takes NAME=VALUE\n"),
    ],
)
def test_what_cannot_be_read_ends_with_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "dev.yaml").write_text(GOOD)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")

    done = run(tmp_path, *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_wrong_setting_and_wrong_usage_end_with_2(tmp_path: Path) -> None:
    wrong_setting = run(tmp_path, "plan", "-", text=GOOD, AMPLIFIER_PORT="high")
    wrong_usage = run(tmp_path, "plan")

    assert (wrong_setting.returncode, wrong_usage.returncode) == (2, 2)
    assert wrong_setting.stderr.startswith("amplifier-api: AMPLIFIER_PORT: ")


def test_a_pattern_that_allows_nothing_is_a_wrong_setting_too(tmp_path: Path) -> None:
    done = run(tmp_path, "plan", "-", text=GOOD, AMPLIFIER_SOURCE_ALLOW="git+https://example.com/a@b")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("amplifier-api: AMPLIFIER_SOURCE_ALLOW: 'git+https://example.com/a@b' must be")


def test_a_text_that_is_no_yaml_is_a_problem_and_not_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, "plan", "-", text="bundle: {name: [\n\n")

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "stdin: cannot run"
    assert "[invalid_yaml]" in done.stdout


def test_what_a_terminal_would_obey_is_spelled_out(tmp_path: Path) -> None:
    text = GOOD + '    config: {note: "\\e]0;owned\\a"}\n'

    done = run(tmp_path, "plan", "-", text=text)

    assert done.returncode == 0
    assert "\\x1b]0;owned\\x07" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    (tmp_path / "dev.yaml").write_text(GOOD)
    ours, its = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "validate", "dev.yaml"],
            cwd=tmp_path,
            env={**os.environ, "TERM": "xterm-256color"},
            stdout=its,
            timeout=60,
            check=False,
        )
        printed = os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(its)

    assert done.returncode == 0
    assert b"\x1b[1;32mvalid\x1b[0m" in printed
