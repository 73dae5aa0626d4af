"""Includes, context and modules in sources that have to be fetched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources, Unresolved, check_storable, parse_document, prepare
from amplifier_app_api.bundles.fetched import Fetched
from amplifier_app_api.bundles.includes import Loaded, load_document
from amplifier_app_api.bundles.prepare import PreparedBundle, activate_further
from amplifier_app_api.bundles.uris import SourceUri

REPO = "git+https://host/org/repo@main"


class Repositories:
    """Repositories as folders; a commit can be moved, and a pin brings the old one back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head = "one"

    def write(self, name: str, text: str, repo: str = "repo", commit: str = "one") -> Path:
        path = self.folder / repo / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def fetch(self, text: str, pin: str | None) -> Fetched:
        uri = SourceUri.parse(text)
        commit = SourceUri.parse(pin).ref if pin else self.head
        root = self.folder / uri.path.rpartition("/")[2] / commit
        if not (root / uri.subpath).exists():
            raise Unresolved("bundle_not_found", f"{text} is not there.")
        resolved = f"{uri.scheme}://{uri.host}{uri.path}@{commit}"
        fragment = f"#subdirectory={uri.subpath}" if uri.subpath else ""
        return Fetched(uri=text, resolved=resolved + fragment, path=root / uri.subpath, source_root=root, commit=commit)


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    return Repositories(tmp_path / "cache")


Load = Callable[..., Loaded]


@pytest.fixture
def load(repositories: Repositories) -> Load:
    def load_includes(*includes: str, **options: object) -> Loaded:
        document = parse_document(f"bundle: {{name: entry}}\nincludes: {list(includes)}\n")
        return load_document(document, Sources(fetch=repositories.fetch, **options))  # pyright: ignore[reportArgumentType]

    return load_includes


async def prepared(text: str, repositories: Repositories, **pins: str) -> PreparedBundle:
    modules = frozenset({"provider-scripted", "loop-streaming", "context-simple", "tool-filesystem"})
    sources = Sources(fetch=repositories.fetch, builtin_modules=modules, pins=pins)
    return await prepare(check_storable(text), sources=sources)


def test_without_a_fetcher_a_remote_include_is_refused() -> None:
    loaded = load_document(parse_document(f"bundle: {{name: x}}\nincludes: ['{REPO}']\n"), Sources())

    assert [(problem.code, problem.pointer) for problem in loaded.problems] == [("source_not_allowed", "/includes/0")]


def test_a_password_in_an_address_is_not_repeated() -> None:
    document = parse_document("bundle: {name: x}\nincludes: ['https://me:s3cret@host/b.md']\n")

    problem = load_document(document, Sources()).problems[0]

    assert problem.detail.startswith("x → https://***@host/b.md: 'https://***@host/b.md' is not local")


def test_a_remote_bundle_reads_its_own_files_and_includes(repositories: Repositories, load: Load) -> None:
    repositories.write(
        "bundle.md",
        "---\nbundle: {name: r}\nincludes: [./parts/a.yaml, 'r:parts/b']\ncontext: {include: [c.md]}\n---\n",
    )
    repositories.write("parts/a.yaml", "bundle: {name: a}\ntools: [{module: t, source: ../modules/t}]\n")
    repositories.write("parts/b.yaml", "bundle: {name: b}\ncontext: {include: ['r:c.md', ../c.md]}\n")
    root = repositories.write("c.md", "C").parent

    loaded = load(REPO)

    assert loaded.problems == ()
    assert loaded.bundle.tools == ({"module": "t", "source": f"{root}/modules/t"},)
    assert {str(path.resolve()) for path in loaded.bundle.context.values()} == {f"{root}/c.md"}
    assert loaded.bundle.namespaces["r"] == root


def test_a_part_of_a_repository_knows_the_bundle_around_it(repositories: Repositories, load: Load) -> None:
    repositories.write("bundle.md", "---\nbundle: {name: r}\n---\n")
    repositories.write("bundles/x/bundle.yaml", "bundle: {name: x}\ncontext: {include: ['r:c.md']}\n")
    root = repositories.write("c.md", "C").parent

    by_subdirectory = load(f"{REPO}#subdirectory=bundles/x")
    by_namespace = load(REPO, "r:bundles/x")

    assert dict(by_subdirectory.bundle.context) == {"r:c.md": root / "c.md"}
    assert dict(by_namespace.bundle.context) == {"r:c.md": root / "c.md"}


def test_a_name_may_stand_for_a_remote_bundle_and_for_its_namespace(repositories: Repositories, load: Load) -> None:
    repositories.write("bundle.md", "---\nbundle: {name: r}\n---\n")
    repositories.write("parts/a.yaml", "bundle: {name: a}\ntools: [{module: t}]\n")

    loaded = load("ours", "ours:parts/a", names={"ours": REPO})

    assert loaded.problems == ()
    assert [tool["module"] for tool in loaded.bundle.tools] == ["t"]


def test_a_remote_bundle_cannot_read_outside_its_source(repositories: Repositories, load: Load) -> None:
    secret = repositories.write("b.yaml", "bundle: {name: secret}\n", repo="other")
    repositories.write("bundle.yaml", f"bundle: {{name: r}}\nincludes: [../../other/one/b.yaml, '{secret}']\n")
    (repositories.folder / "repo/one/link.yaml").symlink_to(secret)

    loaded = load(REPO, f"{REPO}#subdirectory=link.yaml")

    assert [problem.code for problem in loaded.problems] == ["source_not_allowed"] * 3
    assert loaded.bundle.name == "entry"


def test_a_circle_through_a_repository_is_a_warning_and_in_a_strict_reading_a_problem(
    repositories: Repositories, load: Load
) -> None:
    repositories.write("bundle.yaml", f"bundle: {{name: r}}\nincludes: ['{REPO}#subdirectory=a.yaml']\n")
    repositories.write("a.yaml", f"bundle: {{name: a}}\nincludes: ['{REPO}']\n")

    lenient, strict = load(REPO), load(REPO, strict_cycles=True)

    way = f"entry → {REPO} → {REPO}#subdirectory=a.yaml → {REPO}"
    assert lenient.problems == ()
    assert lenient.warnings == (f"The include {way} closes a circle and was left out.",)
    assert [(problem.code, problem.detail, problem.pointer) for problem in strict.problems] == [
        ("include_cycle", f"{way}: it closes a circle of includes.", "/includes/0")
    ]


async def test_what_was_fetched_is_recorded_and_another_commit_is_another_fingerprint(
    repositories: Repositories,
) -> None:
    for commit in ("one", "two"):
        repositories.write("bundle.yaml", "bundle: {name: r}\n", commit=commit)
        repositories.write(
            "m/amplifier_module_tool_x/__init__.py", "async def mount(coordinator, config): ...\n", commit=commit
        )
    text = (
        f"bundle: {{name: x}}\nincludes: ['foundation:minimal', '{REPO}']\nproviders: [{{module: provider-scripted}}]\n"
        f"tools: [{{module: tool-x, source: '{REPO}#subdirectory=m'}}]\n"
    )

    first = await prepared(text, repositories)
    repositories.head = "two"
    second = await prepared(text, repositories)
    pinned = await prepared(text, repositories, **first.pins())

    assert first.problems == second.problems == pinned.problems == ()
    assert [(source.uri, source.commit) for source in first.sources] == [
        (REPO, "one"),
        (f"{REPO}#subdirectory=m", "one"),
    ]
    assert [source.commit for source in second.sources] == ["two", "two"]
    assert first.fingerprint == pinned.fingerprint != second.fingerprint
    assert pinned.activations["tool-x"].path == repositories.folder / "repo/one/m"


async def test_a_module_beside_a_remote_bundle_is_found(repositories: Repositories) -> None:
    repositories.write("bundle.yaml", "bundle: {name: r}\ntools: [{module: tool-x, source: ./m}]\n")
    repositories.write("m/amplifier_module_tool_x/__init__.py", "async def mount(coordinator, config): ...\n")

    bundle = await prepared(
        f"bundle: {{name: x}}\nincludes: ['foundation:minimal', '{REPO}']\n"
        "providers: [{module: provider-scripted}]\n",
        repositories,
    )

    bundle.require_runnable()
    assert bundle.activations["tool-x"].path == repositories.folder / "repo/one/m"


async def test_a_module_asked_for_later_is_found_by_its_source_unless_it_is_known(repositories: Repositories) -> None:
    repositories.write("m/amplifier_module_tool_x/__init__.py", "async def mount(coordinator, config): ...\n")
    bundle = await prepared(
        "bundle: {name: x}\nincludes: ['foundation:minimal']\nproviders: [{module: provider-scripted}]\n", repositories
    )
    sources = Sources(fetch=repositories.fetch)

    known = await activate_further(bundle, "tool-filesystem", "git+https://host/org/gone", sources)
    later = await activate_further(bundle, "tool-x", f"{REPO}#subdirectory=m", sources)

    assert (known.kind, later.path) == ("builtin", repositories.folder / "repo/one/m")
    with pytest.raises(Unresolved, match="no source says where it is"):
        await activate_further(bundle, "tool-y", None, sources)
    with pytest.raises(Unresolved) as refused:
        await activate_further(bundle, "tool-y", f"{REPO}#subdirectory=gone", sources)
    assert refused.value.code == "module_not_found"
