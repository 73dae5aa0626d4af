"""What a module needs, and what of it counts as there."""

from pathlib import Path

import pytest

from amplifier_app_api.bundles.dependencies import LIBRARIES_MARK, Unmet, unmet_needs


def needs(folder: Path, *dependencies: str, code: str = "") -> Unmet:
    """What a module with these dependencies and this code lacks."""
    package = folder / "amplifier_module_tool_x"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(code, "utf-8")
    listed = ", ".join(f'"{text}"' for text in dependencies)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "x"\ndependencies = [{listed}]\n', "utf-8")
    return unmet_needs("tool-x", folder, package)


def distribution(site: Path, name: str, version: str, *requires: str) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}", "utf-8")


def test_what_the_server_has_in_the_right_version_is_not_missing(tmp_path: Path) -> None:
    assert needs(tmp_path, "PyYAML>=5", "pydantic", "packaging") == Unmet()


def test_the_kernel_counts_in_any_version_and_from_any_address(tmp_path: Path) -> None:
    assert needs(tmp_path, "amplifier-core>=99", "Amplifier_Core @ git+https://example.com/core") == Unmet()


def test_what_is_not_there_is_missing_once_with_its_versions(tmp_path: Path) -> None:
    assert needs(tmp_path, "left-pad>=1,<2", "left-pad>=1,<2", "right-pad") == Unmet(
        missing=("left-pad<2,>=1", "right-pad")
    )


def test_what_another_system_needs_is_not_needed(tmp_path: Path) -> None:
    assert needs(tmp_path, "left-pad; sys_platform == 'plan9'") == Unmet()


def test_another_version_of_what_the_server_runs_cannot_be_installed(tmp_path: Path) -> None:
    ((code, detail),) = needs(tmp_path, "pydantic<1").obstacles

    assert code == "module_conflict"
    assert "tool-x needs pydantic<1 and this server itself runs pydantic 2" in detail


def test_a_dependency_with_an_address_is_never_fetched(tmp_path: Path) -> None:
    found = needs(tmp_path, "left-pad @ https://example.com/left_pad.whl")

    assert found.missing == ()
    assert found.obstacles[0][0] == "missing_dependency"
    assert "tool-x needs left-pad from an address of its own" in found.obstacles[0][1]


def test_an_extra_of_what_is_there_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    distribution(site, "tide-tables", "2.0", "left-pad>=1; extra == 'fast'", "right-pad; extra == 'other'", "pydantic")
    monkeypatch.syspath_prepend(str(site))

    assert needs(tmp_path / "m", "tide-tables[fast]>=2") == Unmet(missing=("left-pad>=1",))


def test_what_was_installed_for_other_modules_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    distribution(site, "tide-tables", "2.0")
    (site / LIBRARIES_MARK).touch()
    monkeypatch.syspath_prepend(str(site))

    assert needs(tmp_path / "m", "tide-tables") == Unmet(missing=("tide-tables",))


def test_what_can_be_imported_without_being_a_distribution_counts_when_any_version_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tide_tables.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    assert needs(tmp_path / "m", "tide-tables") == Unmet()
    assert needs(tmp_path / "m", "tide-tables>=2") == Unmet(missing=("tide-tables>=2",))


def test_a_dependency_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert needs(tmp_path, "-r other.txt").obstacles == (
        ("missing_dependency", "tool-x declares a dependency that cannot be read: '-r other.txt'."),
    )


def test_requirements_count_where_the_project_lists_none(tmp_path: Path) -> None:
    needs(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "utf-8")
    (tmp_path / "requirements.txt").write_text("# what it needs\n\nleft-pad >= 1  # for the left\n", "utf-8")

    assert unmet_needs("tool-x", tmp_path, tmp_path / "amplifier_module_tool_x").missing == ("left-pad>=1",)


@pytest.mark.parametrize(
    ("code", "is_needed"),
    [
        ("import amplifier_foundation\n", True),
        ("from amplifier_foundation.tracing import generate_sub_session_id\n", True),
        ("try:\n    import amplifier_foundation\nexcept ImportError:\n    pass\n", False),
        ("# import amplifier_foundation\n", False),
        ("import amplifier_foundation_like\n", False),
    ],
)
def test_an_import_of_the_foundation_that_may_not_fail_is_a_need(tmp_path: Path, code: str, is_needed: bool) -> None:
    found = needs(tmp_path, code=code)

    assert [code for code, _ in found.obstacles] == (["missing_dependency"] if is_needed else [])


def test_the_foundation_is_told_once_also_when_it_is_declared_with_an_address(tmp_path: Path) -> None:
    found = needs(
        tmp_path, "amplifier-foundation @ git+https://example.com/foundation", code="import amplifier_foundation\n"
    )

    assert found.missing == ()
    assert len(found.obstacles) == 1
    assert "not available on this server" in found.obstacles[0][1]
