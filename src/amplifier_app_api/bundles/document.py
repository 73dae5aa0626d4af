"""Text in, `Document` out: YAML, or markdown whose front matter is YAML.

The text is kept as it came. Positions are given in it, the lines of the front matter included, so that an
error can point at the place the writer sees.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import yaml

from amplifier_app_api.errors import ErrorItem, Invalid

from .limits import (
    DEFAULT_LIMITS,
    DocumentLimits,
    DocumentTooComplex,
    InvalidYaml,
    check_events,
    check_text,
    line_of_offset,
    yaml_error,
)
from .parser import nodes_of, text_of, value_of, value_of_scalar
from .values import is_mapping, pointer_parts

__all__ = [
    "DEFAULT_LIMITS",
    "Document",
    "DocumentLimits",
    "DocumentTooComplex",
    "InvalidDocument",
    "InvalidYaml",
    "dump_yaml",
    "parse_document",
    "parse_markdown",
    "parse_yaml",
    "split_front_matter",
]

_OPENING = re.compile(r"\ufeff*---[ \t]*(?:\r\n|\n|\r)")
_CLOSING = re.compile(r"^---[ \t]*(?:\r\n|\n|\r|\Z)", re.MULTILINE)
_LAST_LINE_END = re.compile(r"(?:\r\n|\n|\r)\Z")
_LOOKS_LIKE_FRONT_MATTER = re.compile(r"[\ufeff\s]*---[ \t]*(?:\r\n|\n|\r|\Z)")


class InvalidDocument(Invalid):
    """The document reads as YAML and is not a bundle; the items name every place that is wrong."""

    code = "invalid_document"

    @classmethod
    def at(cls, detail: str, *, pointer: str = "", line: int | None = None) -> "InvalidDocument":
        """The refusal of one place."""
        return cls(detail, items=[ErrorItem(code=cls.code, detail=detail, pointer=pointer, line=line)])


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The three parts of a markdown document. Joined, they are the text again."""

    opening: str
    header: str
    rest: str

    @property
    def yaml(self) -> str:
        """The header without its last line end, which belongs to the marker."""
        return _LAST_LINE_END.sub("", self.header)

    @property
    def body(self) -> str:
        """What follows the closing marker, without the white space that separates them."""
        return _CLOSING.sub("", self.rest, count=1).lstrip()


def split_front_matter(text: str) -> FrontMatter | None:
    """The front matter of a text that begins with one, else nothing.

    It opens with a first line of three dashes and closes with the next line that holds nothing else.
    """
    opening = _OPENING.match(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return None
    return FrontMatter(text[: opening.end()], text[opening.end() : closing.start()], text[closing.start() :])


@dataclass(frozen=True)
class Document:
    """A parsed bundle document: the text as it came and the mapping it holds.

    `data` is read as YAML 1.1 and may hold dates or keys that are no texts; `check_storable` refuses those.
    `instruction` is the markdown body, or nothing when there is none.
    """

    text: str
    data: dict[str, Any] = field(repr=False)
    instruction: str | None = None
    kind: Literal["yaml", "markdown"] = "yaml"

    @property
    def yaml_part(self) -> tuple[str, str, str]:
        """What stands before the YAML, the YAML, and what stands after it; joined, they are the text."""
        if self.kind == "markdown":
            parts = split_front_matter(self.text)
            return (parts.opening, parts.header, parts.rest) if parts else ("", "", self.text)
        mark = len(self.text) - len(self.text.lstrip("\ufeff"))
        return self.text[:mark], self.text[mark:], ""

    @cached_property
    def _root(self) -> yaml.Node | None:
        return nodes_of(self.yaml_part[1])

    def position(self, pointer: str) -> tuple[int, int] | None:
        """Line and column, from 1, of what a JSON pointer names: the key of a member, the start of a list item."""
        mark = _mark_of(self._root, pointer_parts(pointer))
        if mark is None:
            return None
        return mark.line + line_of_offset(self.yaml_part[0], len(self.yaml_part[0])), mark.column + 1

    def nearest_position(self, pointer: str) -> tuple[int, int]:
        """The position of what the pointer names or, when it is missing, of the innermost thing around it."""
        while (found := self.position(pointer)) is None and pointer:
            pointer = pointer.rpartition("/")[0]
        return found or (1, 1)


def _mark_of(root: yaml.Node | None, parts: list[str]) -> yaml.Mark | None:
    node, mark = root, root.start_mark if root else None
    for part in parts:
        if isinstance(node, yaml.MappingNode):
            pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
            found = next(((key, value) for key, value in pairs if key.value == part), None)
            if found is None:
                return None
            node, mark = found[1], found[0].start_mark
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
            mark = node.start_mark
        else:
            return None
    return mark


def parse_yaml(text: str, limits: DocumentLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The mapping a YAML text holds, checked against the limits before it is built; an empty text is empty."""
    check_text(text, limits)
    return _mapping(text.lstrip("\ufeff"), limits)


def _mapping(text: str, limits: DocumentLimits, first_line: int = 1) -> dict[str, Any]:
    check_events(text, limits)
    try:
        data: Any = value_of(text)
    except yaml.YAMLError as error:
        raise yaml_error(error) from None
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # The constructor trusts a scalar to be what its tag or its look says: `2024-99-99`, `!!int x`.
        raise _unreadable_scalar(text) from error
    if not data:
        # Nothing, or what stands for nothing: `~`, `false`, `0`, `[]`.
        return {}
    if not is_mapping(data):
        raise InvalidYaml("the top level must be a mapping of sections", line=first_line)
    return data


def _unreadable_scalar(text: str) -> InvalidYaml:
    """The refusal that names the first scalar the constructor cannot read."""
    for node in _scalars(nodes_of(text)):
        try:
            value_of_scalar(node)
        except Exception:  # whatever the constructor's own code trips over, this is the scalar
            mark = node.start_mark
            return InvalidYaml(f"cannot read {node.value[:80]!r}", line=mark.line + 1, column=mark.column + 1)
    return InvalidYaml("a value cannot be read")


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        items: list[yaml.Node] = node.value
        for item in items:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
        for key, value in pairs:
            yield from _scalars(key)
            yield from _scalars(value)


def dump_yaml(data: dict[str, Any]) -> str:
    """YAML text that reads back as the same data; keys keep their order."""
    return text_of(data)


def parse_document(text: str, limits: DocumentLimits = DEFAULT_LIMITS) -> Document:
    """A stored document: markdown when it begins with front matter, else YAML."""
    check_text(text, limits)
    parts = split_front_matter(text)
    if parts is not None:
        return _markdown(text, parts, limits)
    try:
        return Document(text, _mapping(text.lstrip("\ufeff"), limits))
    except InvalidYaml:
        # A lone `---` in front of YAML is ordinary; only what is no YAML either was meant as front matter.
        _refuse_broken_front_matter(text)
        raise


def parse_markdown(text: str, limits: DocumentLimits = DEFAULT_LIMITS) -> Document:
    """A markdown document. Without front matter it has no sections and all of it is the instruction."""
    check_text(text, limits)
    parts = split_front_matter(text)
    if parts is not None:
        return _markdown(text, parts, limits)
    _refuse_broken_front_matter(text)
    return Document(text, {}, _instruction(text.lstrip("\ufeff")), "markdown")


def _markdown(text: str, parts: FrontMatter, limits: DocumentLimits) -> Document:
    # The header is parsed behind as many blank lines as precede it, so that errors name the lines of the text.
    blank = "\n" * (line_of_offset(parts.opening, len(parts.opening)) - 1)
    data = _mapping(blank + parts.yaml, limits, first_line=2)
    return Document(text, data, _instruction(parts.body), "markdown")


def _instruction(body: str) -> str | None:
    return body.replace("\r\n", "\n").strip() or None


def _refuse_broken_front_matter(text: str) -> None:
    if not _LOOKS_LIKE_FRONT_MATTER.match(text):
        return
    raise InvalidDocument.at(
        "The document begins like front matter but is none: the first line must be --- with nothing before it, "
        "and a later line must hold --- alone to close it.",
        line=1,
    )
