"""Field types that several models share."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

_HALVES = re.compile("[\ud800-\udfff]")

_OF_A_NAME = "[key]"
"""What pydantic puts behind the name when it is the name that is wrong."""

FORM = "form: "
"""How the tags begin that tell the forms of a value apart. They are no part of its place in a body."""

MAX_NAME = 200
MAX_DESCRIPTION = 10_000
MAX_MESSAGE = 1_000_000
MAX_TAGS = 64


def place_of(location: Iterable[int | str]) -> list[int | str]:
    """Where in a body a validation error is. What is wrong with a name in a mapping is told where its value is."""
    place = [part for part in location if not (isinstance(part, str) and part.startswith(FORM))]
    return place[:-1] if len(place) > 2 and place[-1] == _OF_A_NAME else place


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`: texts of one length that sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_time(text: str) -> datetime:
    """The reverse of `format_time`."""
    return datetime.fromisoformat(text)


def storable_text(value: str) -> str:
    """Refuse what no database can hold: U+0000, and halves of surrogate pairs."""
    if "\0" in value:
        raise ValueError("must not contain the character U+0000")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain half of a surrogate pair")
    return value


def made_storable(value: str) -> str:
    """`value` with every character that no database can hold replaced by U+FFFD, one for one.

    For what models and tools say: nobody can refuse it.
    """
    whole = value.replace("\0", "\ufffd")
    try:
        whole.encode()
    except UnicodeEncodeError:
        return _HALVES.sub("\ufffd", whole)
    return whole


def storable_json(value: Any) -> Any:
    """`storable_text` for every text of a JSON value, and a bound on its depth."""
    return _bounded(value, storable_text)


def kept_json(value: Any) -> Any:
    """The same for what is only ever kept as JSON, where U+0000 is an escape like any other: a tool was given it so."""
    return _bounded(value, _whole_text)


def _whole_text(value: str) -> str:
    storable_text(value.replace("\0", ""))
    return value


def _bounded(value: Any, checked: Callable[[str], str]) -> Any:
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > 64:
            raise ValueError("must not be nested deeper than 64 levels")
        if isinstance(item, str):
            checked(item)
        elif isinstance(item, dict):
            pending.extend((part, depth + 1) for pair in item.items() for part in pair)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif isinstance(item, list):
            pending.extend((part, depth + 1) for part in item)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def _no_switch(value: Any) -> Any:
    """Refuse true and false, which Python counts as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


NOT_A_SWITCH = BeforeValidator(_no_switch)
"""Of a number, behind its bounds: before them it would keep them out of the JSON schema."""


def not_blank(value: str) -> str:
    """Refuse a text of nothing but white space."""
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Timestamp = Annotated[
    datetime,
    BeforeValidator(lambda value: parse_time(value) if isinstance(value, str) else value),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Text = Annotated[str, AfterValidator(storable_text)]
Name = Annotated[Text, Field(min_length=1, max_length=MAX_NAME), AfterValidator(not_blank)]
Description = Annotated[Text, Field(max_length=MAX_DESCRIPTION)]
TagKey = Annotated[Text, Field(min_length=1, max_length=MAX_NAME)]
TagValue = Annotated[Text, Field(max_length=1000)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=MAX_TAGS)]
JsonObject = Annotated[dict[str, Any], AfterValidator(storable_json)]
