from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import Activation, Bundle, Sources
from amplifier_app_api.bundles.activation import activate
from amplifier_app_api.bundles.dependencies import InstallFailed
from amplifier_app_api.bundles.fetched import Fetched, FetchOnce, Unresolved

MOUNT = "async def mount(coordinator, config):\n    return None\n"


def module(folder: Path, package: str | None = None, code: str = MOUNT) -> Path:
    """A module folder, the code in the folder itself or in a package below it."""
    target = folder / package if package else folder
    target.mkdir(parents=True)
    (target / "__init__.py").write_text(code, "utf-8")
    return folder


def tools(
    *entries: dict[str, Any], roots: tuple[Path, ...] = (), **given: Any
) -> tuple[dict[str, Activation], list[str]]:
    bundle = Bundle.from_data({"tools": list(entries)})
    sources = Sources(
        roots=roots, builtin_modules=frozenset({"tool-a"}), installed_modules=frozenset({"tool-a", "tool-b"}), **given
    )
    active, problems = activate(bundle, sources)
    return active, [problem.item.code for problem in problems]


def test_without_a_source_the_built_in_module_wins_over_an_installed_one() -> None:
    active, problems = tools({"module": "tool-a"}, {"module": "tool-b"})

    assert problems == []
    assert {name: (found.kind, found.path) for name, found in active.items()} == {
        "tool-a": ("builtin", None),
        "tool-b": ("installed", None),
    }


def test_with_a_source_the_source_wins(tmp_path: Path) -> None:
    folder = module(tmp_path / "m", "amplifier_module_tool_a")

    for source in (str(folder), f"file://{folder}", f"file://{tmp_path}#subdirectory=m"):
        active, problems = tools({"module": "tool-a", "source": source}, roots=(tmp_path,))
        assert problems == []
        assert active == {"tool-a": Activation("tool-a", "source", folder, source)}


@pytest.mark.parametrize("package", [None, "amplifier_module_tool_x", "amplifier_module_other"])
def test_a_folder_holds_a_module_in_itself_or_in_a_package_named_like_one(tmp_path: Path, package: str | None) -> None:
    folder = module(tmp_path / "m", package)

    assert tools({"module": "tool-x", "source": str(folder)}, roots=(tmp_path,))[1] == []


def test_a_folder_without_a_module_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    module(tmp_path / "plain", code="x = 1\n")
    module(tmp_path / "two", "amplifier_module_one")
    module(tmp_path / "two", "amplifier_module_two")

    for name in ("empty", "plain", "two", "missing"):
        assert tools({"module": "tool-x", "source": str(tmp_path / name)}, roots=(tmp_path,))[1] == ["module_not_found"]


def test_a_source_outside_the_roots_or_not_local_is_not_allowed(tmp_path: Path) -> None:
    module(tmp_path / "out", "amplifier_module_tool_x")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "out")

    for source in (
        tmp_path / "out",
        tmp_path / "roots" / "link",
        tmp_path / "roots" / ".." / "out",
        "git+https://h/o/r",
    ):
        _, problems = tools({"module": "tool-x", "source": str(source)}, roots=(tmp_path / "roots",))
        assert problems == ["source_not_allowed"]


def test_a_module_nobody_has_is_a_problem_at_its_place() -> None:
    bundle = Bundle.from_data({"session": {"orchestrator": "loop-x"}, "tools": [{"module": "t"}, {"id": "nameless"}]})

    active, problems = activate(bundle, Sources())

    assert active == {}
    assert [(problem.module, problem.kind, problem.item.code, problem.item.pointer) for problem in problems] == [
        ("loop-x", "orchestrator", "module_not_found", "/session/orchestrator"),
        ("t", "tool", "module_not_found", "/tools/0"),
        ("", "tool", "invalid_document", "/tools/1"),
    ]


def test_one_id_has_one_source(tmp_path: Path) -> None:
    one, two = (module(tmp_path / name, "amplifier_module_tool_x") for name in ("one", "two"))
    entries = [{"module": "tool-x", "id": "1", "source": str(one)}, {"module": "tool-x", "id": "2"}]

    active, problems = tools(*entries, roots=(tmp_path,))
    assert (problems, active["tool-x"].path) == ([], one)
    assert tools(*entries, {"module": "tool-x", "source": str(two)}, roots=(tmp_path,))[1] == ["module_conflict"]


def test_a_source_may_use_variables_the_operator_allows_and_never_shows_them(tmp_path: Path) -> None:
    folder = module(tmp_path / "m", "amplifier_module_tool_x")
    entry = {"module": "tool-x", "source": "${MODULES}/m"}

    active, problems = tools(entry, roots=(tmp_path,), environment={"MODULES": str(tmp_path)})
    assert (problems, active["tool-x"]) == ([], Activation("tool-x", "source", folder, "${MODULES}/m"))

    assert tools(entry, roots=(tmp_path,))[1] == ["missing_variable"]
    bundle = Bundle.from_data({"tools": [entry]})
    _, hidden = activate(bundle, Sources(environment={"MODULES": "/s3cret"}))
    assert hidden[0].item.code == "source_not_allowed"
    assert "s3cret" not in hidden[0].item.detail


FETCHED = "git+https://git.example.com/tool-x@main"


def fetched(folder: Path, *, inside: str = "", root: Path | None = None) -> dict[str, Any]:
    """The `fetch` of a server that has one address, in a folder."""

    def fetch(uri: str, pin: str | None) -> Fetched:
        if uri != FETCHED:
            raise Unresolved("source_not_allowed", f"{uri!r} may not be fetched.")
        return Fetched(
            uri=uri, resolved=f"{uri}@abc", path=folder / inside, source_root=root or folder, commit="a" * 40
        )

    return {"fetch": fetch}


def test_a_remote_source_is_fetched_and_its_commit_known(tmp_path: Path) -> None:
    folder = module(tmp_path / "tree", "amplifier_module_tool_x")

    active, problems = tools({"module": "tool-x", "source": FETCHED}, **fetched(folder))

    assert problems == []
    assert active == {"tool-x": Activation("tool-x", "source", folder, FETCHED, f"{FETCHED}@abc", "a" * 40)}


def test_a_remote_source_that_may_not_be_fetched_is_told_as_it_was_written(tmp_path: Path) -> None:
    entry = {"module": "tool-x", "source": "git+https://git.example.com/${TOKEN}/x"}
    bundle = Bundle.from_data({"tools": [entry]})

    _, problems = activate(bundle, Sources(environment={"TOKEN": "s3cret"}, **fetched(tmp_path)))

    assert [problem.item.code for problem in problems] == ["source_not_allowed"]
    assert "s3cret" not in problems[0].item.detail
    assert "${TOKEN}" in problems[0].item.detail


def test_a_package_that_is_a_link_out_of_its_source_is_not_allowed(tmp_path: Path) -> None:
    package = module(tmp_path / "elsewhere", "amplifier_module_tool_x") / "amplifier_module_tool_x"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "amplifier_module_tool_x").symlink_to(package)

    for given in (fetched(tmp_path / "tree"), fetched(tmp_path / "tree", inside="../elsewhere")):
        assert tools({"module": "tool-x", "source": FETCHED}, **given)[1] == ["source_not_allowed"]


def test_a_folder_of_a_fetched_bundle_has_its_commit(tmp_path: Path) -> None:
    folder = module(tmp_path / "tree" / "modules" / "x", "amplifier_module_tool_x")
    once = FetchOnce(fetched(tmp_path / "tree")["fetch"])
    once(FETCHED, None)

    active, problems = tools({"module": "tool-x", "source": str(folder)}, roots=(tmp_path,), fetch=once)

    assert (problems, active["tool-x"].commit) == ([], "a" * 40)


def test_a_package_below_src_is_found(tmp_path: Path) -> None:
    module(tmp_path / "m" / "src", "amplifier_module_tool_x")

    assert tools({"module": "tool-x", "source": str(tmp_path / "m")}, roots=(tmp_path,))[1] == []


@pytest.mark.parametrize(
    ("manifest", "codes"),
    [
        ('[module]\ntransport = "python"\n', []),
        ("[module]\n", []),
        ('[module]\ntransport = "wasm"\n', ["unsupported_transport"]),
        ("transport = ", ["invalid_document"]),
    ],
)
def test_only_modules_that_python_runs_are_accepted(tmp_path: Path, manifest: str, codes: list[str]) -> None:
    folder = module(tmp_path / "m", "amplifier_module_tool_x")
    (folder / "amplifier.toml").write_text(manifest, "utf-8")

    assert tools({"module": "tool-x", "source": str(folder)}, roots=(tmp_path,))[1] == codes


def test_two_ids_cannot_have_packages_of_one_name_but_may_share_one(tmp_path: Path) -> None:
    one, two = (module(tmp_path / name, "amplifier_module_tool_x") for name in ("one", "two"))
    first = {"module": "tool-x", "source": str(one)}

    assert tools(first, {"module": "tool-y", "source": str(one)}, roots=(tmp_path,))[1] == []
    assert tools(first, {"module": "tool-y", "source": str(two)}, roots=(tmp_path,))[1] == ["module_conflict"]


class FixedInstaller:
    """An installer that has a folder for everything, or fails."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.asked: list[tuple[list[str], list[str]]] = []

    def install(self, origins: Sequence[str], requirements: Sequence[str]) -> Path:
        self.asked.append((list(origins), list(requirements)))
        if self.folder is None:
            raise InstallFailed("There is no room.")
        return self.folder


def needing(folder: Path, name: str, *dependencies: str) -> dict[str, Any]:
    """An entry for a module with these dependencies."""
    module(folder / name, f"amplifier_module_{name.replace('-', '_')}")
    listed = ", ".join(f'"{text}"' for text in dependencies)
    (folder / name / "pyproject.toml").write_text(f"[project]\nname = 'x'\ndependencies = [{listed}]\n", "utf-8")
    return {"module": name, "source": str(folder / name)}


def test_what_all_modules_of_a_config_lack_is_installed_together(tmp_path: Path) -> None:
    entries = [needing(tmp_path, "tool-l", "left-pad"), needing(tmp_path, "tool-r", "right-pad", "left-pad")]
    entries.append(needing(tmp_path, "tool-n", "pydantic"))
    installer = FixedInstaller(tmp_path / "libraries")

    active, problems = activate(Bundle.from_data({"tools": entries}), Sources(roots=(tmp_path,)), installer)

    assert problems == []
    assert [requirements for _, requirements in installer.asked] == [["left-pad", "right-pad"]]
    assert {name: found.libraries for name, found in active.items()} == {
        "tool-l": (tmp_path / "libraries",),
        "tool-r": (tmp_path / "libraries",),
        "tool-n": (),
    }


@pytest.mark.parametrize("installer", [None, FixedInstaller(None)])
def test_without_its_dependencies_a_module_is_not_active(tmp_path: Path, installer: FixedInstaller | None) -> None:
    entries = [needing(tmp_path, "tool-l", "left-pad", "right-pad"), needing(tmp_path, "tool-n")]

    active, problems = activate(Bundle.from_data({"tools": entries}), Sources(roots=(tmp_path,)), installer)

    assert list(active) == ["tool-n"]
    assert [(problem.item.code, problem.item.pointer) for problem in problems] == [("missing_dependency", "/tools/0")]
    assert "tool-l needs left-pad, right-pad, which" in problems[0].item.detail


def test_a_project_file_that_cannot_be_read_is_a_problem_of_its_module(tmp_path: Path) -> None:
    entry = needing(tmp_path, "tool-l")
    (tmp_path / "tool-l" / "pyproject.toml").write_text("[project", "utf-8")

    assert tools(entry, roots=(tmp_path,))[1] == ["invalid_document"]


def test_modules_of_agents_are_activated_and_their_problems_are_told_at_their_place(tmp_path: Path) -> None:
    folder = module(tmp_path / "m", "amplifier_module_tool_x")
    agents = {"scout": {"tools": [{"module": "tool-x", "source": str(folder)}, {"module": "tool-nowhere"}]}}

    active, problems = activate(Bundle.from_data({"agents": agents}), Sources(roots=(tmp_path,)))

    assert list(active) == ["tool-x"]
    assert [(problem.item.code, problem.item.pointer) for problem in problems] == [
        ("module_not_found", "/agents/scout/tools/1")
    ]
