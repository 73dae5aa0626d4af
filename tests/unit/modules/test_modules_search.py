import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.models import ToolResult
from amplifier_core.testing import MockCoordinator
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.tools.search_literals import needed_text
from tool_programs import need_ripgrep, path_without, processes_with, until_running

WORKER = "tools.search_worker"


class Searched:
    def __init__(self, folder: Path, coordinator: MockCoordinator) -> None:
        self.folder = folder
        self._coordinator = coordinator

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    async def grep(self, pattern: str, **arguments: Any) -> ToolResult:
        return await self._coordinator.get("tools", "grep").execute({"pattern": pattern, **arguments})

    async def lines(self, pattern: str, **arguments: Any) -> list[str]:
        result = await self.grep(pattern, **arguments)
        assert result.success, result.output
        return result.output.splitlines()


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture(params=["with ripgrep", "without ripgrep"])
async def tree(
    request: pytest.FixtureRequest, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Searched:
    if request.param == "with ripgrep":
        need_ripgrep()
    else:
        path_without(monkeypatch, tmp_path)
    folder = tmp_path / "session"
    folder.mkdir()
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("tool-search")(coordinator, options)
    return Searched(folder, coordinator)


async def test_files_that_match_are_named_in_order(tree: Searched) -> None:
    tree.write({"b.py": "import os\n", "a/c.py": "import os\n", "a/d.md": "import os\n", "e.py": "nothing\n"})

    assert await tree.lines("import os") == ["a/c.py", "a/d.md", "b.py"]
    assert await tree.lines("import os", glob="*.py") == ["a/c.py", "b.py"]
    assert await tree.lines("import os", type="markdown") == ["a/d.md"]
    assert await tree.lines("import os", path="a") == ["a/c.py", "a/d.md"]
    assert await tree.lines("import os", path="b.py") == ["b.py"]
    assert await tree.lines("import sys") == ["[nothing found]"]


async def test_lines_are_shown_with_their_numbers_and_what_is_around(tree: Searched) -> None:
    tree.write({"a.txt": "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"})

    assert await tree.lines("three|four", output_mode="content") == ["a.txt:3:three", "a.txt:4:four"]
    assert await tree.lines("seven", output_mode="content", **{"-n": False}) == ["a.txt:seven"]
    assert await tree.lines("two|seven", output_mode="content", **{"-C": 1}) == [
        "a.txt-1-one",
        "a.txt:2:two",
        "a.txt-3-three",
        "--",
        "a.txt-6-six",
        "a.txt:7:seven",
    ]


async def test_matches_are_counted(tree: Searched) -> None:
    tree.write({"a.txt": "x\nx x\ny\n", "b.txt": "x\n"})

    assert await tree.lines("x", output_mode="count") == ["a.txt:2", "b.txt:1"]


async def test_results_come_in_parts(tree: Searched) -> None:
    tree.write({"a.txt": "".join(f"word {number}\n" for number in range(10))})

    assert await tree.lines("word", output_mode="content", head_limit=2, offset=3) == [
        "a.txt:4:word 3",
        "a.txt:5:word 4",
        "[2 of 10 shown; read on with offset 5]",
    ]
    assert await tree.lines("word", output_mode="content", offset=10) == ["[there are 10]"]


async def test_case_and_lines_can_be_left_out_of_account(tree: Searched) -> None:
    tree.write({"a.txt": "Begin\nEND\n"})

    assert await tree.lines("begin.end") == ["[nothing found]"]
    assert await tree.lines("begin.end", output_mode="content", multiline=True, **{"-i": True}) == [
        "a.txt:1:Begin",
        "a.txt:2:END",
    ]


async def test_what_is_no_text_or_too_large_or_made_by_tools_is_left_out(tree: Searched) -> None:
    tree.write(
        {
            "a.bin": b"needle\0",
            "b.txt": b"caf\xe9 needle\n",
            "big.txt": "needle\n" + "x" * 11_000_000,
            "node_modules/c.js": "needle\n",
            "build": "needle\n",
        }
    )

    assert await tree.lines("needle") == ["b.txt", "build"]
    assert await tree.lines("needle", include_ignored=True) == ["b.txt", "build", "node_modules/c.js"]


async def test_links_are_not_followed_out(tree: Searched, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("needle\n")
    (tree.folder / "file.txt").symlink_to(tmp_path / "secret.txt")
    (tree.folder / "folder").symlink_to(tmp_path)

    assert await tree.lines("needle") == ["[nothing found]"]
    for path in ("file.txt", "folder", "../secret.txt", str(tmp_path)):
        assert (await tree.grep("needle", path=path)).error == {
            "message": f"{path} lies outside the folders this session may use",
            "type": "Refused",
        }


@pytest.mark.parametrize("options", [{"timeout": 1}])
async def test_an_expression_that_takes_for_ever_is_given_up(tree: Searched) -> None:
    tree.write({"a.txt": "x" * 60 + "\n"})

    result = await tree.grep("(x+x+)+y")

    assert (result.success, result.output) == (False, "It took longer than 1 seconds and was given up")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"pattern": "["}, "The pattern is no regular expression: unterminated character set at position 0"),
        ({"pattern": ""}, "pattern must have 1 to 10,000 characters"),
        ({"pattern": "x", "output_mode": "all"}, "output_mode must be one of: files_with_matches, content, count"),
        ({"pattern": "x", "-A": -1}, "-A must be a whole number from 0 on"),
        ({"pattern": "x", "path": "nowhere"}, "nowhere does not exist"),
    ],
)
async def test_wrong_arguments_are_answered(tree: Searched, arguments: dict[str, Any], problem: str) -> None:
    result = await tree.grep(**arguments)

    assert (result.success, result.output) == (False, problem)


@pytest.mark.parametrize("options", [{"max_output_bytes": 100}])
async def test_what_is_told_has_a_bound(tree: Searched) -> None:
    tree.write({"a.txt": "".join(f"word {number:03}\n" for number in range(100))})

    assert (await tree.lines("word", output_mode="content"))[-1] == "[5 of 100 shown; read on with offset 5]"


async def test_a_search_that_is_given_up_leaves_no_process(tree: Searched) -> None:
    tree.write({"a.txt": "x" * 60 + "\n"})
    searching = asyncio.create_task(tree.grep("(x+x+)+z-" + tree.folder.name))
    await until_running(WORKER)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching

    assert processes_with(WORKER) == []


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("hello world", "hello world"),
        (r"def \w+_started", "_started"),
        (r"interface\{\}", "interface{}"),
        ("colou?r of", "colo"),
        ("abc+def", "abc"),
        ("abcd*efg", "abc"),
        ("ab{2,3}cde", "cde"),
        ("(abc)?def", "def"),
        ("[abc]defg", "defg"),
        ("[]abc]defg", "defg"),
        ("abc|def", None),
        ("(?i)abc", None),
        ("a.c", None),
        ("grün", None),
    ],
)
def test_the_text_that_every_match_needs(pattern: str, needed: str | None) -> None:
    assert needed_text(pattern, ignore_case=False) == needed


def test_without_regard_to_case_letters_with_odd_relatives_are_not_relied_on() -> None:
    assert needed_text("information", ignore_case=True) is None
    assert needed_text("needle", ignore_case=True) == "needle"


_PIECES = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "abc",
        "\\.",
        "\\w",
        "[ab]",
        "[^a]",
        "(ab)",
        "(a|b)",
        "(?:ab)",
        "x?",
        "a*",
        "b+",
        "a{2}",
        "^",
        "$",
        "|",
        "é",
    ]
)


_TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "abc", "x", ".", "é"]), max_size=4).map("".join)


@given(st.lists(_PIECES, max_size=6), _TEXTS, st.booleans())
def test_every_match_holds_the_text_it_needs(pieces: list[str], text: str, ignore_case: bool) -> None:
    pattern = "".join(pieces)
    try:
        expression = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error:
        return
    needed = needed_text(pattern, ignore_case=ignore_case)

    if needed is not None and expression.search(text):
        assert needed.lower() in text.lower() if ignore_case else needed in text
