"""Ways round a rule that allows one command, one path or one argument, and round one that forbids them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.hooks.shell_words import plain_words

RULES = [
    {"tool": "bash", "command": ["ls ...", "git status", "git log *", "cat -n src/*", "echo ..."], "action": "allow"},
    {"tool": "write_file", "path": "src/**", "action": "allow"},
    {"tool": "web_fetch", "arguments": {"url": "https://docs.python.org/*"}, "action": "allow"},
    {"tool": "*", "path": ["secrets/**", ".env"], "action": "deny"},
    {"tool": "bash", "command": ["rm ...", "git push ..."], "action": "deny", "reason": "never"},
]


class Gate:
    """`await gate.says(tool, arguments)`: allow, ask, deny or refused. Nobody is there to be asked."""

    def __init__(self, coordinator: MockCoordinator) -> None:
        self._coordinator = coordinator

    async def says(self, tool: str, **arguments: Any) -> str:
        try:
            result = await self._coordinator.hooks.emit("tool:pre", {"tool_name": tool, "tool_input": arguments})
        except RuntimeError as error:  # the kernel takes no halves of characters, so the call fails
            assert "Invalid JSON" in str(error)
            return "refused"
        if result.action == "continue":
            return "allow"
        assert result.action == "deny"
        return "ask" if "nobody to ask" in (result.reason or "") else "deny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "session"
    for name in ("src", "secrets"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.fixture
async def gate(folder: Path) -> Gate:
    coordinator = MockCoordinator()
    coordinator.approval_system = None
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("hooks-approval")(coordinator, {"rules": RULES})
    return Gate(coordinator)


@pytest.mark.parametrize(
    "command",
    [
        "ls",
        "ls src docs",
        "  ls\tsrc ",
        "git status",
        "git log HEAD",
        "echo \"a b\" 'c;d'",
        "cat -n src/a.py",
        "echo 'ü'",
    ],
)
async def test_what_is_allowed_runs(gate: Gate, command: str) -> None:
    assert await gate.says("bash", command=command) == "allow"


@pytest.mark.parametrize(
    "command",
    [
        *("ls; id", "ls;id", "ls & id", "ls && id", "ls || id", "ls | sh", "ls |& sh", "ls\nid", "ls\rid", "ls\\\nid"),
        *(
            "ls $(id)",
            "ls `id`",
            'ls "$(id)"',
            'ls "`id`"',
            "ls $HOME",
            'ls "$HOME"',
            "ls ${x:=y}",
            "ls $'a'",
            'ls $"a"',
        ),
        *(
            "echo a > f",
            "echo a >> f",
            "echo a >| f",
            "echo a &> f",
            "ls < f",
            "ls <<< a",
            "ls << E\nE",
            "ls 2>f",
            "ls <(id)",
        ),
        *("ls *", "ls ?", "ls [a-z]", "ls {a,b}", "ls {1..9}", "ls ~", "ls ~root", "ls !x", "ls #x", "ls ^x"),
        *(
            "X=1 ls",
            "LD_PRELOAD=./x ls",
            "ls=1 x",
            "X=1",
            "(ls)",
            "{ ls; }",
            "! ls",
            "if ls",
            "time ls",
            "coproc ls",
            "[ ls",
        ),
        *("\\ls", "l\\s", "'ls'", "l's'", '"ls"', "./ls", "/tmp/ls", "src/../ls", "LS", "ls.sh", "lsof", "ls\0id"),
        *(
            "ls -la",
            "ls --hyperlink",
            "ls src -la",
            "ls -- -x",
            "ls -",
            "ls ''",
            "git log --output=x",
            "git log",
            "git log a b",
        ),
        *(
            "git -c core.pager=id log x",
            "git log '--output=x'",
            'git log "-px"',
            "git status x",
            "cat -n src/../secrets/k",
        ),
        *(
            "ls\u00a0id",
            "ls\u2028id",
            "ls\u3000id",
            "ls\x0bid",
            "ls\x0cid",
            "ls \x1b[2K",
            "ls 'a\nb'",
            "ls 'open",
            'ls "open',
        ),
        *(
            "ｌｓ",
            "lѕ src",
            "\ufeffls",
            "ls \ud800",
            "",
            " ",
            "%1",
            ". src/x",
            "source src/x",
            "eval ls",
            "exec ls",
            "command ls",
        ),
        *(
            "env ls",
            "xargs ls",
            "sudo ls",
            "bash -c ls",
            "nohup ls",
            "alias ls=id",
            "function ls",
            "ls()",
            "ls () { id; }",
        ),
    ],
)
async def test_a_command_that_is_not_plainly_the_allowed_one_is_not_allowed(gate: Gate, command: str) -> None:
    assert await gate.says("bash", command=command) != "allow"


@pytest.mark.parametrize(
    "arguments",
    [
        *({}, {"command": None}, {"command": ["ls"]}, {"command": {"x": "ls"}}, {"command": 1}),
        *({"command": "ls", "cmd": "id"}, {"command": "ls", "script": "id"}, {"Command": "ls"}, {"command ": "ls"}),
    ],
)
async def test_a_call_without_one_command_is_not_allowed(gate: Gate, arguments: dict[str, Any]) -> None:
    assert await gate.says("bash", **arguments) != "allow"


@pytest.mark.parametrize("tool", ["Bash", "bash ", "bash2", "my_bash", "b?sh", "*", "[b]ash", "bash\n"])
async def test_a_rule_is_about_the_tool_of_that_name_alone(gate: Gate, tool: str) -> None:
    assert await gate.says(tool, command="ls") != "allow"


@pytest.mark.parametrize(
    "command",
    [
        *(
            "rm x",
            "rm -rf .",
            "/bin/rm x",
            "ls; rm x",
            "ls && rm x",
            "ls | rm",
            "ls\nrm x",
            "(rm x)",
            "{ rm x; }",
            "X=1 rm x",
        ),
        *(
            "r''m x",
            'r""m x',
            "r\\m x",
            "'rm' x",
            "! rm x",
            "if rm x; then ls; fi",
            "$(rm x)",
            "`rm x`",
            "command rm x",
        ),
        *("git push", "git -C x push", "git push --force origin main", "git\tpush"),
    ],
)
async def test_what_is_forbidden_is_denied_however_it_is_written(gate: Gate, command: str) -> None:
    assert await gate.says("bash", command=command) == "deny"


@pytest.mark.parametrize(
    "command",
    [
        "$(echo r)m x",
        "a=rm; $a x",
        "echo cm0geA== | base64 -d | sh",
        "env rm x",
        "xargs rm",
        "sh -c 'rm x'",
        "eval 'r'm",
        "ls *",
    ],
)
async def test_where_it_cannot_be_told_a_person_is_asked_even_if_all_else_is_allowed(
    folder: Path, command: str
) -> None:
    coordinator = MockCoordinator()
    coordinator.approval_system = None
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("hooks-approval")(coordinator, {"rules": [*RULES, {"tool": "bash", "action": "allow"}]})

    assert await Gate(coordinator).says("bash", command=command) in ("ask", "deny")


@pytest.mark.parametrize("path", ["src/a.py", "src/deep/er/b", "./src/a", "src/../src/a", "src//a"])
async def test_a_path_below_the_allowed_folder_is_allowed(gate: Gate, path: str) -> None:
    assert await gate.says("write_file", file_path=path) == "allow"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../src/a",
            "src/../a",
            "src/../../session/a",
            "/etc/passwd",
            "/src/a",
            "srcs/a",
            "Src/a",
            "a/src/b",
            "~/src/a",
        ),
        *(
            "$HOME/src/a",
            "src/$X",
            "file:///src/a",
            "src/a\0",
            " src/a",
            "src/a ",
            "",
            "\nsrc/a",
            "src/\ud800",
            "ｓrc/a",
        ),
        *("link/a", "src/out/a", "src/up/../a"),
    ],
)
async def test_a_path_that_leads_elsewhere_is_not(gate: Gate, folder: Path, path: str) -> None:
    (folder / "link").symlink_to(folder.parent)
    (folder / "src" / "out").symlink_to("/etc")
    (folder / "src" / "up").symlink_to(folder / "secrets")

    assert await gate.says("write_file", file_path=path) != "allow"


@pytest.mark.parametrize(
    "arguments",
    [
        *({}, {"content": "x"}, {"file_path": ["src/a", "/etc/passwd"]}, {"file_path": "src/a", "path": "/etc/passwd"}),
        *({"file_path": "src/a", "destination": "../x"}, {"file_path": 5}, {"file_path": {"a": "src/a"}}),
        *({"file_path": "src/a", "files": [{"path": "/etc/passwd"}]}, {"file_path": "src/a", "paths": [["src/a"]]}),
    ],
)
async def test_every_path_of_a_call_must_be_allowed(gate: Gate, arguments: dict[str, Any]) -> None:
    assert await gate.says("write_file", **arguments) != "allow"


@pytest.mark.parametrize(
    "path",
    [
        "secrets/k",
        "./secrets/k",
        "src/../secrets/k",
        "SECRETS/k",
        "ｓecrets/k",
        "secrets",
        "in/k",
        ".env",
        ".ENV",
        "src/e",
    ],
)
async def test_a_forbidden_path_is_denied_however_it_is_written(gate: Gate, folder: Path, path: str) -> None:
    (folder / "in").symlink_to(folder / "secrets")
    (folder / "src" / "e").symlink_to(folder / ".env")

    assert await gate.says("read_anything", file_path=path) == "deny"


@pytest.mark.parametrize("files", [[["secrets/k"]], [{"path": "secrets/k"}], {"one": [{"path": ".env"}]}])
async def test_a_forbidden_path_is_denied_however_deep_it_lies(gate: Gate, files: Any) -> None:
    assert await gate.says("read_anything", files=files) == "deny"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://bad.example/x", "deny"),
        ([["https://bad.example/x"]], "deny"),
        ({"href": "https://BAD.example/x"}, "deny"),
        ({"host": "bad", "rest": ".example"}, "ask"),
        ("https://good.example/", "allow"),
    ],
)
async def test_a_forbidden_argument_is_found_in_whatever_holds_it(folder: Path, url: Any, said: str) -> None:
    coordinator = MockCoordinator()
    coordinator.approval_system = None
    coordinator.register_capability("session.working_dir", str(folder))
    rules = [
        {"tool": "get", "arguments": {"url": "*bad.example*"}, "action": "deny"},
        {"tool": "get", "action": "allow"},
    ]
    await load_mount("hooks-approval")(coordinator, {"rules": rules})

    assert await Gate(coordinator).says("get", url=url) == said


@pytest.mark.parametrize("command", ["ls secrets/k", "ls ./secrets", "ls .env", "ls a=secrets/k"])
async def test_a_command_that_names_a_forbidden_path_is_denied(gate: Gate, command: str) -> None:
    assert await gate.says("bash", command=command) == "deny"


async def test_a_forbidden_path_makes_any_command_that_no_rule_names_a_question(folder: Path) -> None:
    coordinator = MockCoordinator()
    coordinator.approval_system = None
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("hooks-approval")(coordinator, {"rules": [*RULES, {"tool": "bash", "action": "allow"}]})

    assert await Gate(coordinator).says("bash", command="python3 -c 'open(1)'") == "ask"


async def test_a_forbidden_folder_that_is_a_link_is_denied_by_its_name(gate: Gate, folder: Path) -> None:
    shutil.rmtree(folder / "secrets")
    (folder / "secrets").symlink_to(folder.parent)

    assert await gate.says("read_anything", file_path="secrets/k") == "deny"


@pytest.mark.parametrize(
    "url",
    [
        *("http://docs.python.org/", "https://docs.python.org.evil.example/", "https://docs.python.org@evil.example/"),
        *(
            "https://evil.example/https://docs.python.org/",
            "x https://docs.python.org/",
            "HTTPS://docs.python.org/",
            "",
        ),
    ],
)
async def test_an_argument_must_fit_as_a_whole(gate: Gate, url: str) -> None:
    assert await gate.says("web_fetch", url=url) != "allow"
    assert await gate.says("web_fetch", url=["https://docs.python.org/"]) != "allow"
    assert await gate.says("web_fetch", url="https://docs.python.org/3/") == "allow"


@pytest.mark.parametrize(
    "data", [{}, {"tool_name": None}, {"tool_name": ["bash"]}, {"tool_name": "", "tool_input": "ls"}]
)
async def test_an_event_that_says_nothing_is_denied(gate: Gate, data: dict[str, Any]) -> None:
    result = await gate._coordinator.hooks.emit("tool:pre", data)

    assert result.action == "deny"


async def test_a_gate_that_fails_is_closed(folder: Path) -> None:
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", object())  # no folder at all
    await load_mount("hooks-approval")(coordinator, {"rules": [{"tool": "*", "action": "allow"}]})
    coordinator.session_state["require_approval_tools"] = 5

    result = await coordinator.hooks.emit("tool:pre", {"tool_name": "bash", "tool_input": {}})

    assert result.action == "deny"


async def test_no_pattern_and_no_line_takes_long(folder: Path) -> None:
    coordinator = MockCoordinator()
    coordinator.approval_system = None
    coordinator.register_capability("session.working_dir", str(folder))
    rules = [
        {"tool": "*", "arguments": {"x": "*a" * 50 + "b"}, "action": "deny"},
        {"tool": "*", "path": "/".join(["**", "*a*"] * 30), "action": "deny"},
        {"tool": "*", "command": "x " + "*a* " * 20, "action": "deny"},
    ]
    await load_mount("hooks-approval")(coordinator, {"rules": rules})
    gate = Gate(coordinator)

    assert await gate.says("t", x="a" * 50_000) == "ask"
    assert await gate.says("t", file_path="/".join(["a"] * 500)) in ("ask", "deny")
    assert await gate.says("t", command="x " + "a " * 20_000) in ("ask", "deny")


def _bash_reads(line: str) -> list[str]:
    """The words that bash makes of a line: what it hands to the program it runs."""
    script = f'handed() {{ printf "%s\\0" "$@"; }}\nhanded {line}'
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    return [word.decode() for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="bash is not installed")  # noqa: PTH110
@pytest.mark.parametrize(
    "line",
    [
        "ls a b",
        "ls  a\tb ",
        "echo 'a b' \"c d\" e'f'g",
        "echo '$x' 'a;b' '`x`' '\\'",
        'echo "a\'b" "#" a=b',
        "git log --x=1",
        "echo ''",
    ],
)
def test_a_plain_line_is_read_as_the_shell_reads_it(line: str) -> None:
    assert plain_words(line) == _bash_reads(line)
