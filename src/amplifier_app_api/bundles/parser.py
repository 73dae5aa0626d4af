"""PyYAML behind four typed functions: its C parser reads YAML 1.1 exactly as the kernel's own world does."""

from collections.abc import Iterator
from typing import Any, cast

import yaml


class _Dumper(yaml.CSafeDumper):
    """Writes every value in full instead of naming it once and pointing back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _BlockDumper(_Dumper):
    """Writes a text of several lines as several lines."""


def _represent_text(dumper: _BlockDumper, text: str) -> yaml.ScalarNode:
    # The emitter puts quotes around it all the same where a block cannot hold it.
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)  # pyright: ignore[reportUnknownMemberType]


_BlockDumper.add_representer(str, _represent_text)


def events_of(text: str) -> Iterator[yaml.Event]:
    """The event stream, lazily and without recursion; raises `yaml.YAMLError` where the text is no YAML."""
    events = yaml.parse(text, yaml.CSafeLoader)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    yield from cast("Iterator[yaml.Event]", events)


def nodes_of(text: str) -> yaml.Node | None:
    """The tree of nodes with their places. Recursive: only for text whose events were checked."""
    node = yaml.compose(text, yaml.CSafeLoader)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("yaml.Node | None", node)


def value_of(text: str) -> Any:
    """The data. Recursive and trusting: only for text whose events were checked."""
    return yaml.load(text, yaml.CSafeLoader)


def value_of_scalar(node: yaml.ScalarNode) -> Any:
    """The data of one scalar; raises whatever the constructor trips over."""
    value = yaml.CSafeLoader("").construct_object(node)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("Any", value)


def text_of(data: Any, *, flow: bool = False, blocks: bool = True) -> str:
    """YAML text that reads back as the same data; keys keep their order, no line is folded.

    Without `blocks` every text is quoted or plain, so that nothing depends on what stands behind it.
    """
    return yaml.dump(
        data,
        Dumper=_BlockDumper if blocks else _Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
        default_flow_style=flow,
    )
