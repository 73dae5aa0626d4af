import asyncio
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.models import ToolResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount


class Workspace:
    def __init__(self, folder: Path, coordinator: MockCoordinator) -> None:
        self.folder = folder
        self._coordinator = coordinator
        self.artifacts: list[tuple[str, str, int]] = []
        for event in ("artifact:read", "artifact:write"):
            coordinator.hooks.register(event, self._note, 0, f"note:{event}")

    async def _note(self, event: str, data: dict[str, Any]) -> None:
        self.artifacts.append((event, data["path"], data["bytes"]))

    async def call(self, tool: str, **arguments: Any) -> ToolResult:
        return await self._coordinator.get("tools", tool).execute(arguments)


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
async def files(tmp_path: Path, options: dict[str, Any]) -> Workspace:
    folder = tmp_path / "session"
    folder.mkdir()
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(folder))
    await load_mount("tool-filesystem")(coordinator, options)
    return Workspace(folder, coordinator)


def failed(message: str, kind: str = "FileRefused") -> ToolResult:
    return ToolResult(success=False, error={"message": message, "type": kind})


async def test_a_file_is_written_read_and_edited(files: Workspace) -> None:
    written = await files.call("write_file", file_path="notes/a.txt", content="one\ntwo\n", _tool_call_id="x")
    edited = await files.call("edit_file", file_path="notes/a.txt", old_string="two", new_string="three")
    read = await files.call("read_file", file_path="notes/a.txt")

    assert written.output == "Wrote 8 bytes to notes/a.txt"
    assert edited.output == "Replaced 1 occurrence in notes/a.txt"
    assert read == ToolResult(output="one\nthree\n")
    assert files.artifacts == [
        ("artifact:write", "notes/a.txt", 8),
        ("artifact:write", "notes/a.txt", 10),
        ("artifact:read", "notes/a.txt", 10),
    ]


async def test_a_part_of_a_file_says_where_to_read_on(files: Workspace) -> None:
    (files.folder / "a.txt").write_text("1\n2\n3\n4\n")

    part = await files.call("read_file", file_path="a.txt", offset=2, limit=2)
    behind = await files.call("read_file", file_path="a.txt", offset=9)

    assert part.output == "2\n3\n\n[Lines 2 to 3 of 4; read on with offset 4]"
    assert behind.output == "[The file has 4 lines]"


async def test_lines_are_counted_as_a_search_counts_them(files: Workspace) -> None:
    (files.folder / "a.txt").write_text("a\x0cb\nc\u2028d\ne\x85f\rg\nneedle\n", newline="")

    part = await files.call("read_file", file_path="a.txt", offset=4, limit=1)

    assert part.output == "needle\n"


@pytest.mark.parametrize("options", [{"max_output_bytes": 4}])
async def test_a_long_file_is_shown_in_parts(files: Workspace) -> None:
    (files.folder / "a.txt").write_text("1\n2\n3\n")
    (files.folder / "line.txt").write_text("too long\n")

    assert (await files.call("read_file", file_path="a.txt")).output == (
        "1\n2\n\n[Lines 1 to 2 of 3; read on with offset 3]"
    )
    assert (await files.call("read_file", file_path="line.txt")).output == "[Line 1 of 1 is too long to show]"


@pytest.mark.parametrize("options", [{"max_file_bytes": 10}])
async def test_sizes_are_limited_both_ways(files: Workspace) -> None:
    (files.folder / "big.txt").write_text("x" * 11)

    assert await files.call("read_file", file_path="big.txt") == failed("big.txt is larger than 10 bytes")
    assert await files.call("write_file", file_path="a", content="x" * 11) == failed(
        "The content is larger than 10 bytes"
    )
    assert not (files.folder / "a").exists()


@pytest.mark.parametrize(("content", "problem"), [(b"a\0b", "a binary file"), (b"\xff\xfe", "not UTF-8 text")])
async def test_what_is_no_text_is_refused(files: Workspace, content: bytes, problem: str) -> None:
    (files.folder / "a.bin").write_bytes(content)

    assert await files.call("read_file", file_path="a.bin") == failed(f"a.bin is {problem}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("x", "y", "old_string occurs 2 times in a.txt; give more of its surroundings or replace_all"),
        ("z", "y", "old_string does not occur in a.txt"),
        ("x", "x", "old_string and new_string are the same"),
        ("", "y", "old_string is empty; write_file makes new files"),
    ],
)
async def test_an_edit_that_is_not_exact_changes_nothing(files: Workspace, old: str, new: str, problem: str) -> None:
    (files.folder / "a.txt").write_text("x x")

    assert await files.call("edit_file", file_path="a.txt", old_string=old, new_string=new) == failed(problem)
    assert (files.folder / "a.txt").read_text() == "x x"


async def test_replace_all_replaces_all(files: Workspace) -> None:
    (files.folder / "a.txt").write_text("x x")

    edited = await files.call("edit_file", file_path="a.txt", old_string="x", new_string="y", replace_all=True)

    assert edited.output == "Replaced 2 occurrences in a.txt"
    assert (files.folder / "a.txt").read_text() == "y y"


async def test_an_edit_keeps_the_line_ends_of_the_file(files: Workspace) -> None:
    (files.folder / "a.txt").write_bytes(b"one\r\ntwo\r\n")

    await files.call("edit_file", file_path="a.txt", old_string="one\ntwo", new_string="1\n2")

    assert (files.folder / "a.txt").read_bytes() == b"1\r\n2\r\n"


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        (b"one\r\ntwo\r\n", "one", "1\n1\r\n1", b"1\r\n1\r\n1\r\ntwo\r\n"),
        (b"one\r\ntwo\n", "two", "2\n2", b"one\r\n2\n2\n"),
        (b"one\r\ntwo\n", "one\ntwo", "1\n2", b"1\r\n2\n"),
        (b"one\r\ntwo\r\n", "one\r\n", "1\n", b"1\ntwo\r\n"),
        (b"\xef\xbb\xbfone\r\n", "one", "1\n2", b"\xef\xbb\xbf1\r\n2\r\n"),
    ],
    ids=[
        "a line becomes several",
        "mixed",
        "mixed, over an end",
        "the ends are what is replaced",
        "with a mark in front",
    ],
)
async def test_what_an_edit_adds_has_the_line_ends_of_the_file(
    files: Workspace, before: bytes, old: str, new: str, after: bytes
) -> None:
    (files.folder / "a.txt").write_bytes(before)

    await files.call("edit_file", file_path="a.txt", old_string=old, new_string=new)

    assert (files.folder / "a.txt").read_bytes() == after


async def test_edits_at_the_same_time_are_both_kept(files: Workspace) -> None:
    (files.folder / "a.txt").write_text("".join(f"<{number}>" for number in range(20)))

    await asyncio.gather(
        *(
            files.call("edit_file", file_path="a.txt", old_string=f"<{number}>", new_string=f"[{number}]")
            for number in range(20)
        )
    )

    assert (files.folder / "a.txt").read_text() == "".join(f"[{number}]" for number in range(20))


async def test_a_folder_is_listed_and_searched(files: Workspace) -> None:
    for name in ("b.py", "src/a.py", "src/deep/c.py", "src/d.md"):
        path = files.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    async def listed(**arguments: Any) -> list[str]:
        return (await files.call("list_directory", **arguments)).output.splitlines()

    assert await listed() == ["b.py", "src/"]
    assert await listed(path="src") == ["a.py", "d.md", "deep/"]
    assert await listed(pattern="*.py") == ["b.py", "src/a.py", "src/deep/c.py"]
    assert await listed(pattern="src/**/*.py") == ["src/a.py", "src/deep/c.py"]
    assert await listed(pattern="*.txt") == ["[nothing found]"]


@pytest.mark.parametrize("tool", ["read_file", "write_file", "edit_file", "list_directory"])
async def test_nothing_outside_is_reached(files: Workspace, tmp_path: Path, tool: str) -> None:
    (tmp_path / "secret").write_text("secret")
    given = {"content": "x", "old_string": "secret", "new_string": "x"}

    for path in ("../secret", str(tmp_path / "secret"), "..", "/"):
        result = await files.call(tool, file_path=path, **given)
        assert result == failed(f"{path} lies outside the folders this session may use")
    assert (tmp_path / "secret").read_text() == "secret"


async def test_further_folders_may_be_opened_for_reading_or_for_both(tmp_path: Path) -> None:
    folder, common, out = (tmp_path / name for name in ("session", "common", "out"))
    for path in (folder, common, out):
        path.mkdir()
    (common / "a.txt").write_text("a")
    coordinator = MockCoordinator()
    coordinator.register_capability("session.working_dir", str(folder))
    options = {"allowed_read_paths": [str(common)], "allowed_write_paths": ["../out"]}
    await load_mount("tool-filesystem")(coordinator, options)
    files = Workspace(folder, coordinator)

    assert (await files.call("read_file", file_path="../common/a.txt")).output == "a"
    assert not (await files.call("write_file", file_path="../common/a.txt", content="b")).success
    assert (await files.call("write_file", file_path="../out/b.txt", content="b")).success
    assert (await files.call("read_file", file_path="../out/b.txt")).output == "b"
    assert options == {"allowed_read_paths": [str(common)], "allowed_write_paths": ["../out"]}


async def test_without_a_folder_the_tools_say_so() -> None:
    coordinator = MockCoordinator()
    await load_mount("tool-filesystem")(coordinator, {})

    result = await coordinator.get("tools", "read_file").execute({"file_path": "a"})

    assert result == failed("This session has no folder for files")


@pytest.mark.parametrize(
    ("tool", "arguments", "problem"),
    [
        ("read_file", {}, "file_path is missing: the path of a file below the session's folder"),
        ("read_file", {"file_path": 5}, "file_path is missing: the path of a file below the session's folder"),
        ("read_file", {"file_path": "a", "offset": 0}, "offset must be a whole number from 1 on"),
        ("write_file", {"file_path": "a"}, "content is missing: it must be a text"),
    ],
)
async def test_wrong_arguments_are_answered(
    files: Workspace, tool: str, arguments: dict[str, Any], problem: str
) -> None:
    assert await files.call(tool, **arguments) == failed(problem, "Refused")


async def test_a_file_that_is_not_there_is_told(files: Workspace) -> None:
    assert await files.call("read_file", file_path="a") == failed("a does not exist")
    assert await files.call("read_file", file_path="a/b") == failed("a/b does not exist")


@pytest.mark.parametrize("options", [{"denied_write_paths": ["kept"]}])
async def test_a_denied_folder_is_read_and_not_written(files: Workspace) -> None:
    (files.folder / "kept").mkdir()
    (files.folder / "kept/a.txt").write_text("a")
    (files.folder / "way").symlink_to("kept")

    assert (await files.call("read_file", file_path="kept/a.txt")).output == "a"
    for path in ("kept/a.txt", "way/a.txt", "kept/new/b.txt"):
        shown = path.replace("way", "kept")
        assert await files.call("write_file", file_path=path, content="b") == failed(f"{shown} may not be written")
    assert (files.folder / "kept/a.txt").read_text() == "a"


@pytest.mark.parametrize("nothing", [None, ""])
async def test_a_path_that_is_left_out_with_a_word_for_nothing_is_left_out(files: Workspace, nothing: Any) -> None:
    (files.folder / "a.txt").write_text("a")

    assert (await files.call("list_directory", path=nothing)).output == "a.txt"
    assert (await files.call("glob", path=nothing, pattern="*.txt")).output == "a.txt"
    assert (await files.call("read_file", file_path=nothing, path="a.txt")).output == "a"
    assert await files.call("read_file", file_path=nothing) == failed(
        "file_path is missing: the path of a file below the session's folder", "Refused"
    )


async def test_files_are_found_by_pattern(files: Workspace) -> None:
    for name in ("b.py", "src/a.py", "src/deep/c.py", "src/d.md", "node_modules/e.py", ".git/f.py"):
        path = files.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    async def found(**arguments: Any) -> list[str]:
        return (await files.call("glob", **arguments)).output.splitlines()

    assert await found(pattern="*.py") == ["b.py", "src/a.py", "src/deep/c.py"]
    assert await found(pattern="**/*.{py,md}", path="src") == ["src/a.py", "src/d.md", "src/deep/c.py"]
    assert await found(pattern="*.py", exclude=["src/deep/**"]) == ["b.py", "src/a.py"]
    assert await found(pattern="node_modules/*") == ["node_modules/e.py"]
    assert await found(pattern="*.py", include_ignored=True) == [
        ".git/f.py",
        "b.py",
        "node_modules/e.py",
        "src/a.py",
        "src/deep/c.py",
    ]
    assert await found(pattern="d*", type="dir") == ["src/deep/"]
    assert await found(pattern="*.txt") == ["[nothing found]"]


async def test_a_tool_says_whether_it_may_be_repeated(files: Workspace) -> None:
    tools = files._coordinator.get("tools")

    assert {name: (tool.read_only, tool.idempotent) for name, tool in tools.items()} == {
        "read_file": (True, True),
        "write_file": (False, True),
        "edit_file": (False, False),
        "list_directory": (True, True),
        "glob": (True, True),
    }
