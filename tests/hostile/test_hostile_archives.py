"""Archives that are bombs, or whose members want to be elsewhere."""

import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources import FetchLimits, SourceFetcher, SourcePolicy

SMALL = FetchLimits(download_bytes=2**20, tree_bytes=2**20, file_bytes=2**19, files=50, expansion=100)
ORDINARY = {"bundle.md": b"hello"}


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[SourceFetcher]:
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of([f"zip+file://{tmp_path}/*"]), SMALL)
    yield fetcher
    fetcher.close()


def member(name: str, *, mode: int = 0, made_by: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode << 16, made_by
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def archive(folder: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    path = folder / "sources.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members:
            written.writestr(name, content)
    return path


def refusal(fetcher: SourceFetcher, path: Path) -> str:
    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(f"zip+file://{path}")
    cache = path.parent / "cache"
    assert (list((cache / "tmp").iterdir()), list((cache / "entries").iterdir())) == ([], [])
    assert caught.value.code == "module_fetch_failed"
    return caught.value.detail


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/etc/out", "a//b", "./a", "C:/out", "a\\b", "..\\out", "a\x01b", "x" * 256]
)
def test_a_name_that_leads_out_is_refused(fetcher: SourceFetcher, tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, ("bundle.md", b"hello"), (member("PLACE"), b"out"))
    with zipfile.ZipFile(path, "w") as written:
        info = member("PLACE")
        info.filename = name  # as it is, without what the library makes of it
        written.writestr(info, b"out")

    assert "impossible name" in refusal(fetcher, path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(fetcher: SourceFetcher, tmp_path: Path, kind: int) -> None:
    path = archive(tmp_path, (member("link", mode=kind | 0o777), b"/etc/passwd"))

    assert "neither a file nor a folder" in refusal(fetcher, path)


def test_a_member_that_grows_too_much_is_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, ("zeros", bytes(2**19)))

    assert "grows more than 100 times" in refusal(fetcher, path)


def test_members_that_are_too_much_together_are_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, *((f"{number}", bytes(60_000)) for number in range(40)))

    assert "holds more than 1048576 bytes" in refusal(fetcher, path)


def test_too_many_members_are_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, *((f"{number}", b"") for number in range(51)))

    assert "more than 50 files" in refusal(fetcher, path)


def test_a_list_of_members_that_is_too_long_is_not_even_read(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, *((f"{number:>0100}", b"") for number in range(400)))

    assert "more than 50 files" in refusal(fetcher, path)


def test_a_large_archive_is_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = tmp_path / "sources.zip"
    path.write_bytes(bytes(2**20 + 1))

    assert "larger than 1048576 bytes" in refusal(fetcher, path)


def test_a_size_that_is_a_lie_is_found_out(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, ("zeros", bytes(2**18)))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    struct.pack_into("<L", content, start + 24, 10)  # the uncompressed size in the list of members
    path.write_bytes(content)

    assert "damaged" in refusal(fetcher, path)


def test_members_over_each_other_are_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, ("a", bytes(range(256)) * 100))
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    name = start + 46
    copies = b"".join(entry[: name - start] + bytes([letter]) + entry[name - start + 1 :] for letter in b"abcdefgh")
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 8, 8, len(copies), start, 0)
    path.write_bytes(content[:start] + copies + last)

    assert "over each other" in refusal(fetcher, path)


@pytest.mark.parametrize("names", [("README.md", "readme.md"), ("caf\u00e9", "cafe\u0301"), ("A/x", "a/y")])
def test_names_that_some_systems_take_for_one_are_refused(
    fetcher: SourceFetcher, tmp_path: Path, names: tuple[str, str]
) -> None:
    assert "take for one" in refusal(fetcher, archive(tmp_path, *((name, b"x") for name in names)))


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_file_that_is_a_folder_too_is_refused(fetcher: SourceFetcher, tmp_path: Path, names: tuple[str, str]) -> None:
    assert "'a' twice" in refusal(fetcher, archive(tmp_path, *((name, b"x") for name in names)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_file_twice_is_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    assert "'a' twice" in refusal(fetcher, archive(tmp_path, ("a", b"one"), ("a", b"two")))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"no archive", id="something else"),
        pytest.param(lambda content: b"", id="nothing"),
        pytest.param(lambda content: content[:-10], id="cut short"),
        pytest.param(lambda content: content[10:], id="cut at the front"),
        pytest.param(lambda content: content.replace(b"PK\x03\x04", b"PK\x03\x05"), id="another mark"),
        pytest.param(lambda content: content[:45] + b"\xff" * 20 + content[65:], id="other content"),
    ],
)
def test_what_is_damaged_is_an_error(fetcher: SourceFetcher, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = archive(tmp_path, ("bundle.md", bytes(range(256))))
    path.write_bytes(damage(path.read_bytes()))

    refusal(fetcher, path)


def test_an_encrypted_member_is_refused(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(tmp_path, ("a", b"x"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)

    assert "encrypted" in refusal(fetcher, path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_compression_is_refused(fetcher: SourceFetcher, tmp_path: Path, method: int) -> None:
    path = tmp_path / "sources.zip"
    with zipfile.ZipFile(path, "w", method) as written:
        written.writestr("a", bytes(1000))

    assert "unusual" in refusal(fetcher, path)


def test_a_pipe_in_place_of_an_archive_is_not_waited_for(fetcher: SourceFetcher, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "sources.zip")

    refusal(fetcher, tmp_path / "sources.zip")


def test_an_archive_may_have_folders_programs_and_what_python_compiled(fetcher: SourceFetcher, tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        ("folder/", b""),
        (member("folder/run.sh", mode=stat.S_IFREG | 0o755), b"#!/bin/sh\n"),
        ("folder/__pycache__/a.pyc", b"old"),
        (".git/config", b"[core]\n"),
    )

    root = fetcher.fetch(f"zip+file://{path}").path

    assert sorted(str(found.relative_to(root)) for found in root.rglob("*")) == ["folder", "folder/run.sh"]
    assert (root / "folder" / "run.sh").stat().st_mode & 0o777 == 0o555
