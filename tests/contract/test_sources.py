"""What fetching a source promises, for every kind of source."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources import SourceFetcher, SourcePolicy
from hostile.source_server import Repository, SourceServer, content, source_server, zip_of

FIRST, SECOND = "# first\n", "# second\n"
REMOTE = ("git+https", "git+http", "zip+https", "https")
KINDS = (*REMOTE, "git+file", "zip+file", "local")
IN_FOLDERS = tuple(kind for kind in KINDS if kind != "https")


@dataclass
class Place:
    """Somewhere a bundle lies. `uri` names the file `bundle.md` or the folder it is in."""

    kind: str
    folder: Path
    server: SourceServer

    def __post_init__(self) -> None:
        self.roots = self.folder / "roots"
        if self.kind.startswith("git+"):
            self.repository = Repository(
                (self.roots if self.kind == "git+file" else self.server.repositories) / "bundles"
            )
        self.put(FIRST)

    @property
    def uri(self) -> str:
        match self.kind:
            case "git+https" | "git+http":
                return f"git+{self.server.url}/git/bundles"
            case "git+file":
                return f"git+file://{self.roots}/bundles"
            case "zip+https":
                return f"zip+{self.server.url}/bundles.zip"
            case "zip+file":
                return f"zip+file://{self.roots}/bundles.zip"
            case "https":
                return f"{self.server.url}/bundle.md"
            case _:
                return f"file://{self.roots}/bundles"

    def put(self, text: str) -> None:
        """Let the bundle be this text from now on."""
        files = {"bundle.md": text.encode(), "behaviors/one.yaml": b"bundle: {name: one}\n"}
        match self.kind:
            case "git+https" | "git+http" | "git+file":
                self.repository.commit(files)
            case "zip+https":
                self.server.answers["/bundles.zip"] = content(zip_of(files))
            case "https":
                self.server.answers["/bundle.md"] = content(text.encode())
            case "zip+file":
                self.roots.mkdir(exist_ok=True)
                (self.roots / "bundles.zip").write_bytes(zip_of(files))
            case _:
                (self.roots / "bundles" / "behaviors").mkdir(parents=True, exist_ok=True)
                for name, body in files.items():
                    (self.roots / "bundles" / name).write_bytes(body)

    def take_away(self) -> None:
        """Let nothing be there any more."""
        self.server.answers.clear()
        shutil.rmtree(self.server.repositories / "bundles", ignore_errors=True)
        shutil.rmtree(self.roots, ignore_errors=True)
        self.roots.mkdir()

    def fetcher(self, cache: str = "cache", **policy: object) -> SourceFetcher:
        return self.server.fetcher(self.folder / cache, **({"roots": [self.roots]} | policy))


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with source_server(tmp_path / "server", encrypted=request.param != "git+http") as server:
        yield Place(request.param, tmp_path, server)


@pytest.fixture
def fetcher(place: Place) -> Iterator[SourceFetcher]:
    with ExitStack() as stack:
        fetcher = place.fetcher()
        stack.callback(fetcher.close)
        yield fetcher


def text_of(path: Path) -> str:
    return (path / "bundle.md" if path.is_dir() else path).read_text()


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", kinds, indirect=True)


def test_what_is_there_is_given(place: Place, fetcher: SourceFetcher) -> None:
    fetched = fetcher.fetch(place.uri)

    assert text_of(fetched.path) == FIRST
    assert fetched.uri == place.uri
    assert fetched.path.is_relative_to(fetched.source_root)


def test_what_changed_is_seen_by_the_next_fetch(place: Place, fetcher: SourceFetcher) -> None:
    fetcher.fetch(place.uri)
    place.put(SECOND)

    assert text_of(fetcher.fetch(place.uri).path) == SECOND


@only(*(kind for kind in KINDS if kind != "local"))
def test_what_was_given_stays_as_it_was(place: Place, fetcher: SourceFetcher) -> None:
    before = fetcher.fetch(place.uri)
    place.put(SECOND)
    after = fetcher.fetch(place.uri)

    assert (text_of(before.path), text_of(after.path)) == (FIRST, SECOND)


@only(*(kind for kind in KINDS if kind != "local"))
def test_an_earlier_resolved_address_gives_what_it_was(place: Place, fetcher: SourceFetcher) -> None:
    before = fetcher.fetch(place.uri)
    place.put(SECOND)
    fetcher.fetch(place.uri)

    assert fetcher.fetch(before.resolved).path == before.path
    assert fetcher.fetch(place.uri, before.resolved).path == before.path


@only("git+https", "git+http", "git+file")
def test_a_pin_is_given_by_another_server_too(place: Place, fetcher: SourceFetcher) -> None:
    before = fetcher.fetch(place.uri)
    place.put(SECOND)
    elsewhere = place.fetcher("elsewhere")

    pinned = elsewhere.fetch(place.uri, before.commit)
    elsewhere.close()

    assert (text_of(pinned.path), pinned.resolved) == (FIRST, before.resolved)


@only("zip+https", "zip+file", "https")
def test_a_pin_that_is_gone_is_an_error(place: Place, fetcher: SourceFetcher) -> None:
    before = fetcher.fetch(place.uri)
    place.put(SECOND)
    elsewhere = place.fetcher("elsewhere")

    with pytest.raises(Unresolved) as caught:
        elsewhere.fetch(place.uri, before.resolved)
    elsewhere.close()

    assert caught.value.code == "module_fetch_failed"
    assert "no longer holds" in caught.value.detail


@only(*IN_FOLDERS)
def test_a_subdirectory_is_given_and_the_whole_source_counts_as_its_root(place: Place, fetcher: SourceFetcher) -> None:
    folder = fetcher.fetch(f"{place.uri}#subdirectory=behaviors")
    file = fetcher.fetch(f"{place.uri}#subdirectory=behaviors/one.yaml")

    assert (folder.path, file.path) == (folder.source_root / "behaviors", folder.path / "one.yaml")
    assert (folder.source_root / "bundle.md").is_file()


def test_a_subdirectory_that_is_not_there_is_not_found(place: Place, fetcher: SourceFetcher) -> None:
    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(f"{place.uri}#subdirectory=nowhere")

    assert caught.value.code == "bundle_not_found"


@pytest.mark.parametrize("leads_out", ["..", "behaviors/../../..", "/etc"])
def test_a_subdirectory_that_leads_out_is_refused(place: Place, fetcher: SourceFetcher, leads_out: str) -> None:
    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(f"{place.uri}#subdirectory={leads_out}/..")

    assert caught.value.code == "source_not_allowed"


def test_what_is_not_allowed_is_refused_by_the_name_of_the_setting(place: Place) -> None:
    strict = place.fetcher("strict", allow=[], roots=[])

    with pytest.raises(Unresolved) as caught:
        strict.fetch(place.uri)
    strict.close()

    assert caught.value.code == "source_not_allowed"
    assert ("AMPLIFIER_SOURCE_ROOTS" if place.kind == "local" else "AMPLIFIER_SOURCE_ALLOW") in caught.value.detail
    assert place.server.asked == []


@only(*REMOTE)
def test_a_host_on_this_machine_is_refused_until_it_is_allowed(place: Place) -> None:
    strict = place.fetcher("strict", private_addresses=False)

    with pytest.raises(Unresolved) as caught:
        strict.fetch(place.uri)
    strict.close()

    assert caught.value.code == "source_not_allowed"
    assert "AMPLIFIER_PRIVATE_ADDRESSES" in caught.value.detail
    assert place.server.asked == []


@only("git+https", "zip+https", "https")
def test_a_certificate_of_an_unknown_authority_is_refused(place: Place) -> None:
    policy = SourcePolicy.of([f"{place.kind}://{place.server.authority}/*"], private_addresses=True)
    stranger = SourceFetcher(place.folder / "stranger", policy, resolver=place.server.resolver)

    with pytest.raises(Unresolved) as caught:
        stranger.fetch(place.uri)
    stranger.close()

    assert caught.value.code == "module_fetch_failed"
    assert "certificate" in caught.value.detail.lower()
    assert place.server.asked == []


def test_what_is_gone_is_an_error(place: Place, fetcher: SourceFetcher) -> None:
    place.take_away()

    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(place.uri)

    assert caught.value.code == ("bundle_not_found" if place.kind == "local" else "module_fetch_failed")


@only(*(kind for kind in KINDS if kind != "local"))
def test_fetched_files_are_read_only(place: Place, fetcher: SourceFetcher) -> None:
    root = fetcher.fetch(place.uri).source_root

    assert {path.stat().st_mode & 0o222 for path in (root, *root.rglob("*"))} == {0}


async def test_a_fetch_in_a_thread_gives_the_same(place: Place, fetcher: SourceFetcher) -> None:
    first, second = await asyncio.gather(fetcher.fetch_async(place.uri), fetcher.fetch_async(place.uri))

    assert first == second == await asyncio.to_thread(fetcher.fetch, place.uri)


@only("git+https", "git+http", "git+file")
@pytest.mark.parametrize("ref", ["release/1@x", "v1", "v2", "commit"])
def test_a_branch_a_tag_and_a_commit_are_refs(place: Place, fetcher: SourceFetcher, ref: str) -> None:
    commit = place.repository.git("rev-parse", "HEAD")
    place.repository.git("branch", "release/1@x")
    place.repository.git("tag", "v1")
    place.repository.git("tag", "--annotate", "v2", "--message", "with a message")
    place.put(SECOND)

    fetched = fetcher.fetch(f"{place.uri}@{commit if ref == 'commit' else ref}")

    assert (fetched.commit, text_of(fetched.path)) == (commit, FIRST)
    assert fetched.resolved == f"{place.uri}@{commit}"


@only("git+https", "git+file")
def test_without_a_ref_it_is_main(place: Place, fetcher: SourceFetcher) -> None:
    commit = place.repository.git("rev-parse", "main")
    place.repository.git("checkout", "--quiet", "-b", "next")
    place.put(SECOND)

    assert fetcher.fetch(place.uri).commit == commit


@only("git+https", "git+file")
@pytest.mark.parametrize("ref", ["nowhere", "mai", "refs/heads/main", "--upload-pack=touch", "a..b", "*", "0" * 40])
def test_a_ref_that_is_none_is_an_error(place: Place, fetcher: SourceFetcher, ref: str) -> None:
    with pytest.raises(Unresolved) as caught:
        fetcher.fetch(f"{place.uri}@{ref}")

    assert caught.value.code == "module_fetch_failed"


@only("https")
def test_a_server_that_knows_what_has_not_changed_is_not_asked_for_it_again(
    place: Place, fetcher: SourceFetcher
) -> None:
    place.server.answers["/bundle.md"] = content(FIRST.encode(), etag='"one"')
    before = fetcher.fetch(place.uri)
    place.server.answers["/bundle.md"] = content(SECOND.encode(), etag='"one"')

    assert fetcher.fetch(place.uri).path == before.path


@only("https")
@pytest.mark.parametrize("name", ["bundle.md", "bundle.yaml", "bundle.yml", "a%20b.md"])
def test_a_single_file_keeps_its_suffix(place: Place, fetcher: SourceFetcher, name: str) -> None:
    place.server.answers[f"/{name}"] = content(FIRST.encode())

    assert fetcher.fetch(f"{place.server.url}/{name}").path.name == name.replace("%20", " ")


@only("https")
def test_a_single_file_of_another_kind_is_an_error_that_knows_better(place: Place, fetcher: SourceFetcher) -> None:
    with pytest.raises(Unresolved, match=r"an archive is written zip\+https"):
        fetcher.fetch(f"{place.server.url}/bundles.zip")

    assert place.server.asked == []
