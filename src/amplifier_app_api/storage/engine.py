"""What an engine is: it runs one function over one connection in one transaction."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from amplifier_app_api.errors import Unavailable

T = TypeVar("T")


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached, or cannot store anything now."""

    code = "database_unavailable"
    title = "The database is unavailable"


class Engine(Protocol):
    """SQLite and PostgreSQL behind the same four words."""

    async def connect(self) -> None:
        """Open, and bring the schema up to date."""
        ...

    async def disconnect(self) -> None:
        """Let everything that runs finish, and close."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and return after its commit."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one snapshot of the data; it cannot write."""
        ...
