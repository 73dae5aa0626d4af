"""What only a strict reader minds: sections that mean nothing, above all those that were meant to."""

import difflib
from collections.abc import Iterator

from amplifier_app_api.errors import ErrorItem

from .document import Document
from .lines import lines_of
from .values import pointer, quoted

SECTIONS = ("bundle", "includes", "session", "providers", "tools", "hooks", "agents", "context", "spawn")
_MOST = 100
"""How many sections are told of: a document of nothing else would make an answer of nothing else."""


def misspelt_sections(document: Document) -> Iterator[ErrorItem]:
    """Every section that is none and has nearly the name of one: whoever wrote it expects something of it."""
    for name, near, line in _unknown(document):
        if near:
            detail = f"There is no section {quoted(name)}; did you mean {near}?"
            yield ErrorItem(code="unknown_section", detail=detail, pointer=pointer(name), line=line, column=1)


def unknown_sections(document: Document) -> Iterator[str]:
    """A sentence for every other section that means nothing."""
    for name, near, line in _unknown(document):
        if not near:
            yield f"The section {quoted(name)} (line {line}) means nothing in a bundle and is left out."


def _unknown(document: Document) -> Iterator[tuple[str, str | None, int]]:
    """The name, the section it is near to, and the line of everything at the top that is no section."""
    names = [name for name in map(str, document.data) if name not in SECTIONS][:_MOST]
    lines = lines_of(document) if names else {}
    for name in names:
        near = difflib.get_close_matches(name.lower()[:40], SECTIONS, n=1, cutoff=0.75)
        yield name, next(iter(near), None), lines.get(pointer(name), 1)
