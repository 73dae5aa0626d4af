"""The two bars of a document.

*Storable*: it reads, every known section has its shape, and nothing in it depends on a folder it does not
have. *Runnable*: what it composes to can be opened as a session; `prepare` finds out, `NotRunnable` says so.
"""

import datetime
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from amplifier_app_api.errors import ErrorItem, Invalid, Unprocessable

from .document import DEFAULT_LIMITS, Document, DocumentLimits, InvalidDocument, parse_document
from .shapes import MODULE_LISTS, include_text, problems_of_shape
from .uris import SourceUri
from .values import is_list, is_mapping, is_text, pointer, quoted

_LARGEST_INTEGER = 2**63 - 1
_MAX_PROBLEMS = 100


class RelativeReference(Invalid):
    """A stored document names a file by a relative path; it has no folder the path could start from."""

    code = "relative_reference"
    title = "The document has a relative reference"


class NotRunnable(Unprocessable):
    """What the document composes to cannot be opened as a session; the items say why, each with its code."""

    code = "config_not_runnable"
    title = "The config cannot run as it stands"

    def __init__(self, items: tuple[ErrorItem, ...]) -> None:
        more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
        super().__init__(f"{items[0].detail}{more}" if items else self.title, items=items)


def check_storable(text: str, limits: DocumentLimits = DEFAULT_LIMITS) -> Document:
    """The parsed document, or a refusal (400) that lists every problem with its place.

    The class and code of the refusal are those of the first problem.
    """
    document = parse_document(text, limits)
    check_storable_document(document)
    return document


def check_storable_document(document: Document) -> None:
    """`check_storable` for a document that is already parsed."""
    problems = [located(problem, document) for problem in islice(_problems(document.data), _MAX_PROBLEMS)]
    if not problems:
        return
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    family = RelativeReference if problems[0].code == RelativeReference.code else InvalidDocument
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise family(f"{problems[0].detail}{more}", items=problems)


def located(problem: ErrorItem, document: Document) -> ErrorItem:
    """The problem with the line and column of its pointer, or of the innermost thing that is there."""
    line, column = document.nearest_position(problem.pointer or "")
    return replace(problem, line=line, column=column)


def _problems(data: dict[str, Any]) -> Iterator[ErrorItem]:
    yield from problems_of_values(data)
    yield from problems_of_shape(data, to_store=True)
    yield from _relative_references(data)


def problems_of_values(value: object, *at: str | int) -> Iterator[ErrorItem]:
    """Every value and key JSON cannot carry: what is stored, planned and shown must survive it."""
    if is_mapping(value):
        for key, item in value.items():
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - YAML keys may be anything
                yield _no_json(f"The key {quoted(key)} is not a text; put it in quotes.", *at)
            else:
                yield from problems_of_values(item, *at, key)
    elif is_list(value):
        for index, item in enumerate(value):
            yield from problems_of_values(item, *at, index)
    elif (why := _why_no_json(value)) is not None:
        yield _no_json(why, *at)


def _why_no_json(value: object) -> str | None:
    if value is None or isinstance(value, str | bool):
        return None
    if isinstance(value, datetime.date):
        return "A date has no place in JSON; put it in quotes to make it a text."
    if isinstance(value, int):
        return None if abs(value) <= _LARGEST_INTEGER else "The number does not fit into 64 bits; put it in quotes."
    if isinstance(value, float):
        return None if math.isfinite(value) else "Infinity and not-a-number have no place in JSON."
    return f"A value of type {type(value).__name__} has no place in JSON."


def _no_json(detail: str, *at: str | int) -> ErrorItem:
    return ErrorItem(code=InvalidDocument.code, detail=detail, pointer=pointer(*at))


def _relative_references(data: dict[str, Any]) -> Iterator[ErrorItem]:
    includes = data.get("includes")
    for index, entry in enumerate(includes if is_list(includes) else []):
        text = include_text(entry)
        if text is not None and is_relative(text):
            yield _relative("An include", text, "includes", index)
    for text, at in _sources(data):
        if is_relative(text):
            yield _relative("A source", text, *at)


def is_relative(text: str) -> bool:
    """Whether a source or an include can only be found from the folder of a file."""
    return SourceUri.parse(text).is_relative_path


def _relative(what: str, text: str, *at: str | int) -> ErrorItem:
    detail = f"{what} of a stored document cannot be a relative path ({quoted(text)}): the document has no folder."
    return ErrorItem(code=RelativeReference.code, detail=detail, pointer=pointer(*at))


def _sources(data: dict[str, Any], *prefix: str | int) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Every module source of a document or an agent's definition, with its path."""
    session = data.get("session")
    if is_mapping(session):
        for role in ("orchestrator", "context"):
            module = session.get(role)
            if is_mapping(module) and is_text(module.get("source")):
                yield module["source"], (*prefix, "session", role, "source")
            if is_text(session.get(f"{role}_source")):
                yield session[f"{role}_source"], (*prefix, "session", f"{role}_source")
    for section in MODULE_LISTS:
        entries = data.get(section)
        for index, entry in enumerate(entries if is_list(entries) else []):
            if is_mapping(entry) and is_text(entry.get("source")):
                yield entry["source"], (*prefix, section, index, "source")
    agents = data.get("agents")
    if not prefix and is_mapping(agents):
        for name, definition in agents.items():
            if is_mapping(definition):
                yield from _sources(definition, "agents", str(name))
