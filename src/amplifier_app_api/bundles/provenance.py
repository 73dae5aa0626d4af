"""Where every value of a mount plan was written.

There is no second set of rules for that. The documents are composed once more by the same functions, each value
in a wrapper that remembers its place; a wrapper equals, hashes, tests and prints like what it holds, which is all
that composing asks of a value. It costs a second walk, and only who asks for a plan pays for it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amplifier_app_api.models.plan import Origin

from .bundle import Bundle, replace_bundle
from .document import Document
from .lines import lines_of
from .values import is_list, is_mapping, pointer, same

ENTRY = "this document"


@dataclass(eq=False)
class Layer:
    """One document that was composed, and the way of includes that first led to it."""

    document: Document
    name: str = ENTRY
    includes: tuple[str, ...] = ()

    @cached_property
    def _lines(self) -> dict[str, int]:
        return lines_of(self.document)

    def origin(self, at: str, line: int | None = None) -> Origin:
        """A place in this document."""
        return Origin(document=self.name, includes=list(self.includes), pointer=at, line=line or self._lines.get(at))


class Written:
    """A value and where it was written. Composition cannot tell it from the value."""

    __slots__ = ("at", "layer", "line", "value")

    def __init__(self, value: Any, layer: Layer, at: str, *, line: int | None = None) -> None:
        self.value = value
        self.layer = layer
        self.at = at
        self.line = line

    @property
    def origin(self) -> Origin:
        return self.layer.origin(self.at, self.line)

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, Written) else other)

    def __hash__(self) -> int:
        return hash(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        # What makes two values the same data is their type and their repr, and a repr tells the type as well.
        return repr(self.value)

    def __deepcopy__(self, memo: object) -> "Written":
        return self


def written(bundle: Bundle, layer: Layer) -> Bundle:
    """The bundle of one document with every value that reaches the mount plan wrapped."""
    return replace_bundle(
        bundle,
        session=wrapped(bundle.session, layer, "session"),
        providers=wrapped(list(bundle.providers), layer, "providers"),
        tools=wrapped(list(bundle.tools), layer, "tools"),
        hooks=wrapped(list(bundle.hooks), layer, "hooks"),
        agents={name: _agent(name, entry, layer) for name, entry in bundle.agents.items()},
        spawn=wrapped(bundle.spawn, layer, "spawn"),
    )


def _agent(name: str, entry: Any, layer: Layer) -> Any:
    section: Any = layer.document.data.get("agents") or {}
    if is_mapping(section) and name != "include" and is_mapping(section.get(name)):
        return wrapped(entry, layer, "agents", name)
    names: list[Any] = section.get("include", []) if is_mapping(section) else []
    place = ("agents", "include", names.index(name)) if name in names else ("agents",)
    return {key: Written(value, layer, pointer(*place)) for key, value in entry.items()}


def wrapped(value: Any, layer: Layer, *at: str | int) -> Any:
    """The value, which stands at that place of the document, with everything in it wrapped."""
    if is_mapping(value):
        return {key: wrapped(item, layer, *at, key) for key, item in value.items()}
    if is_list(value):
        return [wrapped(item, layer, *at, index) for index, item in enumerate(value)]
    return Written(value, layer, pointer(*at))


class Places:
    """Origins by their place in a plan, also those of what stands inside a place."""

    def __init__(self, provenance: Mapping[str, Origin]) -> None:
        self._provenance = provenance
        self._sorted = sorted(provenance)

    def at(self, place: str) -> Origin | None:
        """The origin of a value; of a module, where it is named; of anything else, of the first value inside it."""
        exact = self._provenance.get(place) or self._provenance.get(f"{place}/module")
        if exact is not None:
            return exact
        inside = f"{place}/"
        index = bisect_left(self._sorted, inside)
        found = self._sorted[index] if index < len(self._sorted) else ""
        return self._provenance[found] if found.startswith(inside) else None


def origins(plan: Mapping[str, Any], traced: Any) -> dict[str, Origin]:
    """The origin of every value of a plan, from the same plan made of wrapped values.

    A value that is not the same in both, because a file changed in between, has none.
    """
    return {pointer(*at): found.origin for at, value, found in _pairs(plan, traced, ()) if same(value, found.value)}


def _pairs(value: Any, traced: Any, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any, Written]]:
    if is_mapping(value) and is_mapping(traced):
        for key, item in value.items():
            yield from _pairs(item, traced.get(key), (*at, key))
    elif is_list(value) and is_list(traced):
        for index, (item, other) in enumerate(zip(value, traced, strict=False)):
            yield from _pairs(item, other, (*at, index))
    elif isinstance(traced, Written):
        yield at, value, traced
