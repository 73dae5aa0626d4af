"""Patterns that a bundle brings, in a part of Python's syntax that cannot be made to take long.

A pattern is read here, not tried: letters, `\\d`, `\\w`, classes, `(?:…|…)`, `?`, `{n}`, `{m,n}`, `+` and `*` (both
up to 128), and `(?i)` in front. A match begins where no letter or digit stands before it, and has no white space in
it. What follows a repeat must be something that the repeat does not take, so that there is one way to read a text and
nothing is tried twice. The lengths that all patterns can have together are bounded.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LENGTH = 256
MAX_REPEAT = 128
MAX_PATTERN = 500
MAX_WAYS = 64

_ALL = frozenset(map(chr, range(33, 127)))
_DIGITS = frozenset(string.digits)
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_CLASSES = {"d": _DIGITS, "w": _WORD}
_SPECIAL = frozenset(".^$*+?{}[]\\|()")


class UnsafePattern(ValueError):
    """A pattern that is not in the part of the syntax that is allowed; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a pattern: what it can begin with, whether it can be nothing, and what it takes at most."""

    first: frozenset[str]
    empty: bool
    length: int
    ways: int = 1
    open: frozenset[str] = frozenset()  # what it would go on taking, where it ends in a repeat


def compile_pattern(pattern: str) -> tuple[re.Pattern[str], int]:
    """The pattern as one to search with, and the longest it can match; `UnsafePattern` when it is not allowed."""
    if not pattern or len(pattern) > MAX_PATTERN:
        raise UnsafePattern(f"must have from 1 to {MAX_PATTERN} characters")
    ignore_case = pattern.startswith("(?i)")
    body = pattern[4:] if ignore_case else pattern
    part = _Reader(body, ignore_case).read()
    if part.empty:
        raise UnsafePattern("must not match nothing at all")
    if part.length > MAX_LENGTH:
        raise UnsafePattern(f"must not match more than {MAX_LENGTH} characters")
    if part.ways > MAX_WAYS:
        raise UnsafePattern(f"has more than {MAX_WAYS} combinations of alternatives")
    flags = re.ASCII | (re.IGNORECASE if ignore_case else 0)
    bounded = _bounded(body)
    return re.compile(rf"(?<![A-Za-z0-9])(?:{bounded})", flags), part.length


def _bounded(body: str) -> str:
    """`+` and `*` with their bound written out."""
    out: list[str] = []
    in_class = escaped = False
    for character in body:
        if escaped or in_class:
            in_class = in_class and (escaped or character != "]")
            escaped = not escaped and character == "\\"
            out.append(character)
            continue
        escaped = character == "\\"
        in_class = character == "["
        out.append({"+": f"{{1,{MAX_REPEAT}}}", "*": f"{{0,{MAX_REPEAT}}}"}.get(character, character))
    return "".join(out)


class _Reader:
    def __init__(self, text: str, ignore_case: bool) -> None:
        self._text = text
        self._at = 0
        self._ignore_case = ignore_case
        self._depth = 0

    def read(self) -> _Part:
        part = self._alternatives()
        if self._at < len(self._text):
            raise UnsafePattern(f"has a {self._text[self._at]!r} too many")
        return part

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise UnsafePattern("ends too early")
        self._at += 1
        return character

    def _alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        return _Part(
            first=frozenset[str]().union(*(branch.first for branch in branches)),
            empty=any(branch.empty for branch in branches),
            length=max(branch.length for branch in branches),
            ways=sum(branch.ways for branch in branches),
            open=frozenset[str]().union(*(branch.open for branch in branches)),
        )

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return _in_a_row(parts)

    def _repeated(self) -> _Part:
        is_group = self._peek() == "("
        part = self._atom()
        least, most = self._repeat()
        if (least, most) == (1, 1):
            return part
        if is_group and most > 1:
            raise UnsafePattern("repeats a group; repeat single characters or classes")
        return _Part(
            first=part.first,
            empty=least == 0 or part.empty,
            length=part.length * most,
            ways=part.ways + (1 if is_group else 0),
            open=part.open if is_group else part.first if most > least else frozenset(),
        )

    def _repeat(self) -> tuple[int, int]:
        match self._peek():
            case "?":
                bounds = (0, 1)
            case "+":
                bounds = (1, MAX_REPEAT)
            case "*":
                bounds = (0, MAX_REPEAT)
            case "{":
                return self._counted()
            case _:
                return 1, 1
        self._at += 1
        self._end_of_repeat()
        return bounds

    def _counted(self) -> tuple[int, int]:
        found = re.compile(r"\{(\d{1,3})(?:,(\d{1,3}))?\}", re.ASCII).match(self._text, self._at)
        if found is None:
            raise UnsafePattern("counts with {n} or {m,n} only; write \\{ for the character")
        self._at = found.end()
        least = int(found.group(1))
        most = int(found.group(2) or least)
        if most < least or most == 0 or most > MAX_LENGTH:
            raise UnsafePattern(f"counts from {least} to {most}; at most {MAX_LENGTH} is possible")
        self._end_of_repeat()
        return least, most

    def _end_of_repeat(self) -> None:
        if self._peek() in ("?", "+", "*", "{") and self._peek():
            raise UnsafePattern("repeats a repeat")

    def _atom(self) -> _Part:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return _one_of(self._class())
        if character == "\\":
            return _one_of(self._escaped())
        if character in _SPECIAL:
            raise UnsafePattern(f"uses {character!r}, which is not allowed; write \\{character} for the character")
        return _one_of(self._letter(character))

    def _group(self) -> _Part:
        if self._text[self._at : self._at + 2] != "?:":
            raise UnsafePattern("has a group that is not (?:…)")
        self._at += 2
        self._depth += 1
        if self._depth > 8:
            raise UnsafePattern("nests too deeply")
        part = self._alternatives()
        if self._peek() != ")":
            raise UnsafePattern("has a group without an end")
        self._at += 1
        self._depth -= 1
        return part

    def _escaped(self) -> frozenset[str]:
        character = self._next()
        if character in _CLASSES:
            return _CLASSES[character]
        if character.isalnum():
            raise UnsafePattern(f"uses \\{character}, which is not allowed")
        return self._letter(character)

    def _letter(self, character: str) -> frozenset[str]:
        if character not in _ALL:
            raise UnsafePattern("has white space or letters that are not ASCII in it")
        return frozenset({character, character.swapcase()}) if self._ignore_case else frozenset({character})

    def _class(self) -> frozenset[str]:
        if self._peek() == "^":
            raise UnsafePattern("has a class of what it is not; name what it is")
        members: set[str] = set()
        while (character := self._next()) != "]":
            if character == "[":
                raise UnsafePattern("has a [ in a class; write \\[")
            members |= self._escaped() if character == "\\" else self._range(character)
        if not members:
            raise UnsafePattern("has an empty class")
        return frozenset(members)

    def _range(self, first: str) -> frozenset[str]:
        following = self._text[self._at + 1 : self._at + 2]
        if self._peek() != "-" or following in ("]", ""):
            return self._letter(first)
        self._at += 1
        last = self._next()
        if last == "\\" or not (first in _ALL and last in _ALL and first <= last):
            raise UnsafePattern(f"has a range {first}-{last} that is none")
        return frozenset[str]().union(*(self._letter(chr(code)) for code in range(ord(first), ord(last) + 1)))


def _one_of(characters: frozenset[str]) -> _Part:
    return _Part(first=characters, empty=False, length=1)


def _in_a_row(parts: Iterable[_Part]) -> _Part:
    first: frozenset[str] = frozenset()
    going_on: frozenset[str] = frozenset()
    empty, length, ways = True, 0, 1
    for part in parts:
        if going_on & part.first:
            raise UnsafePattern("has something behind a repeat that the repeat takes itself")
        first = first | part.first if empty else first
        going_on = part.open | (going_on if part.empty else frozenset[str]())
        empty = empty and part.empty
        length += part.length
        ways *= part.ways
    return _Part(first=first, empty=empty, length=length, ways=ways, open=going_on)
