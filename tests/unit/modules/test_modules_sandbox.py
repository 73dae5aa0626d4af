import os
import stat
from pathlib import Path

import pytest

from amplifier_app_api.modules.tools.sandbox import FileRefused, Found, Place, Sandbox

OUTSIDE = "lies outside the folders this session may use"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "session"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("path", ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "link/secret.txt", "direct"])
def test_no_way_leads_outside(root: Path, path: str) -> None:
    (root / "link").symlink_to(root.parent)
    (root / "direct").symlink_to(root.parent / "secret.txt")

    with pytest.raises(FileRefused, match=OUTSIDE):
        Sandbox([root]).locate(path)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(root: Path, path: str) -> None:
    with pytest.raises(FileRefused, match="empty or holds a NUL"):
        Sandbox([root]).locate(path)


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "real.txt").write_text("hello")
    (root / "link.txt").symlink_to("real.txt")
    sandbox = Sandbox([root])

    assert sandbox.read(sandbox.locate("link.txt"), 100) == b"hello"


def test_a_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    (root / "a.txt").write_text("a")
    (tmp_path / "alias").symlink_to(root)
    sandbox = Sandbox([tmp_path / "alias"])

    assert sandbox.read(sandbox.locate("a.txt"), 10) == b"a"
    assert sandbox.read(sandbox.locate(str(tmp_path / "alias" / "a.txt")), 10) == b"a"


def test_a_link_put_in_place_after_the_look_is_not_followed(root: Path) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("mine")
    sandbox = Sandbox([root])
    place = sandbox.locate("folder/secret.txt")
    (root / "folder").rename(root / "old")
    (root / "folder").symlink_to(root.parent)

    with pytest.raises(FileRefused):
        sandbox.read(place, 100)
    with pytest.raises(FileRefused):
        sandbox.write(place, b"overwritten")
    assert (root.parent / "secret.txt").read_text() == "secret"


def test_a_last_component_that_became_a_link_is_not_followed(root: Path) -> None:
    sandbox = Sandbox([root])
    place = sandbox.locate("a.txt")
    (root / "a.txt").symlink_to(root.parent / "secret.txt")

    with pytest.raises(FileRefused):
        sandbox.read(place, 100)
    with pytest.raises(FileRefused, match=r"a\.txt is not a file"):
        sandbox.write(place, b"overwritten")
    assert (root.parent / "secret.txt").read_text() == "secret"


def test_a_pipe_is_refused_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    sandbox = Sandbox([root])

    with pytest.raises(FileRefused, match="pipe is not a file"):
        sandbox.read(sandbox.locate("pipe"), 100)


def test_a_file_over_the_limit_is_refused(root: Path) -> None:
    (root / "big").write_bytes(b"x" * 101)
    sandbox = Sandbox([root])

    with pytest.raises(FileRefused, match="big is larger than 100 bytes"):
        sandbox.read(sandbox.locate("big"), 100)


def test_writing_makes_folders_and_leaves_nothing_else(root: Path) -> None:
    sandbox = Sandbox([root])

    sandbox.write(sandbox.locate("a/b/c.txt"), b"one")
    sandbox.write(sandbox.locate("a/b/c.txt"), b"two")

    assert (root / "a/b/c.txt").read_bytes() == b"two"
    assert sorted(path.name for path in root.rglob("*")) == ["a", "b", "c.txt"]


def test_writing_keeps_the_mode_of_the_file_it_replaces(root: Path) -> None:
    script = root / "run.sh"
    script.write_text("old")
    script.chmod(0o775)
    sandbox = Sandbox([root])

    sandbox.write(sandbox.locate("run.sh"), b"new")

    assert stat.S_IMODE(script.stat().st_mode) == 0o775


def test_a_folder_is_no_file(root: Path) -> None:
    (root / "folder").mkdir()
    sandbox = Sandbox([root])

    with pytest.raises(FileRefused, match="folder is not a file"):
        sandbox.read(sandbox.locate("folder"), 100)
    with pytest.raises(FileRefused, match="folder is a folder"):
        sandbox.write(sandbox.locate("folder"), b"x")
    with pytest.raises(FileRefused):
        sandbox.write(sandbox.locate("."), b"x")
    assert list(root.iterdir()) == [root / "folder"]


def test_further_roots_are_reached_by_absolute_paths(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("a")
    sandbox = Sandbox([root, other])

    assert sandbox.locate(str(other / "a.txt")) == Place(other.resolve(), ("a.txt",))


def test_listing_names_links_and_does_not_enter_them(root: Path) -> None:
    (root / "b").mkdir()
    (root / "b" / "inner.txt").write_text("12")
    (root / "a.txt").write_text("")
    (root / "out").symlink_to(root.parent)
    sandbox = Sandbox([root])

    assert list(sandbox.walk(sandbox.locate("."), most=100)) == [
        Found("a.txt", is_folder=False, is_file=True, size=0),
        Found("b", is_folder=True, is_file=False, size=0),
        Found("out", is_folder=False, is_file=False, size=0),
        Found("b/inner.txt", is_folder=False, is_file=True, size=2),
    ]
    assert [found.name for found in sandbox.walk(sandbox.locate("."), most=2)] == ["a.txt", "b"]
    assert [found.name for found in sandbox.walk(sandbox.locate("."), most=9, skip=frozenset("b"))] == ["a.txt", "out"]


def test_a_folder_that_became_a_link_while_it_was_listed_is_not_entered(root: Path) -> None:
    (root / "folder").mkdir()
    sandbox = Sandbox([root])
    walk = sandbox.walk(sandbox.locate("."), most=100)

    assert next(walk).name == "folder"
    (root / "folder").rmdir()
    (root / "folder").symlink_to(root.parent)

    assert list(walk) == []


def test_a_place_is_told_as_the_path_that_leads_there(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    sandbox = Sandbox([root, other])

    assert sandbox.told(sandbox.locate("a/b")) == "a/b"
    assert sandbox.told(sandbox.locate(str(other / "a"))) == str(other / "a")


def test_errors_do_not_tell_where_the_server_keeps_its_files(root: Path) -> None:
    sandbox = Sandbox([root])

    with pytest.raises(FileRefused) as raised:
        sandbox.read(sandbox.locate("no/such.txt"), 1)
    assert str(raised.value) == "no/such.txt does not exist"
