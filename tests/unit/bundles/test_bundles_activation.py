from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import Activation, Bundle, Sources
from amplifier_app_api.bundles.activation import activate

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
