"""The page of modules is written from the schemas."""

from pathlib import Path

from amplifier_app_api.modules import BUILTIN_MODULES
from docs.modules_page import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "modules.md"


def test_the_page_says_what_the_schemas_say() -> None:
    """`.venv/bin/python tests/docs/modules_page.py > docs/reference/modules.md` writes it anew."""
    assert PAGE.read_text("utf-8") == page()


def test_every_module_has_a_heading() -> None:
    headings = {line for line in page().splitlines() if line.startswith("### ")}

    assert headings == {f"### {module_id}" for module_id in BUILTIN_MODULES}
