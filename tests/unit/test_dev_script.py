"""`dev.py`: when an environment is taken as it is, and what is said when something is missing."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev_script", checkout / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is made."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("dev.py", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").touch()
    return folder


@pytest.fixture
def script(checkout: Path) -> ModuleType:
    return load(checkout)


def finish(script: ModuleType, kind: str) -> None:
    script.STAMP.write_text(json.dumps(script.wanted(kind)))


def test_an_environment_made_for_serving_serves(script: ModuleType) -> None:
    finish(script, "serve")

    assert script.is_made(script.wanted("serve"))


def test_an_environment_made_for_serving_cannot_test(script: ModuleType) -> None:
    finish(script, "serve")

    assert not script.is_made(script.wanted("dev"))


def test_an_environment_made_for_tests_also_serves(script: ModuleType) -> None:
    finish(script, "dev")

    assert script.is_made(script.wanted("serve"))


def test_serving_after_a_change_keeps_the_tools_for_tests(script: ModuleType, checkout: Path) -> None:
    finish(script, "dev")
    (checkout / "pyproject.toml").write_text("[project]\n")

    wanted = script.wanted("serve")

    assert wanted["kind"] == "dev"
    assert not script.is_made(wanted)


def test_an_environment_of_other_requirements_is_not_taken(script: ModuleType, checkout: Path) -> None:
    finish(script, "dev")
    (checkout / "requirements-dev.txt").write_text("")

    assert not script.is_made(script.wanted("dev"))


def test_an_environment_that_was_moved_is_not_taken(script: ModuleType, checkout: Path) -> None:
    finish(script, "dev")
    moved = load(checkout.rename(checkout.with_name("elsewhere")))

    assert not moved.is_made(moved.wanted("dev"))


def test_an_environment_whose_python_is_gone_is_not_taken(script: ModuleType) -> None:
    finish(script, "dev")
    (script.BIN / "python").unlink()

    assert not script.is_made(script.wanted("dev"))


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
def test_a_python_that_is_not_supported_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(script.sys, "version_info", version)

    with pytest.raises(script.Missing, match=r"^Python 3\.11, 3\.12 or 3\.13 is needed, and this is 3\.1[04]\."):
        script.main("serve")


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("frobnicate",), 2), (("check", "x"), 2), (("--help",), 0)])
def test_an_unknown_command_is_answered_with_the_usage(
    script: ModuleType, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int
) -> None:
    assert script.main(*arguments) == code

    assert "python3 dev.py check" in capsys.readouterr().out
