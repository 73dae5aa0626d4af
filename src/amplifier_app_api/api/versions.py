"""Which versions are installed here."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def installed(distribution: str) -> str | None:
    """The version of an installed distribution; None: it is not here. Read once: it means parsing a file."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
