"""Repositories that are too much, or want to be more than files."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.sources import FetchLimits, SourceFetcher, SourcePolicy
from hostile.source_server import Repository, SourceServer, content, source_server

SMALL = FetchLimits(download_bytes=2**20, tree_bytes=2**20, file_bytes=2**19, files=50)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "roots" / "repository")


@pytest.fixture
def fetcher(repository: Repository, tmp_path: Path) -> Iterator[SourceFetcher]:
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of(roots=[repository.folder]), SMALL)
    yield fetcher
    fetcher.close()


def fetch(fetcher: SourceFetcher, repository: Repository) -> Fetched:
    return fetcher.fetch(f"git+file://{repository.folder}")


def refusal(fetcher: SourceFetcher, repository: Repository, tmp_path: Path) -> str:
    with pytest.raises(Unresolved) as caught:
        fetch(fetcher, repository)
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    assert caught.value.code == "module_fetch_failed"
    return caught.value.detail


def object_of(repository: Repository, kind: str, content: bytes) -> str:
    """An object as it stands here, whatever git thinks of it."""
    command = ["git", "hash-object", "-t", kind, "-w", "--stdin", "--literally"]
    done = subprocess.run(command, cwd=repository.folder, input=content, capture_output=True, check=True)
    return done.stdout.decode().strip()


def commit_tree(repository: Repository, *entries: tuple[str, str, str]) -> None:
    """Let `main` be a tree of (mode, name, object)."""
    raw = b"".join(os.fsencode(f"{mode} {name}\0") + bytes.fromhex(item) for mode, name, item in entries)
    tree = object_of(repository, "tree", raw)
    commit = repository.git("commit-tree", tree, "-m", "A tree")
    repository.git("update-ref", "refs/heads/main", commit)


def test_a_large_repository_is_left_while_it_arrives(
    fetcher: SourceFetcher, repository: Repository, tmp_path: Path
) -> None:
    repository.commit({f"{number}.bin": os.urandom(2**18) for number in range(16)})

    assert "larger than 1048576 bytes" in refusal(fetcher, repository, tmp_path)


def test_a_large_repository_over_https_is_left_too(tmp_path: Path) -> None:
    with source_server(tmp_path / "server") as server:
        Repository(server.repositories / "big").commit({f"{n}.bin": os.urandom(2**18) for n in range(16)})
        fetcher = server.fetcher(tmp_path / "cache", SMALL)
        with pytest.raises(Unresolved, match="larger than 1048576 bytes"):
            fetcher.fetch(f"git+{server.url}/git/big")
        fetcher.close()


def test_a_repository_that_grows_when_it_is_written_is_refused(
    fetcher: SourceFetcher, repository: Repository, tmp_path: Path
) -> None:
    repository.commit({f"{number}.txt": bytes(2**18) + b"%d" % number for number in range(8)})

    assert "larger than 1048576 bytes" in refusal(fetcher, repository, tmp_path)


def test_one_large_file_is_refused(fetcher: SourceFetcher, repository: Repository, tmp_path: Path) -> None:
    repository.commit({"zeros.txt": bytes(2**19 + 1)})

    assert "'zeros.txt' is larger than 524288 bytes" in refusal(fetcher, repository, tmp_path)


def test_too_many_files_are_refused(fetcher: SourceFetcher, repository: Repository, tmp_path: Path) -> None:
    repository.commit({f"{number}.txt": "x" for number in range(51)})

    assert "more than 50 files" in refusal(fetcher, repository, tmp_path)


def test_trees_that_multiply_are_refused(fetcher: SourceFetcher, repository: Repository, tmp_path: Path) -> None:
    item, mode = object_of(repository, "blob", b"x"), "100644"
    for _ in range(9):
        raw = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(item) for name in "abcdefghij")
        item, mode = object_of(repository, "tree", raw), "40000"
    commit_tree(repository, (mode, "a", item))

    assert "more than can be read" in refusal(fetcher, repository, tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "a\\b", "new\nline", "no utf-8 \udcff"])
def test_a_name_that_leads_out_is_refused(
    fetcher: SourceFetcher, repository: Repository, tmp_path: Path, name: str
) -> None:
    commit_tree(repository, ("100644", name, object_of(repository, "blob", b"out")))

    assert "impossible name" in refusal(fetcher, repository, tmp_path)


@pytest.mark.parametrize("names", [("README.md", "readme.md"), ("caf\u00e9", "cafe\u0301")])
def test_names_that_some_systems_take_for_one_are_refused(
    fetcher: SourceFetcher, repository: Repository, tmp_path: Path, names: tuple[str, str]
) -> None:
    blob = object_of(repository, "blob", b"x")
    commit_tree(repository, *(("100644", name, blob) for name in sorted(names)))

    assert "take for one" in refusal(fetcher, repository, tmp_path)


def test_links_that_lead_out_are_left_out_and_the_others_stay(fetcher: SourceFetcher, repository: Repository) -> None:
    repository.commit({"real/file.txt": "real"})
    links = {
        "inside": "real/file.txt",
        "folder": "real",
        "chain": "inside",
        "absolute": "/etc/passwd",
        "upwards": "../../../../../../etc/passwd",
        "nowhere": "missing",
        "itself": "itself",
        "through": "real/out",
        "real/out": "../..",
    }
    for name, target in links.items():
        (repository.folder / name).symlink_to(target)
    repository.commit({})

    root = fetch(fetcher, repository).path

    assert sorted(path.name for path in root.rglob("*") if path.is_symlink()) == ["chain", "folder", "inside"]
    assert (root / "chain").read_text() == (root / "folder" / "file.txt").read_text() == "real"


def test_nothing_is_written_through_a_link(fetcher: SourceFetcher, repository: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = object_of(repository, "blob", b"../../../../outside")
    folder = object_of(repository, "tree", b"100644 file\0" + bytes.fromhex(object_of(repository, "blob", b"x")))
    commit_tree(repository, ("120000", "a", link), ("40000", "a", folder))

    assert "'a' twice" in refusal(fetcher, repository, tmp_path)
    assert list(outside.iterdir()) == []


def test_submodules_filters_and_repositories_within_are_not_followed(
    fetcher: SourceFetcher, repository: Repository, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    repository.git("config", "filter.evil.smudge", f"touch {trace}")
    repository.git("config", "uploadpack.packObjectsHook", f"touch {trace};")
    repository.commit({".gitattributes": "* filter=evil\n*.txt eol=crlf export-ignore\n", "a.txt": "one\ntwo\n"})
    modules = object_of(repository, "blob", b'[submodule "m"]\n\tpath = m\n\turl = ext::touch x\n')
    inner = object_of(repository, "tree", b"100644 config\0" + bytes.fromhex(modules))
    blobs = {name: repository.git("rev-parse", f"HEAD:{name}") for name in (".gitattributes", "a.txt")}
    commit_tree(
        repository,
        ("40000", ".GIT", inner),
        ("100644", ".gitattributes", blobs[".gitattributes"]),
        ("100644", ".gitmodules", modules),
        ("100644", "a.txt", blobs["a.txt"]),
        ("160000", "m", "1" * 40),
    )

    root = fetch(fetcher, repository).path

    assert sorted(path.name for path in root.iterdir()) == [".gitattributes", ".gitmodules", "a.txt"]
    assert (root / "a.txt").read_bytes() == b"one\ntwo\n"
    assert not trace.exists()


def test_the_configuration_and_environment_of_the_server_have_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    trace = tmp_path / "ran"
    (home / ".netrc").write_text("machine sources.test login me password secret\n")
    (home / ".gitconfig").write_text(
        f'[credential]\n\thelper = "!touch {trace}; echo username=me; echo password=secret; #"\n'
        '[url "https://elsewhere.test/"]\n\tinsteadOf = https://sources.test\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    monkeypatch.setenv("GIT_ASKPASS", f"touch {trace}")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    seen: list[str | None] = []
    with source_server(tmp_path / "server") as server:
        monkeypatch.delenv("GIT_DIR")
        commit = Repository(server.repositories / "bundles").commit({"bundle.md": "one"})
        monkeypatch.setenv("GIT_DIR", str(tmp_path))
        fetcher = server.fetcher(tmp_path / "cache")
        assert fetcher.fetch(f"git+{server.url}/git/bundles").commit == commit

        server.answers["/private/info/refs"] = _asking_for_a_password(seen)
        with pytest.raises(Unresolved):
            fetcher.fetch(f"git+{server.url}/private")
        fetcher.close()

    assert (seen, trace.exists()) == ([None], False)


def _asking_for_a_password(seen: list[str | None]):
    def answer(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", "Basic")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.mark.parametrize("kind", ["ext", "ssh", "git", "ftp", "fd"])
def test_foreign_protocols_are_not_fetched(fetcher: SourceFetcher, kind: str) -> None:
    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(f"git+{kind}://sources.test/repository")

    assert caught.value.code == "source_not_allowed"


def test_a_plain_file_server_serves_a_repository_too(tmp_path: Path) -> None:
    with source_server(tmp_path / "server") as server:
        repository = Repository(tmp_path / "repository")
        first = repository.commit({"bundle.md": "one"})
        repository.commit({"bundle.md": "two"})
        repository.git("update-server-info")
        _serve_files(server, repository.folder / ".git", "/plain")
        fetcher = server.fetcher(tmp_path / "cache")

        assert (fetcher.fetch(f"git+{server.url}/plain@{first}").path / "bundle.md").read_text() == "one"
        assert (fetcher.fetch(f"git+{server.url}/plain").path / "bundle.md").read_text() == "two"
        fetcher.close()


def _serve_files(server: SourceServer, folder: Path, at: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            server.answers[f"{at}/{path.relative_to(folder)}"] = content(path.read_bytes())
