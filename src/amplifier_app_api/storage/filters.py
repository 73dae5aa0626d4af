"""Conditions that differ between the engines."""

import orjson
from sqlalchemy import ColumnElement, Text, bindparam, cast, func, literal


def tag_filter(column: ColumnElement[object], tag: tuple[str, str], dialect: str) -> ColumnElement[bool]:
    """Whether the JSON object in `column` has this key with this text."""
    key, value = tag
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import JSONB  # a server on SQLite need not wait for the dialect

        wanted = orjson.dumps({key: value}).decode()
        return cast(cast(column, Text), JSONB).op("@>")(cast(literal(wanted), JSONB))
    members = func.json_each(column).table_valued("key", "value")
    found = members.select().where(members.c.key == bindparam(None, key), members.c.value == bindparam(None, value))
    return found.exists()
