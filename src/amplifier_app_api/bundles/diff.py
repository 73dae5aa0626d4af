"""What two revisions of a document do not share: as text, and as what they compose to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from amplifier_app_api.models.plan import Difference, Plan

from .compose import identity
from .plan import masked
from .provenance import Places
from .shapes import MODULE_LISTS
from .values import is_list, is_mapping, pointer, same

_CONTEXT = 3
_MOST_PAIRS = 1_000_000
"""Comparing every line with every other costs their product; beyond this the whole middle counts as replaced."""

Opcode = tuple[str, int, int, int, int]
Path = tuple[str | int, ...]


def unified_lines(before: str, after: str, names: tuple[str, str]) -> list[str]:
    """The lines of a unified diff, without line ends; equal texts have none."""
    old, new = before.splitlines(), after.splitlines()
    if old == new:
        return [] if before == after else _line_ends_only(names)
    lines = [f"--- {names[0]}", f"+++ {names[1]}"]
    for hunk in _hunks(_opcodes(old, new)):
        lines.append(f"@@ -{_range(hunk[0][1], hunk[-1][2])} +{_range(hunk[0][3], hunk[-1][4])} @@")
        for tag, i1, i2, j1, j2 in hunk:
            if tag == "equal":
                lines += [f" {line}" for line in old[i1:i2]]
            else:
                lines += [f"-{line}" for line in old[i1:i2]]
                lines += [f"+{line}" for line in new[j1:j2]]
    return lines


def _line_ends_only(names: tuple[str, str]) -> list[str]:
    return [f"--- {names[0]}", f"+++ {names[1]}", "\\ Only line ends differ"]


def _opcodes(old: Sequence[str], new: Sequence[str]) -> list[Opcode]:
    """How to get from one to the other: what they begin and end with alike is found first, since it is cheap."""
    shorter = min(len(old), len(new))
    start = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    end = next((index for index in range(shorter - start) if old[-1 - index] != new[-1 - index]), shorter - start)
    old_end, new_end = len(old) - end, len(new) - end
    if (old_end - start) * (new_end - start) <= _MOST_PAIRS:
        matcher = SequenceMatcher(None, old[start:old_end], new[start:new_end], autojunk=False)
        middle: list[Opcode] = [
            (tag, i1 + start, i2 + start, j1 + start, j2 + start) for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        ]
    else:
        middle = [("replace", start, old_end, start, new_end)]
    head: list[Opcode] = [("equal", 0, start, 0, start)] if start else []
    tail: list[Opcode] = [("equal", old_end, len(old), new_end, len(new))] if end else []
    return [*head, *middle, *tail]


def _hunks(opcodes: list[Opcode]) -> Iterator[list[Opcode]]:
    """The changes, each with a few equal lines around it; those that are near each other together."""
    hunk: list[Opcode] = []
    for number, (tag, i1, i2, j1, j2) in enumerate(opcodes):
        if tag != "equal":
            hunk.append((tag, i1, i2, j1, j2))
            continue
        first, last = number == 0, number == len(opcodes) - 1
        if not first and (last or i2 - i1 > 2 * _CONTEXT):
            size = min(_CONTEXT, i2 - i1)
            yield [*hunk, ("equal", i1, i1 + size, j1, j1 + size)]
            hunk = []
        if not last:
            size = i2 - i1 if hunk else min(_CONTEXT, i2 - i1)
            hunk.append(("equal", i2 - size, i2, j2 - size, j2))
    if hunk:
        yield hunk


def _range(start: int, stop: int) -> str:
    """A range of lines as the format writes it: the one before, for an empty one."""
    size = stop - start
    if size == 1:
        return str(start + 1)
    return f"{start + 1 if size else start},{size}"


@dataclass(frozen=True, slots=True)
class Composed:
    """What a text composes to: as it is shown, and the mount plan itself."""

    plan: Plan
    mount_plan: dict[str, Any]


def differences(before: Composed, after: Composed) -> list[Difference]:
    """Every place at which two mount plans are not the same; a secret that changed is one, and is not shown.

    Entries of modules meet by their identity, wherever in their list they stand.
    """
    return list(
        _Comparison(Places(before.plan.provenance), Places(after.plan.provenance)).of(
            before.mount_plan, after.mount_plan, (), ()
        )
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    before: Places
    after: Places

    def of(self, old: Any, new: Any, old_at: Path, new_at: Path) -> Iterator[Difference]:
        if is_mapping(old) and is_mapping(new):
            yield from self._members(old, new, old_at, new_at)
        elif is_list(old) and is_list(new) and new_at and new_at[-1] in MODULE_LISTS:
            yield from self._members(_by_identity(old), _by_identity(new), old_at, new_at, entries=True)
        elif is_list(old) and is_list(new) and len(old) == len(new):
            for index, pair in enumerate(zip(old, new, strict=True)):
                yield from self.of(*pair, (*old_at, index), (*new_at, index))
        elif not same(old, new):
            yield self._changed(old, new, old_at, new_at)

    def _members(
        self, old: dict[Any, Any], new: dict[Any, Any], old_at: Path, new_at: Path, *, entries: bool = False
    ) -> Iterator[Difference]:
        """Two mappings, or two module lists by identity, whose members stand at their index."""
        old_places = {key: (*old_at, index if entries else key) for index, key in enumerate(old)}
        new_places = {key: (*new_at, index if entries else key) for index, key in enumerate(new)}
        for key, value in new.items():
            if key in old:
                yield from self.of(old[key], value, old_places[key], new_places[key])
            else:
                yield self._added(value, new_places[key])
        for key, value in old.items():
            if key not in new:
                yield self._removed(value, old_places[key])

    def _added(self, value: Any, at: Path) -> Difference:
        where = pointer(*at)
        origin = self.after.at(where)
        return Difference(pointer=where, change="added", after=_shown(value, at), origin=origin)

    def _removed(self, value: Any, at: Path) -> Difference:
        where = pointer(*at)
        origin = self.before.at(where)
        return Difference(pointer=where, change="removed", before=_shown(value, at), origin=origin)

    def _changed(self, old: Any, new: Any, old_at: Path, new_at: Path) -> Difference:
        where = pointer(*new_at)
        origin = self.after.at(where)
        return Difference(
            pointer=where, change="changed", before=_shown(old, old_at), after=_shown(new, new_at), origin=origin
        )


def _by_identity(entries: list[Any]) -> dict[Any, Any]:
    """Entries by what they are known as; a second one of the same name by its place as well."""
    found: dict[Any, Any] = {}
    for index, entry in enumerate(entries):
        name = identity(entry) if is_mapping(entry) else None
        found[(name, 0) if (name, 0) not in found else (name, index)] = entry
    return found


def _shown(value: Any, at: Path) -> Any:
    """A value as a plan shows it, masked by the names around it."""
    for part in reversed(at):
        value = {str(part): value}
    shown = masked(value)
    for part in at:
        shown = shown[str(part)]
    return shown
