"""Documents and servers that want to see secrets, leave their sandbox, or never be done with."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources, VariableScope, parse_document, prepare
from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.plan import plan_of
from amplifier_app_api.bundles.prepare import PreparedBundle
from amplifier_app_api.bundles.sources import FetchLimits, SourceFetcher, SourcePolicy
from amplifier_app_api.bundles.sources.limits import Patience
from amplifier_app_api.bundles.sources.tree import TreeWriter
from amplifier_app_api.bundles.tracing import trace
from amplifier_app_api.errors import ErrorItem
from hostile.source_server import Repository, SourceServer, content, redirect, source_server

SECRET = "Sk-Ant-Secret"
KEY = {"ANTHROPIC_API_KEY": SECRET}
ENTRY = "bundle: {name: x}\nincludes: ['foundation:minimal']\nproviders: [{module: provider-scripted}]\n"
BUILTIN = frozenset({"provider-scripted", "loop-streaming", "context-simple", "tool-filesystem"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SourceServer]:
    with source_server(tmp_path / "server") as server:
        yield server


def told(prepared: PreparedBundle, sources: Sources, text: str) -> str:
    """Everything that a plan and the refusal of a session say."""
    plan = plan_of(prepared, trace(parse_document(text), sources, prepared.sources), VariableScope())
    problems = [problem.as_json() for problem in prepared.problems]
    return plan.model_dump_json() + json.dumps(problems) + json.dumps(prepared.pins())


@pytest.mark.parametrize(
    "source",
    [
        "git+https://host.test/${ANTHROPIC_API_KEY}/x@main#subdirectory=m",
        "git+https://host.test/a b/${ANTHROPIC_API_KEY}@main",
        "https://${ANTHROPIC_API_KEY}.host.test/x.md",
        "zip+https://host.test/${ANTHROPIC_API_KEY}.zip",
        "git+ssh://host.test/${ANTHROPIC_API_KEY}",
        "git+file:///nowhere/${ANTHROPIC_API_KEY}@main",
        "/nowhere/${ANTHROPIC_API_KEY}",
        f"/{'nowhere' * 40}/${{ANTHROPIC_API_KEY}}",
        "${ANTHROPIC_API_KEY}",
    ],
)
async def test_a_key_of_the_server_in_a_source_is_told_to_nobody(source: str, tmp_path: Path) -> None:
    text = f"{ENTRY}tools: [{{module: tool-x, source: '{source}'}}]\n"
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of())
    sources = Sources(builtin_modules=BUILTIN, environment=KEY, fetch=fetcher.fetch)

    prepared = await prepare(parse_document(text), sources=sources)

    assert len(prepared.module_problems) == 1
    assert SECRET.casefold() not in told(prepared, sources, text).casefold()
    fetcher.close()


async def test_a_key_of_the_server_in_a_source_that_is_had_is_told_to_nobody_and_pinned(tmp_path: Path) -> None:
    source = "git+https://host.test/${ANTHROPIC_API_KEY}@main"
    text = f"{ENTRY}tools: [{{module: tool-x, source: '{source}'}}]\n"
    (tmp_path / "amplifier_module_tool_x").mkdir()
    (tmp_path / "amplifier_module_tool_x/__init__.py").write_text("async def mount(coordinator, config): ...\n")
    asked: list[tuple[str, str | None]] = []

    def fetch(uri: str, pin: str | None) -> Fetched:
        asked.append((uri, pin))
        resolved = uri.replace("@main", f"@{'a' * 40}")
        return Fetched(uri=uri, resolved=resolved, path=tmp_path, source_root=tmp_path, commit="a" * 40)

    first = await prepare(
        parse_document(text), sources=(sources := Sources(builtin_modules=BUILTIN, environment=KEY, fetch=fetch))
    )
    again = await prepare(
        parse_document(text),
        sources=Sources(builtin_modules=BUILTIN, environment=KEY, fetch=fetch, pins=first.pins()),
    )

    assert first.problems == again.problems == ()
    assert first.pins() == again.pins() == {source: "a" * 40}
    assert asked == [(f"git+https://host.test/{SECRET}@main", pin) for pin in (None, "a" * 40)]
    assert SECRET not in told(first, sources, text)


@pytest.mark.parametrize(
    "address",
    [
        "git+ssh://me:pa@ss@host.test/x",
        "git+https://me:pa@ss@host.test/back\\\\slash",
        "ssh://me:pa@ss@host.test/x",
        "git+https://me:pa@ss@host.test/x@main",
        "zip+https://me:pa@ss@host.test/x.zip",
    ],
)
async def test_a_password_in_an_address_is_in_no_refusal(address: str, tmp_path: Path) -> None:
    text = f'{ENTRY}tools: [{{module: tool-x, source: "{address}"}}]\n'.replace(
        "['foundation:minimal']", f'["{address}"]'
    )
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of())

    prepared = await prepare(parse_document(text), sources=Sources(builtin_modules=BUILTIN, fetch=fetcher.fetch))

    details = " ".join(problem.detail for problem in prepared.problems)
    assert len(prepared.problems) > 2
    assert "me:" not in details and "ss@" not in details
    fetcher.close()


@pytest.mark.parametrize("climb", ["%2e%2e", "..", "inner/%2E%2E/.."])
def test_an_encoded_path_does_not_lead_git_out_of_the_roots(tmp_path: Path, climb: str) -> None:
    Repository(tmp_path / "secret" / "repo").commit({"s.md": "secret"})
    (tmp_path / "roots" / "inner").mkdir(parents=True)
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of(roots=[tmp_path / "roots"]))

    with pytest.raises(Unresolved) as refused:
        fetcher.fetch(f"git+file://{tmp_path}/roots/{climb}/secret/repo@main")

    assert refused.value.code in ("source_not_allowed", "module_fetch_failed")
    fetcher.close()


def test_a_repository_whose_name_looks_encoded_is_the_one_that_is_named(tmp_path: Path) -> None:
    Repository(tmp_path / "roots" / "a%20b").commit({"s.md": "right"})
    Repository(tmp_path / "roots" / "a b").commit({"s.md": "wrong"})
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of(roots=[tmp_path / "roots"]))

    found = fetcher.fetch(f"git+file://{tmp_path}/roots/a%20b@main")

    assert (found.path / "s.md").read_text() == "right"
    fetcher.close()


def test_an_etag_that_cannot_be_sent_back_does_no_harm(server: SourceServer, tmp_path: Path) -> None:
    server.answers["/x.md"] = content(b"here", headers={"ETag": '"\u00e9"'})
    fetcher = server.fetcher(tmp_path / "cache")

    found = [fetcher.fetch(f"{server.url}/x.md").path.read_bytes() for _ in range(2)]

    assert found == [b"here", b"here"]
    fetcher.close()


def test_a_redirect_to_what_is_no_address_is_refused(server: SourceServer, tmp_path: Path) -> None:
    server.answers["/x.md"] = redirect("https://[::1/x.md")
    fetcher = server.fetcher(tmp_path / "cache")

    with pytest.raises(Unresolved, match="redirects to what is no address"):
        fetcher.fetch(f"{server.url}/x.md")
    fetcher.close()


def test_an_address_of_many_characters_is_refused_before_patterns_see_it(tmp_path: Path) -> None:
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of(["host.test/*a*a*a*b"]))

    with pytest.raises(Unresolved, match="more than 4096 characters"):
        fetcher.fetch(f"https://host.test/{'a' * 100_000}.md")
    fetcher.close()


@pytest.mark.parametrize("address", ["::127.0.0.1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"])
def test_private_addresses_in_the_clothes_of_public_ones_are_not_dialled(
    server: SourceServer, tmp_path: Path, address: str
) -> None:
    server.addresses["dressed.test"] = [address]
    fetcher = server.fetcher(tmp_path / "cache", allow=["https://dressed.test/*"], private_addresses=False)

    with pytest.raises(Unresolved, match="AMPLIFIER_PRIVATE_ADDRESSES"):
        fetcher.fetch("https://dressed.test/x.md")
    fetcher.close()


def test_thousands_of_links_that_lead_out_are_left_out_within_the_patience(tmp_path: Path) -> None:
    limits = FetchLimits(timeout=timedelta(seconds=60))
    (tmp_path / "tree").mkdir()
    writer = TreeWriter(tmp_path / "tree", limits, Patience(time.monotonic() + 60))
    writer.file("here", iter([b"x"]))
    for number in range(4000):
        writer.link(f"in{number}", "here")
        writer.link(f"out{number}", "../../elsewhere")

    assert writer.close() == 4000
    assert len(list((tmp_path / "tree").iterdir())) == 4001


@pytest.mark.parametrize("name", ["pyproject.toml", "amplifier.toml"])
@pytest.mark.parametrize(
    "text", ["a=" + "[" * 20_000 + "]" * 20_000, ".".join(["a"] * 30_000) + "=1", '"\u0085".' * 6000 + "a=1", "\udcff"]
)
async def test_a_module_whose_project_file_is_a_trap_is_refused(tmp_path: Path, name: str, text: str) -> None:
    problems = await problems_of_module(tmp_path, name, text)

    assert [problem.code for problem in problems] == ["invalid_document"]


@pytest.mark.parametrize("marker", ["(" * 900 + "python_version>'3'" + ")" * 900, "(" * 9000, "bogus > '1'"])
async def test_a_dependency_that_is_a_trap_is_refused(tmp_path: Path, marker: str) -> None:
    project = f"""[project]\ndependencies = ["x; {marker}"]\n"""

    problems = await problems_of_module(tmp_path, "pyproject.toml", project)

    assert [problem.code for problem in problems] == ["missing_dependency"]


async def problems_of_module(folder: Path, name: str, text: str) -> tuple[ErrorItem, ...]:
    """What is said about a module with this file in its folder."""
    package = folder / "m" / "amplifier_module_tool_x"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("async def mount(coordinator, config): ...\n")
    (folder / "m" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    document = parse_document(f"{ENTRY}tools: [{{module: tool-x, source: '{folder}/m'}}]\n")
    return (await prepare(document, sources=Sources(builtin_modules=BUILTIN, roots=(folder,)))).problems
