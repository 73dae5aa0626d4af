"""A piece of text that every match of a regular expression must hold.

ripgrep looks for that piece and so leaves out the files that cannot match; what does match is decided by one
engine, Python's, with ripgrep or without it. When in doubt there is no such piece.
"""

from __future__ import annotations

SHORTEST = 3


def needed_text(pattern: str, *, ignore_case: bool) -> str | None:
    """The longest such piece, of ASCII characters; None when none of `SHORTEST` characters can be told."""
    pieces = _pieces(pattern)
    # Of the letters, only i has relatives outside of ASCII that the two engines treat differently.
    usable = [piece for piece in pieces if not (ignore_case and "i" in piece.lower())]
    longest = max(usable, key=len, default="")
    return longest if len(longest) >= SHORTEST else None


def _pieces(pattern: str) -> list[str]:
    if "(?" in pattern or "|" in pattern:
        return []  # flags, conditions and alternatives change what the rest means
    pieces: list[str] = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            escaped = pattern[at + 1 : at + 2]
            if escaped and escaped.isascii() and escaped.isprintable() and not escaped.isalnum():
                pieces[-1] += escaped
            else:
                pieces.append("")
            at += 2
        elif char in "?*{":
            # The character before may be missing.
            pieces[-1] = pieces[-1][:-1]
            pieces.append("")
            at = _behind_braces(pattern, at) if char == "{" else at + 1
        elif char == "[":
            pieces.append("")
            at = _behind_set(pattern, at)
        elif char == "(":
            pieces.append("")
            at = _behind_group(pattern, at)
        elif char in "+.^$)" or not char.isascii() or not char.isprintable():
            pieces.append("")
            at += 1
        else:
            pieces[-1] += char
            at += 1
    return pieces


def _behind_braces(pattern: str, at: int) -> int:
    closing = pattern.find("}", at)
    return closing + 1 if closing >= 0 else len(pattern)


def _behind_set(pattern: str, at: int) -> int:
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":  # the first one stands for itself
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _behind_group(pattern: str, at: int) -> int:
    """A group may be repeated or left out: what is in it counts for nothing."""
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 2
            continue
        if char == "[":
            at = _behind_set(pattern, at)
            continue
        depth += (char == "(") - (char == ")")
        at += 1
        if not depth:
            break
    return at
