"""Pages of a list."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from amplifier_app_api.errors import ErrorItem, Unprocessable

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_OFFSET = 2**53

T = TypeVar("T")


class InvalidPage(Unprocessable):
    """`limit`, `offset` or `cursor` is not one this list can answer."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list: `limit` items from `offset`, or after `cursor` (then `offset` is ignored)."""

    limit: int = DEFAULT_LIMIT
    offset: int = 0
    cursor: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidPage(f"limit must be between 1 and {MAX_LIMIT}", items=[_item("limit")])
        if not 0 <= self.offset <= MAX_OFFSET:
            raise InvalidPage("offset must be 0 or more", items=[_item("offset")])

    def after(self) -> tuple[str, str] | None:
        """The sort key of the last item the caller saw, when it sent a cursor."""
        if self.cursor is None:
            return None
        try:
            decoded = json.loads(base64.urlsafe_b64decode(self.cursor.encode("ascii")))
        except (binascii.Error, ValueError, RecursionError):
            decoded = None
        match decoded:
            case [str() as key, str() as identity]:
                return key, identity
            case _:
                raise InvalidPage("cursor is not one that this server made", items=[_item("cursor")])


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page, how many items the whole list has, and where the next page begins."""

    items: list[T]
    total: int
    next_cursor: str | None = None


def make_cursor(key: str, identity: str) -> str:
    """An opaque text that stands for one place in a list."""
    return base64.urlsafe_b64encode(json.dumps([key, identity]).encode()).decode("ascii")


def _item(name: str) -> ErrorItem:
    return ErrorItem(code="invalid_parameter", detail=f"{name} is out of range", pointer=f"/query/{name}")
