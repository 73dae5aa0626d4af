"""One row of the predecessor's: what it holds, and what of it has to be left behind."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import orjson

from amplifier_app_api.models.fields import MAX_DESCRIPTION, MAX_NAME, MAX_TAGS, parse_time, storable_text


class CannotCarry(Exception):
    """The row has no place here as it stands; the text says why."""


class Row:
    """Values by column. Reading one that is not as it should be leaves a note, or raises `CannotCarry`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """Something of this row is left behind."""
        self.notes.append(sentence)

    def get(self, column: str) -> Any:
        """The value as it is stored; None where there is no such column."""
        return self._values.get(column)

    def shown(self, column: str) -> str:
        """The value as a report may show it."""
        return str(self.get(column)).encode("utf-8", "replace").decode()[:200]

    def text(self, column: str) -> str:
        """A text without which the row is nothing."""
        value = self.get(column)
        if not isinstance(value, str) or not value:
            raise CannotCarry(f"its {column} is not a text")
        return self._storable(column, value)

    def optional_text(self, column: str) -> str | None:
        """A text that may be missing."""
        value = self.get(column)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self.note(f"its {column} is not a text")
            return None
        return self._storable(column, value)

    def name(self, column: str) -> str:
        """A name of the length that names have here."""
        value = (self.optional_text(column) or "").strip() or None
        if value is None:
            self.note(f"its {column} is empty: it is called unnamed now")
            return "unnamed"
        return self._cut(column, value, MAX_NAME)

    def description(self, column: str) -> str | None:
        """A description of the length that descriptions have here."""
        value = self.optional_text(column)
        return None if value is None else self._cut(column, value, MAX_DESCRIPTION)

    def moment(self, column: str) -> datetime | None:
        """A moment. One without a zone is UTC, a number counts seconds since 1970."""
        value = self.get(column)
        if value is None:
            return None
        moment = moment_of(value)
        if moment is None:
            self.note(f"its {column} is not a time")
        return moment

    def times(self) -> tuple[datetime, datetime]:
        """When the row was made and when it was changed last; where one is not known it is the other."""
        created, updated = self.moment("created_at"), self.moment("updated_at")
        if created is None and updated is None:
            self.note("when it was made is not known: it is as old as this migration")
        created = created or updated or datetime.now(UTC)
        return created, max(created, updated or created)

    def json(self, column: str) -> Any:
        """The JSON value of a column; None where it is empty. Text that is none is `CannotCarry`."""
        value = self.get(column)
        if value is None or value == "":
            return None
        try:
            return orjson.loads(value)
        except ValueError:  # also what JSON does not know: NaN, halves of surrogate pairs
            raise CannotCarry(f"its {column} is not JSON") from None

    def json_object(self, column: str) -> dict[str, Any]:
        """The JSON object of a column that the row can do without."""
        try:
            value = self.json(column)
        except CannotCarry as problem:
            self.note(str(problem))
            return {}
        if value is not None and not isinstance(value, dict):
            self.note(f"its {column} is not a JSON object")
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    def tags(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Those of `values` that can be tags here."""
        tags: dict[str, str] = {}
        for key, value in values.items():
            if not _is_tag(key, value) or len(tags) == MAX_TAGS:
                self.note(f"its tag {key[:50]!r} cannot be one here")
            else:
                tags[key] = value
        return tags

    def _cut(self, column: str, value: str, length: int) -> str:
        if len(value) > length:
            self.note(f"its {column} is longer than {length} characters and was cut")
        return value[:length]

    def _storable(self, column: str, value: str) -> str:
        try:
            return storable_text(value)
        except ValueError:
            raise CannotCarry(f"its {column} holds characters that no database can hold") from None


def moment_of(value: object) -> datetime | None:
    """The moment a stored value means, or None."""
    try:
        if isinstance(value, int | float):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            moment = parse_time(str(value))
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    # Years of fewer digits would not sort as texts.
    return moment if moment.year >= 1000 else None


def _is_tag(key: str, value: object) -> bool:
    if not isinstance(value, str) or not 1 <= len(key) <= MAX_NAME or len(value) > 1000:
        return False
    return "\0" not in key + value
