"""Patterns for paths: `*` and `?` within a name, `**` for any number of folders, `[a-z]`, and `{one,other}`.

A pattern without a slash is matched with names, one with a slash with whole paths. Matching takes time in
proportion to the pattern times the path, whatever the pattern is. Upper and lower case differ.
"""

from __future__ import annotations

import fnmatch
import re

from .refusals import Refused

MAX_ALTERNATIVES = 64
MAX_LENGTH = 1_000


class Pattern:
    """One pattern, ready to be matched with many paths; `Refused` when it is too long or has too many alternatives."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise Refused(f"A pattern for paths has at most {MAX_LENGTH} characters")
        self.names = frozenset(re.split(r"[/{},]", text))
        self._alternatives = [_Segments(alternative.removeprefix("./")) for alternative in _expanded(text)]

    def matches(self, path: str) -> bool:
        """Whether `path`, relative and with slashes, is one of those that the pattern means."""
        parts = path.split("/")
        return any(alternative.match(parts) for alternative in self._alternatives)


class _Segments:
    def __init__(self, text: str) -> None:
        self._name_only = "/" not in text
        # None stands for `**`.
        self._segments: list[re.Pattern[str] | None] = []
        for segment in filter(None, text.split("/")):
            if segment != "**":
                self._segments.append(re.compile(fnmatch.translate(segment)))
            elif not self._segments or self._segments[-1] is not None:  # two in a row mean what one does
                self._segments.append(None)

    def match(self, parts: list[str]) -> bool:
        if self._name_only:
            parts = parts[-1:]
        # `reached` are the numbers of parts that the segments so far can have taken.
        reached = {0}
        for segment in self._segments:
            if segment is None:
                reached = set(range(min(reached), len(parts) + 1))
            else:
                reached = {at + 1 for at in reached if at < len(parts) and segment.match(parts[at])}
            if not reached:
                return False
        return len(parts) in reached


def _expanded(text: str) -> list[str]:
    """`a{b,c}` as `ab` and `ac`. Braces that do not close stand for themselves."""
    done: list[str] = []
    pending = [text]
    while pending:
        if len(done) + len(pending) > MAX_ALTERNATIVES:
            raise Refused(f"The pattern has more than {MAX_ALTERNATIVES} alternatives")
        current = pending.pop()
        opening, closing = _innermost(current)
        if closing < 0:
            done.append(current)
            continue
        choices = current[opening + 1 : closing].split(",")
        pending += [current[:opening] + choice + current[closing + 1 :] for choice in reversed(choices)]
    return done


def _innermost(text: str) -> tuple[int, int]:
    """Where the first pair of braces without another inside opens and closes; -1 when there is none."""
    closing = text.find("}")
    while closing >= 0:
        opening = text.rfind("{", 0, closing)
        if opening >= 0:
            return opening, closing
        closing = text.find("}", closing + 1)
    return -1, -1
