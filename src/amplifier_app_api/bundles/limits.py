"""What YAML may cost before anything is built from it.

A parser that trusts its input can be killed: a hundred kilobytes of nested dashes overflow the C stack of
the constructor, half a kilobyte of merge keys expands for minutes, a number of a million digits blocks the
process. So the event stream is read first, without recursion and without building anything, and the text
is refused as soon as one limit is passed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from amplifier_app_api.errors import ErrorItem, Invalid

from .parser import events_of

_LONG_NUMBER = 256
_NUMBER_START = re.compile(r"[-+]?[0-9.]")
_UNSAFE = re.compile("[\x00\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLimits:
    """Bounds for one document. The expanded ones count every use of an anchor as a copy of what it names."""

    max_bytes: int = 1 << 20
    depth: int = 64
    nodes: int = 50_000
    expanded_nodes: int = 200_000
    expanded_characters: int = 4 << 20


DEFAULT_LIMITS = DocumentLimits()


class InvalidYaml(Invalid):
    """The text is not one YAML document; the item says in which line."""

    code = "invalid_yaml"
    title = "The document is not valid YAML"

    def __init__(self, problem: str, *, line: int | None = None, column: int | None = None) -> None:
        where = f" (line {line})" if line else ""
        super().__init__(
            f"Invalid YAML: {problem}{where}",
            items=[ErrorItem(code=self.code, detail=f"Invalid YAML: {problem}", pointer="", line=line, column=column)],
        )


class DocumentTooComplex(Invalid):
    """The document is larger, deeper or expands further than this server reads."""

    code = "document_too_complex"
    title = "The document is too complex"

    def __init__(self, problem: str, *, line: int | None = None) -> None:
        where = f" (line {line})" if line else ""
        super().__init__(
            f"The document is too complex: {problem}{where}",
            items=[ErrorItem(code=self.code, detail=f"The document is too complex: {problem}", pointer="", line=line)],
        )


def yaml_error(error: yaml.YAMLError | ValueError) -> InvalidYaml:
    """The parser's complaint as ours: its sentence and its place, without a copy of the text."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return InvalidYaml(str(error).partition("\n")[0])
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "it cannot be read"
    return InvalidYaml(problem, line=mark.line + 1 if mark else None, column=mark.column + 1 if mark else None)


def line_of_offset(text: str, offset: int) -> int:
    """The line, from 1, of a character, counting line breaks as YAML 1.1 does."""
    return sum(1 for _ in _LINE_BREAK.finditer(text, 0, offset)) + 1


def check_text(text: str, limits: DocumentLimits) -> None:
    """Refuse what no later step may see: too many bytes, NUL characters, halves of surrogate pairs."""
    unsafe = _UNSAFE.search(text)
    if unsafe:
        what = "a NUL character" if unsafe.group() == "\x00" else "a lone surrogate, which no encoding can carry"
        raise InvalidYaml(f"the text holds {what}", line=line_of_offset(text, unsafe.start()))
    size = len(text.encode())
    if size > limits.max_bytes:
        raise DocumentTooComplex(f"it has {size} bytes, the limit is {limits.max_bytes}")


@dataclass(slots=True)
class _Cost:
    """What a node is with its aliases expanded: values, characters, levels."""

    values: int = 1
    characters: int = 0
    height: int = 0

    def add(self, part: "_Cost") -> None:
        self.values += part.values
        self.characters += part.characters
        self.height = max(self.height, part.height + 1)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen: its cost and its keys so far."""

    anchor: str | None
    is_mapping: bool
    cost: _Cost
    at_key: bool = True
    keys: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True)
class _Anchored:
    """A finished anchored node: what one more use of it costs, and its text when it is a scalar."""

    cost: _Cost
    text: str | None = None


class _Meter:
    """Reads events one by one and raises at the first one that goes too far."""

    def __init__(self, limits: DocumentLimits) -> None:
        self._limits = limits
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._documents = 0
        self._readers: dict[type[Any], Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }

    def read(self, event: yaml.Event) -> None:
        reader = self._readers.get(type(event))
        if reader is not None:
            reader(event)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise InvalidYaml("it holds more than one document", line=_line(event))

    def _scalar(self, event: Any) -> None:
        self._count(event)
        value: str = event.value
        if "\x00" in value:
            raise InvalidYaml("a text holds an escaped NUL character", line=_line(event))
        if len(value) > _LONG_NUMBER and _reads_as_number(event):
            raise DocumentTooComplex(f"a number of {len(value)} characters", line=_line(event))
        cost = _Cost(1, len(value))
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(cost, value)
        self._place(event, cost, value)

    def _start(self, event: Any) -> None:
        self._count(event)
        if event.anchor:
            # Until its end is seen the anchor is unknown, so that a node which holds itself is refused.
            self._anchors.pop(event.anchor, None)
        self._open.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent), _Cost(height=1)))
        if len(self._open) > self._limits.depth:
            raise DocumentTooComplex(f"it is nested deeper than {self._limits.depth} levels", line=_line(event))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        if done.anchor:
            self._anchors[done.anchor] = _Anchored(done.cost)
        self._place(event, done.cost, None)

    def _alias(self, event: Any) -> None:
        self._count(event)
        known = self._anchors.get(event.anchor)
        if known is None:
            raise InvalidYaml(f"the alias *{event.anchor} is recursive or names no anchor", line=_line(event))
        self._place(event, known.cost, known.text)

    def _count(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes:
            raise DocumentTooComplex(f"it has more than {self._limits.nodes} values", line=_line(event))

    def _place(self, event: Any, cost: _Cost, text: str | None) -> None:
        """Account for a finished node in the collection that holds it."""
        if not self._open:
            return
        parent = self._open[-1]
        parent.cost.add(cost)
        self._check_expansion(event, parent.cost, len(self._open) + cost.height)
        if not parent.is_mapping:
            return
        if parent.at_key and text is not None:
            # Several merge keys in one mapping are ordinary; they are counted like aliases.
            if text in parent.keys and text != "<<":
                raise InvalidYaml(f"the key {text[:80]!r} stands twice in one mapping", line=_line(event))
            parent.keys.add(text)
        parent.at_key = not parent.at_key

    def _check_expansion(self, event: Any, cost: _Cost, depth: int) -> None:
        limits = self._limits
        if cost.values > limits.expanded_nodes:
            raise DocumentTooComplex(
                f"its aliases expand to more than {limits.expanded_nodes} values", line=_line(event)
            )
        characters = max(limits.expanded_characters, limits.max_bytes)
        if cost.characters > characters:
            raise DocumentTooComplex(f"its aliases expand to more than {characters} characters", line=_line(event))
        if depth > limits.depth:
            raise DocumentTooComplex(f"its aliases nest deeper than {limits.depth} levels", line=_line(event))


def _reads_as_number(event: Any) -> bool:
    """Whether the constructor would take a scalar for a number: by its tag, or by its looks when it is plain."""
    if event.tag is not None:
        return event.tag.endswith((":int", ":float"))
    return bool(event.implicit[0] and _NUMBER_START.match(event.value))


def _line(event: Any) -> int:
    return event.start_mark.line + 1


def check_events(text: str, limits: DocumentLimits) -> None:
    """Refuse YAML that passes a limit, repeats a key, holds a second document or is not YAML at all."""
    meter = _Meter(limits)
    try:
        for event in events_of(text):
            meter.read(event)
    except yaml.YAMLError as error:
        raise yaml_error(error) from None
