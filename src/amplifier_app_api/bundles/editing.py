"""Adding an entry to a stored document without touching the rest of its text.

The place is found from the marks of the parser, lines are inserted, and the result is proven: read again, the
only difference to the document before is the new entry. Comments, order, quoting, line ends and every other
byte stay. Where no insertion can be proven (the list is shared through an anchor, or comes from a merge key)
the YAML is written anew, and the caller is told.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import yaml

from amplifier_app_api.errors import Conflict, Invalid

from .compose import deep_merge, identity
from .document import DEFAULT_LIMITS, Document, DocumentLimits, InvalidDocument, parse_document
from .parser import nodes_of, text_of
from .shapes import MODULE_LISTS, include_text
from .values import is_list, is_mapping, is_text, pointer, quoted, same

_LINE = re.compile("[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029]|\\Z)")


class ModuleExists(Conflict):
    """The section already has an entry with this identity, or the bundle is already included."""

    code = "module_exists"
    title = "The entry exists already"


@dataclass(frozen=True, slots=True)
class Edit:
    """The new text, and whether lines were inserted or the YAML had to be written anew."""

    text: str
    how: Literal["inserted", "redumped"]


def add_module(
    text: str,
    section: str,
    entry: Mapping[str, Any],
    *,
    replace: bool = False,
    limits: DocumentLimits = DEFAULT_LIMITS,
) -> Edit:
    """Append an entry to `providers`, `tools` or `hooks`.

    An entry of the same identity (its `id`, else its module) is `ModuleExists`, or with `replace` the one the
    new entry is merged into.
    """
    if section not in MODULE_LISTS:
        raise ValueError(f"{section!r} is not a list of modules")
    if not is_text(entry.get("module")):
        raise InvalidDocument.at("module must be the id of a module.", pointer=pointer(section))
    new = dict(entry)
    return _Editor(parse_document(text, limits), section, limits).add(
        new,
        matches=lambda other: is_mapping(other) and identity(other) == identity(new),
        merged=lambda other: deep_merge(other, new),
        exists=f"{section} already has an entry for {identity(new)}.",
        replace=replace,
    )


def add_include(text: str, uri: str, *, replace: bool = False, limits: DocumentLimits = DEFAULT_LIMITS) -> Edit:
    """Append a bundle to `includes`. One that is included already is `ModuleExists`, or stays with `replace`."""
    if not is_text(uri) or not uri.strip():
        raise InvalidDocument.at("The bundle to include must be a text that is not empty.", pointer="/includes")
    return _Editor(parse_document(text, limits), "includes", limits).add(
        {"bundle": uri},
        matches=lambda other: include_text(other) == uri,
        merged=lambda other: other,
        exists=f"{quoted(uri)} is included already.",
        replace=replace,
    )


@dataclass(frozen=True, slots=True)
class _Editor:
    """Edits one top-level list of one document."""

    document: Document
    section: str
    limits: DocumentLimits

    def add(
        self,
        entry: dict[str, Any],
        *,
        matches: Callable[[Any], bool],
        merged: Callable[[Any], Any],
        exists: str,
        replace: bool,
    ) -> Edit:
        entries = self._entries()
        index = next((index for index, other in enumerate(entries) if matches(other)), None)
        if index is None:
            return self._proven([*entries, entry], self._each_way(self._insertions, entry))
        if not replace:
            raise ModuleExists(exists)
        merger = merged(entries[index])
        if same(merger, entries[index]):
            return Edit(self.document.text, "inserted")
        replacements = self._each_way(partial(self._replacements, index), merger)
        replaced = self._proven([*entries[:index], merger, *entries[index + 1 :]], replacements)
        return Edit(replaced.text, "redumped")

    def _entries(self) -> list[Any]:
        entries: Any = self.document.data.get(self.section) or []
        if not is_list(entries):
            raise InvalidDocument.at(f"{self.section} must be a list.", pointer=pointer(self.section))
        return entries

    def _each_way(self, candidates: Callable[["_Item"], Iterator[str]], entry: dict[str, Any]) -> Iterator[str]:
        """Candidates with the entry at its most readable, then with nothing in it that depends on what follows."""
        yield from candidates(_Item(entry, blocks=True))
        yield from candidates(_Item(entry, blocks=False))

    def _proven(self, entries: list[Any], candidates: Iterator[str]) -> Edit:
        """The first candidate that reads as the document with these entries, else the YAML written anew."""
        wanted = {**self.document.data, self.section: entries}
        before, _, after = self.document.yaml_part
        for candidate in candidates:
            text = before + candidate + after
            if self._reads_as(text, wanted):
                return Edit(text, "inserted")
        newline = _newline_of(self.document.text)
        for blocks in (True, False):
            text = before + text_of(wanted, blocks=blocks).replace("\n", newline) + after
            if self._reads_as(text, wanted):
                return Edit(text, "redumped")
        parse_document(text, self.limits)  # says which limit the larger document passes
        raise InvalidDocument.at("The entry cannot be written as YAML.", pointer=pointer(self.section))

    def _reads_as(self, text: str, wanted: dict[str, Any]) -> bool:
        try:
            document = parse_document(text, self.limits)
        except Invalid:
            return False
        as_before = (document.kind, document.instruction) == (self.document.kind, self.document.instruction)
        return as_before and same(document.data, wanted)

    def _insertions(self, item: "_Item") -> Iterator[str]:
        """Candidates for the new YAML, the best first. None of them changes a byte that was there."""
        source = _Source(self.document.yaml_part[1])
        root = nodes_of(source.text)
        if not isinstance(root, yaml.MappingNode):
            yield from source.at_end([f"{self.section}:", *item.lines(2)])
            return
        pairs: list[tuple[yaml.Node, yaml.Node]] = root.value
        found = next((pair for pair in pairs if pair[0].value == self.section), None)
        if found is None:
            yield from self._new_section(source, root, item)
        elif isinstance(found[1], yaml.SequenceNode):
            yield from _into_list(source, found[1], item)
        else:
            yield from _under_empty_key(source, found[0], found[1], item)

    def _replacements(self, index: int, item: "_Item") -> Iterator[str]:
        """Candidates for the new YAML with one entry written anew; only comments inside that entry are lost."""
        source = _Source(self.document.yaml_part[1])
        root = nodes_of(source.text)
        pairs: list[tuple[yaml.Node, yaml.Node]] = root.value if isinstance(root, yaml.MappingNode) else []
        for key, value in pairs:
            if key.value == self.section and isinstance(value, yaml.SequenceNode):
                old: yaml.Node = value.value[index]
                if value.flow_style:
                    yield source.with_span(old, item.flow())
                else:
                    lines = item.lines(value.start_mark.column)
                    yield source.with_lines(old.start_mark.line, _last_line(old), lines)

    def _new_section(self, source: "_Source", root: yaml.MappingNode, item: "_Item") -> Iterator[str]:
        if root.flow_style:
            flow = f"{self.section}: [{item.flow()}]"
            yield from source.into_flow(root, flow)
            return
        indent = root.start_mark.column
        lines = [" " * indent + f"{self.section}:", *item.lines(indent + 2)]
        yield from source.at_end(lines)
        yield source.after_line(_last_line(root), lines)
        # Behind a text block that ends the front matter nothing can stand without lengthening it.
        yield source.after_line(root.start_mark.line - 1, lines)


def _into_list(source: "_Source", node: yaml.SequenceNode, item: "_Item") -> Iterator[str]:
    if node.flow_style:
        yield from source.into_flow(node, item.flow())
        return
    indent, last = node.start_mark.column, _last_line(node)
    lines = item.lines(indent)
    # Comments right behind the last entry and indented like it belong to it.
    yield source.after_line(source.last_comment_after(last, indent), lines)
    yield source.after_line(last, lines)
    yield source.after_line(last - 1, lines)
    yield from source.at_end(lines)


def _under_empty_key(source: "_Source", key: yaml.Node, value: yaml.Node, item: "_Item") -> Iterator[str]:
    """For `tools:`, `tools: ~` and the like: what stands for nothing gives way, a comment behind it stays."""
    line, indent = key.start_mark.line, key.start_mark.column
    shortened = source.without(value)
    yield shortened.after_line(line, item.lines(indent + 2))
    yield source.with_span(value, f"[{item.flow()}]")
    yield source.with_span(value, f" [{item.flow()}]")


def _last_line(node: yaml.Node) -> int:
    """The last line, from 0, with something of the node in it."""
    inner = _last_child(node)
    if inner is not None and isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return _last_line(inner)
    end = node.end_mark
    return end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line


def _last_child(node: yaml.Node) -> yaml.Node | None:
    """The last item of a list or the last value of a mapping."""
    if not isinstance(node, yaml.CollectionNode) or not node.value:
        return None
    last: Any = node.value[-1]
    return last[1] if isinstance(node, yaml.MappingNode) else last


def _newline_of(text: str) -> str:
    first = re.search("\r\n|\n", text)
    return first.group() if first else "\n"


@dataclass(frozen=True, slots=True)
class _Item:
    """An entry as YAML, ready to stand in a list."""

    entry: dict[str, Any]
    blocks: bool

    def lines(self, indent: int) -> list[str]:
        """An item of a block list, without line ends."""
        text = text_of([self.entry], blocks=self.blocks)
        return [" " * indent + line if line else line for line in text.removesuffix("\n").split("\n")]

    def flow(self) -> str:
        """An item of a list in brackets."""
        return text_of(self.entry, flow=True, blocks=self.blocks).strip()


class _Source:
    """A YAML text by its lines, as the parser counts them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [line for line in _LINE.findall(text) if line]
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.newline = _newline_of(text)

    def offset(self, mark: yaml.Mark) -> int:
        """The character a mark stands at."""
        return self.starts[min(mark.line, len(self.lines))] + mark.column

    def after_line(self, number: int, lines: list[str]) -> str:
        """The text with new lines after a line counted from 0."""
        head, tail = self.lines[: number + 1], self.lines[number + 1 :]
        if head and not head[-1].endswith(("\n", "\r", "\x85", "\u2028", "\u2029")):
            head[-1] += self.newline
        return "".join([*head, *(line + self.newline for line in lines), *tail])

    def at_end(self, lines: list[str]) -> Iterator[str]:
        """The text with new lines behind everything."""
        yield self.after_line(len(self.lines), lines)

    def into_flow(self, node: yaml.Node, item: str) -> Iterator[str]:
        """The text with an item behind the last one of a list or mapping in brackets, or as its only one."""
        last = _last_child(node)
        if last is not None:
            end = self.offset(last.end_mark)
            yield f"{self.text[:end]}, {item}{self.text[end:]}"
        end = self.offset(node.end_mark) - 1
        yield f"{self.text[:end]}{item}{self.text[end:]}"

    def last_comment_after(self, number: int, indent: int) -> int:
        """The last of the comment lines right behind a line that are indented at least so far."""
        while indent and number + 1 < len(self.lines):
            following = self.lines[number + 1]
            stripped = following.lstrip(" ")
            if not stripped.startswith("#") or len(following) - len(stripped) < indent:
                break
            number += 1
        return number

    def with_lines(self, first: int, last: int, lines: list[str]) -> str:
        """The text with other lines in place of those from `first` to `last`."""
        return _Source("".join(self.lines[:first])).after_line(first, lines) + "".join(self.lines[last + 1 :])

    def with_span(self, node: yaml.Node, new: str) -> str:
        """The text with something else in place of a node."""
        return self.text[: self.offset(node.start_mark)] + new + self.text[self.offset(node.end_mark) :]

    def without(self, node: yaml.Node) -> "_Source":
        """The text without a scalar."""
        return _Source(self.with_span(node, ""))
