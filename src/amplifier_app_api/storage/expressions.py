"""What the two engines say in different words."""

from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from amplifier_app_api.storage.tables import INTEGER


class new_uuid(FunctionElement[str]):  # noqa: N801 - it is used as a function
    """A new UUID4 for every row, as text."""

    type = Text()
    inherit_cache = True


class byte_length(FunctionElement[int]):  # noqa: N801 - it is used as a function
    """How many bytes a text takes in UTF-8."""

    type = INTEGER
    inherit_cache = True


_SQLITE_UUID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' || "
    "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)


@compiles(new_uuid, "sqlite")
def _uuid_on_sqlite(element: new_uuid, compiler: SQLCompiler, **options: Any) -> str:
    return _SQLITE_UUID


@compiles(new_uuid, "postgresql")
def _uuid_on_postgresql(element: new_uuid, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(gen_random_uuid() AS TEXT)"


@compiles(byte_length, "sqlite")
def _bytes_on_sqlite(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **options)} AS BLOB))"


@compiles(byte_length, "postgresql")
def _bytes_on_postgresql(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **options)})"
