import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amplifier_app_api.bundles import Sources, parse_document
from amplifier_app_api.bundles import includes as walk
from amplifier_app_api.bundles.includes import Loaded, load_document, load_source

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file below `roots` and return its path."""

    def write_file(name: str, text: str, below: str = "roots") -> Path:
        path = tmp_path / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    (tmp_path / "roots").mkdir()
    return write_file


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    return tmp_path / "roots"


def tool(name: str, includes: str = "") -> str:
    return f"bundle: {{name: {name}}}\nincludes: [{includes}]\ntools: [{{module: t-{name}}}]\n"


def load(includes: str, *roots: Path, **names: str) -> Loaded:
    document = parse_document(f"bundle: {{name: entry}}\nincludes: [{includes}]\n")
    return load_document(document, Sources(roots=roots, names=names))


def tools(loaded: Loaded) -> list[str]:
    return [entry["module"] for entry in loaded.bundle.tools]


def problems(loaded: Loaded) -> list[tuple[str, str | None]]:
    return [(problem.code, problem.pointer) for problem in loaded.problems]


def test_includes_are_composed_in_order_below_the_document(write: Write, roots: Path) -> None:
    a = write("a.yaml", tool("a", "./sub/b.yaml"))
    write("sub/b.yaml", tool("b", "../c.yaml"))
    c = write("c.yaml", tool("c"))

    loaded = load(f"'file://{a}', {{bundle: {c}}}", roots)

    assert tools(loaded) == ["t-c", "t-b", "t-a"]
    assert loaded.problems == ()
    assert [stamp.path.name for stamp in loaded.files] == ["a.yaml", "b.yaml", "c.yaml"]


def test_foundation_needs_no_root_and_no_network() -> None:
    loaded = load("foundation")

    assert loaded.problems == ()
    assert loaded.bundle.session == {"orchestrator": "loop-streaming", "context": "context-simple"}


def test_a_document_called_like_a_built_in_bundle_includes_the_built_in_one() -> None:
    document = parse_document("bundle: {name: foundation}\nincludes: [foundation]\n")

    loaded = load_document(document, Sources())

    assert (loaded.problems, loaded.warnings) == ((), ())
    assert "tool-filesystem" in tools(loaded)
    assert loaded.bundle.agents["foundation:explorer"]["instruction"]


def test_names_of_the_caller_lead_to_bundles_and_to_what_lies_in_their_folder(write: Write, roots: Path) -> None:
    write("harbor/bundle.md", f"---\n{tool('harbor')}---\nHarbor words\n")
    write("harbor/behaviors/pier.yaml", tool("pier"))

    loaded = load("harbor, 'harbor:behaviors/pier'", roots, harbor=str(roots / "harbor"))

    assert tools(loaded) == ["t-harbor", "t-pier"]
    assert loaded.bundle.instruction == "Harbor words"


def test_a_bundle_that_was_loaded_is_known_by_its_name_in_this_load_only(write: Write, roots: Path) -> None:
    path = write("h/bundle.yaml", tool("harbor"))
    write("h/pier.yaml", tool("pier"))

    assert tools(load(f"'{path}', 'harbor:pier'", roots)) == ["t-harbor", "t-pier"]
    assert problems(load("'harbor:pier', harbor", roots)) == [
        ("bundle_not_found", "/includes/0"),
        ("bundle_not_found", "/includes/1"),
    ]


def test_a_circle_is_left_out_with_a_warning_that_names_the_way(write: Write, roots: Path) -> None:
    a = write("a.yaml", tool("a", "./b.yaml"))
    write("b.yaml", tool("b", "./c.yaml"))
    write("c.yaml", tool("c", f"'file://{roots}/./a.yaml'"))

    loaded = load(str(a), roots)

    assert tools(loaded) == ["t-c", "t-b", "t-a"]
    assert loaded.problems == ()
    assert loaded.warnings == (
        f"The include entry → {a} → ./b.yaml → ./c.yaml → file://{roots}/./a.yaml closes a circle and was left out.",
    )


def test_what_was_loaded_inside_a_circle_is_whole_on_another_way(write: Write, roots: Path) -> None:
    a = write("a.yaml", tool("a", "./b.yaml"))
    b = write("b.yaml", tool("b", "./a.yaml"))

    loaded = load(f"{a}, {b}", roots)

    assert tools(loaded) == ["t-b", "t-a"]
    assert len(loaded.warnings) == 2


def test_a_link_to_the_same_file_is_the_same_file(write: Write, roots: Path) -> None:
    a = write("a.yaml", tool("a", "./alias.yaml"))
    (roots / "alias.yaml").symlink_to(a)

    assert len(load(str(a), roots).warnings) == 1


@pytest.mark.parametrize(
    "include", ["{outside}", "'file://{outside}'", "'{roots}/../outside/x.yaml'", "'{roots}/link.yaml'"]
)
def test_nothing_outside_the_roots_is_read(write: Write, roots: Path, include: str) -> None:
    outside = write("x.yaml", tool("x"), below="outside")
    (roots / "link.yaml").symlink_to(outside)

    loaded = load(include.format(outside=outside, roots=roots), roots)

    assert problems(loaded) == [("source_not_allowed", "/includes/0")]
    assert "AMPLIFIER_SOURCE_ROOTS" in loaded.problems[0].detail
    assert loaded.files == ()


def test_what_is_outside_the_roots_looks_the_same_whether_it_exists_or_not(roots: Path) -> None:
    there, not_there = load("/etc/passwd", roots), load("/etc/nothing-here", roots)

    assert problems(there) == problems(not_there) == [("source_not_allowed", "/includes/0")]


def test_a_folder_whose_bundle_file_links_outside_is_refused(write: Write, roots: Path) -> None:
    outside = write("secret.md", "---\nbundle: {name: s}\n---\n", below="outside")
    (roots / "box").mkdir()
    (roots / "box" / "bundle.md").symlink_to(outside)

    assert problems(load(str(roots / "box"), roots)) == [("source_not_allowed", "/includes/0")]


@pytest.mark.parametrize(
    "uri",
    ["git+https://github.com/a/b@main", "zip+https://h/x.zip", "https://h/x.md", "http://h/x.md", "zip+file:///x.zip"],
)
def test_remote_sources_are_refused_with_the_setting_that_says_where_sources_lie(uri: str, roots: Path) -> None:
    loaded = load(f"'{uri}'", roots)

    assert problems(loaded) == [("source_not_allowed", "/includes/0")]
    assert "AMPLIFIER_SOURCE_ROOTS" in loaded.problems[0].detail


@pytest.mark.parametrize(
    ("include", "code"),
    [
        ("nobody", "bundle_not_found"),
        ("'ghost:x'", "bundle_not_found"),
        ("'foundation:none'", "bundle_not_found"),
        ("'foundation:../../default_config'", "source_not_allowed"),
        ("{roots}/none.yaml", "bundle_not_found"),
        ("{roots}/empty", "bundle_not_found"),
        ("{roots}/notes.txt", "invalid_document"),
        ("{roots}/latin.yaml", "invalid_yaml"),
        ("{roots}/broken.yaml", "invalid_yaml"),
        ("{roots}/list.yaml", "invalid_document"),
        ("{roots}/nameless.yaml", "invalid_document"),
        ("{roots}/huge.yaml", "bundle_not_found"),
        ("{roots}/pipe.yaml", "bundle_not_found"),
        ("'{roots}/" + "x" * 5_000 + ".yaml'", "bundle_not_found"),
        ("'C:/x/y'", "bundle_not_found"),
        ("'s3://b/k'", "bundle_not_found"),
    ],
)
def test_an_include_that_leads_to_no_bundle_is_a_problem(write: Write, roots: Path, include: str, code: str) -> None:
    (roots / "empty").mkdir()
    write("notes.txt", "x")
    (roots / "latin.yaml").write_bytes(b"bundle: {name: caf\xe9}\n")
    write("broken.yaml", "bundle: [\n")
    write("list.yaml", "bundle: {name: x}\ntools: [tool-a]\n")
    write("nameless.yaml", "tools: []\n")
    write("huge.yaml", "#" * (1 << 20) + "\n")
    os.mkfifo(roots / "pipe.yaml")

    loaded = load(f"'foundation:minimal', {include.format(roots=roots)}", roots)

    assert problems(loaded) == [(code, "/includes/1")]
    assert tools(loaded) == ["tool-filesystem"]


def test_a_problem_further_down_names_the_way_and_the_include_it_came_by(write: Write, roots: Path) -> None:
    a = write("a.yaml", tool("a", "./b.yaml"))
    write("b.yaml", "bundle: {name: b}\ntools:\n  - t\n")

    loaded = load(f"foundation, {a}", roots)

    assert [(problem.code, problem.pointer) for problem in loaded.problems] == [("invalid_document", "/includes/1")]
    assert loaded.problems[0].detail == f"entry → {a} → ./b.yaml: Each entry of tools must be a mapping with module."


def test_a_stored_document_cannot_include_by_a_relative_path(roots: Path) -> None:
    assert problems(load("./x.yaml", roots)) == [("relative_reference", "/includes/0")]


def test_a_behavior_knows_the_namespace_of_its_root(write: Write, roots: Path) -> None:
    write("h/bundle.md", "---\nbundle: {name: harbor}\n---\n")
    write("h/context/a.md", "A")
    path = write("h/behaviors/glow.yaml", "bundle: {name: glow}\ncontext: {include: ['harbor:context/a.md', own.md]}\n")

    loaded = load(str(path), roots)

    assert dict(loaded.bundle.context) == {
        "glow:own.md": roots / "h/behaviors/own.md",
        "harbor:context/a.md": roots / "h/context/a.md",
    }


@pytest.mark.parametrize(
    "context", ["['../../secret.md']", "[link.md]", "['harbor:../secret.md']", "['harbor:link.md']"]
)
def test_context_never_leads_out_of_its_bundle(write: Write, roots: Path, context: str) -> None:
    secret = write("secret.md", "s")
    path = write("h/bundle.yaml", f"bundle: {{name: harbor}}\ncontext: {{include: {context}}}\n")
    (roots / "h/link.md").symlink_to(secret)

    assert [code for code, _ in problems(load(str(path), roots))] == ["source_not_allowed"]


def test_a_root_bundle_that_links_outside_is_not_read(write: Write, roots: Path) -> None:
    outside = write("bundle.md", "---\nbundle: {name: s}\n---\n", below="outside")
    path = write("h/behaviors/glow.yaml", tool("glow"))
    (roots / "h/bundle.md").symlink_to(outside)

    assert problems(load(str(path), roots)) == [("source_not_allowed", "/includes/0")]


def test_the_number_and_depth_of_includes_have_an_end(write: Write, roots: Path) -> None:
    for number in range(walk.MAX_DEPTH + 2):
        write(f"n{number}.yaml", tool(f"n{number}", f"./n{number + 1}.yaml"))

    deep = load(str(roots / "n0.yaml"), roots)
    wide = load(", ".join(["foundation"] * (walk.MAX_INCLUDES + 2)), roots)

    assert problems(deep) == [("document_too_complex", "/includes/0")]
    assert {code for code, _ in problems(wide)} == {"document_too_complex"}


def test_bundles_that_include_one_another_every_way_round_come_to_an_end(write: Write, roots: Path) -> None:
    everyone = ", ".join(f"./n{number}.yaml" for number in range(12))
    for number in range(12):
        write(f"n{number}.yaml", tool(f"n{number}", everyone))

    loaded = load(str(roots / "n0.yaml"), roots)

    assert {code for code, _ in problems(loaded)} == {"document_too_complex"}


def test_a_source_can_be_loaded_on_its_own_from_a_folder(write: Write, roots: Path) -> None:
    write("a.yaml", tool("a"))

    assert tools(load_source("./a.yaml", Sources(roots=(roots,)), folder=roots)) == ["t-a"]
    assert problems(load_source("./none.yaml", Sources(roots=(roots,)), folder=roots)) == [("bundle_not_found", None)]
