"""What every test can rely on.

No variable of the machine reaches a test: it sets what it needs. Fixtures here are the ones that several
folders use; what one folder needs is in its own `conftest.py`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from services import fresh_postgres_database, reach_postgres

if TYPE_CHECKING:
    from doubles.fake_llm import FakeLLM

# The vectors and the modules that tests load hold Python files with names of tests; they are data.
collect_ignore = ["contract/vectors", "fixtures/modules"]

# Hypothesis fails an example for taking long unless told otherwise, and no test of ours measures time.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

OURS = ("AMPLIFIER_", "ANTHROPIC_", "OPENAI_", "AZURE_OPENAI_", "GOOGLE_", "GEMINI_")


@pytest.fixture(scope="session", autouse=True)
def a_clean_environment() -> Iterator[None]:
    """No setting, key or endpoint of the developer's shell, nor in the servers that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(OURS) or name.endswith("_API_KEY"):
                patch.delenv(name)
        yield


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A server's data folder; it does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def llm() -> Iterator["FakeLLM"]:
    """The model double, answering on `llm.url`."""
    from doubles.fake_llm import FakeLLM

    with FakeLLM() as double:
        yield double


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of a PostgreSQL server that answers."""
    return reach_postgres()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of a database of this test's own."""
    with fresh_postgres_database() as url:
        yield url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a database carries the marker, so that `-m "not postgres"` leaves out exactly those."""
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)
