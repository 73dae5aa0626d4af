"""The documentation says what the code has, and nothing else.

Each reference page is a table whose first column holds names in backquotes; these tests compare that column
with what the code declares, in both directions.
"""

import ast
import importlib
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import amplifier_app_api
from amplifier_app_api.errors import AppError

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
VECTORS = Path("tests/contract/vectors")

# Written so that no line here is found by itself.
FORBIDDEN = {
    "a folder of one machine": re.compile(r"(?<![\w.\-])/(?:[w]ork|[r]oot|[h]ome/\w+)/"),
    "a folder beside the repository": re.compile(r"\.\./[s]hared"),
    "a package registry": re.compile(r"pypi\.[o]rg|[p]ythonhosted|registry\.npmjs\.[o]rg"),
    "a number of the tracker": re.compile(r"\b[i]ssue #", re.IGNORECASE),
}

RELATIVE_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
ANCHOR_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)")


def rows(page: str) -> Iterator[list[str]]:
    """The cells of every table row of a reference page whose first cell is a name in backquotes."""
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            yield [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]


def names(page: str) -> set[str]:
    return {row[0].strip(" `") for row in rows(page)}


def repository_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    paths = (Path(name) for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if (ROOT / path).is_file()]


def markdown_pages() -> list[Path]:
    folders = [ROOT / "docs", ROOT / "benchmarks"]
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def headings(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def import_every_file() -> None:
    """So that every class the package declares is known; migrations run inside Alembic only."""
    prefix = f"{amplifier_app_api.__name__}."
    for module in pkgutil.walk_packages(amplifier_app_api.__path__, prefix):
        if not module.name.startswith(f"{prefix}storage.migrations") and module.name != f"{prefix}__main__":
            importlib.import_module(module.name)


def every_error() -> set[type[AppError]]:
    import_every_file()
    known: set[type[AppError]] = {AppError}
    waiting = [AppError]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        known.update(below)
    return {error for error in known if error.__module__.startswith(amplifier_app_api.__name__)}


def not_in_the_source(literals: set[str]) -> list[str]:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    return sorted(literal for literal in literals if f'"{literal}"' not in source)


def every_entry_code() -> set[str]:
    """What stands as the `code` of an entry of `errors`: given by name, or first to the error that becomes one."""
    codes: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            values = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            if isinstance(call.func, ast.Name) and call.func.id == "Unresolved":
                values += call.args[:1]
            codes |= {
                value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    return codes


def every_event_type() -> set[str]:
    """The literal of the `type` field of every durable event, and the two types of deltas."""
    event = importlib.import_module("amplifier_app_api.models.event")
    durable = {kind.model_fields["type"].default for kind in event.DURABLE_EVENTS}
    return durable | set(get_args(event.DeltaType))


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    settings = importlib.import_module("amplifier_app_api.settings").Settings

    prefix = settings.model_config["env_prefix"]
    declared = {f"{prefix}{field}".upper() for field in settings.model_fields}

    assert {name for name in names("settings.md") if name.startswith("AMPLIFIER_")} == declared


def test_every_error_is_documented_with_its_status() -> None:
    documented = {(code, status) for code, status, *_ in rows("errors.md")}

    assert {(error.code, str(error.status)) for error in every_error()} - documented == set()


def test_every_code_of_an_entry_is_documented() -> None:
    codes = every_entry_code()

    assert "source_not_allowed" in codes
    assert codes - names("errors.md") == set()


def test_every_documented_error_exists() -> None:
    assert not_in_the_source(names("errors.md")) == []


def test_every_event_type_is_documented_and_every_documented_type_exists() -> None:
    documented, declared = names("events.md"), every_event_type()

    assert declared - documented == set()
    assert not_in_the_source(documented - declared) == []  # what frames a stream is no event of the log


def test_every_route_is_documented_and_every_documented_route_exists(tmp_path: Path) -> None:
    settings = importlib.import_module("amplifier_app_api.settings").Settings
    app = importlib.import_module("amplifier_app_api.app").create_app(settings(data_dir=tmp_path))

    served = {
        f"{method.upper()} {path}" for path, operations in app.openapi()["paths"].items() for method in operations
    }

    assert names("http.md") == served


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = RELATIVE_LINK.findall(page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_leads_to_a_heading(page: Path) -> None:
    anchors = ANCHOR_LINK.findall(page.read_text(encoding="utf-8"))
    wanted = [(page.parent / file if file else page, anchor) for file, anchor in anchors]

    assert [f"{file.name}#{anchor}" for file, anchor in wanted if anchor not in headings(file)] == []


def test_every_decision_is_in_the_list_of_decisions() -> None:
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))

    assert [record.name for record in records if f"({record.name})" not in listed] == []
    assert [record.name for record in records if f"# {int(record.name[:4])}. " not in record.read_text("utf-8")] == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_repository_stands_alone(what: str) -> None:
    found: list[str] = []
    for path in repository_files():
        if VECTORS in path.parents and path.name != "README.md":
            continue  # data of others, byte for byte
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path}:{number}: {line.strip()}")

    assert found == []


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_has_a_hash_and_no_address(file: str) -> None:
    blocks = re.split(r"\n(?=\S)", (ROOT / file).read_text(encoding="utf-8"))

    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert [block.splitlines()[0] for block in blocks if "://" in block] == []


def test_a_developers_environment_holds_every_pin_of_a_users() -> None:
    def pins(file: str) -> set[str]:
        return set(re.findall(r"^\w\S*==\S+", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))

    assert pins("requirements.txt") - pins("requirements-dev.txt") == set()
