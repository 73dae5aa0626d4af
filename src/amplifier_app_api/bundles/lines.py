"""The lines of everything in a document at once: asking for them one by one costs a search each."""

from collections.abc import Iterator

import yaml

from .document import Document
from .limits import line_of_offset
from .parser import nodes_of
from .values import pointer

_MERGE = "tag:yaml.org,2002:merge"

Path = tuple[str | int, ...]


def lines_of(document: Document) -> dict[str, int]:
    """The line, from 1, of every value by its JSON pointer. What an alias or a merge key brings has the line it
    was written in."""
    before, text, _ = document.yaml_part
    first = line_of_offset(before, len(before))
    root = nodes_of(text)
    return {pointer(*path): mark.line + first for path, mark in _places(root)} if root else {}


def _places(root: yaml.Node) -> Iterator[tuple[Path, yaml.Mark]]:
    waiting: list[tuple[Path, yaml.Node, yaml.Mark]] = [((), root, root.start_mark)]
    while waiting:
        path, node, mark = waiting.pop()
        yield path, mark
        if isinstance(node, yaml.MappingNode):
            waiting.extend(((*path, key), value, at) for key, (value, at) in _members(node).items())
        elif isinstance(node, yaml.SequenceNode):
            items: list[yaml.Node] = node.value
            waiting.extend(((*path, index), item, item.start_mark) for index, item in enumerate(items))


def _members(node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Mark]]:
    """What a mapping holds: its own keys, then what merge keys bring, the first of several winning."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
    members = {
        key.value: (value, key.start_mark)
        for key, value in pairs
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE
    }
    for key, value in pairs:
        if key.tag != _MERGE:
            continue
        merged: list[yaml.Node] = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for source in merged:
            if isinstance(source, yaml.MappingNode):
                members = _members(source) | members
    return members
