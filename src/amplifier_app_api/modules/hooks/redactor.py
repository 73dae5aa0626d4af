"""Masking what is secret in texts, in JSON values, and in texts that come in pieces.

A mask is `[redacted:<kind>]`: the same for the same kind wherever and whenever, and itself never masked again, so
that masking twice is masking once.

A text that comes in pieces is masked as the whole would be: what can still become part of something secret is held
back. That is mostly the word that is being written; after digits, or a word such as "token", up to `SPACED`
characters more; in a private key, all of it. What is held back is bounded by `MOST_HELD`: a longer word, or key, is
masked as far as it is known and what follows of it is dropped or masked with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from amplifier_app_api.modules.hooks.redaction_secrets import (
    SECRET_STEMS,
    SPACED,
    Span,
    end_of_private_key,
    names_secret,
    open_private_key,
)

MOST_HELD = 8_192
"""Characters."""
DEPTH = 64
_WORDS = re.compile(r"[a-z_]{0,40}|[a-z][A-Za-z]{0,24}", re.ASCII)
"""Names as programs give them, which hold nothing secret: most are such, and each would cost as much as a text."""
FAILED = "[redacted:failed]"

_WHITE = " \t\r\n\f\v"
_MAY_REACH_OVER_WHITE = re.compile(
    "|".join(["[0-9]", "api", "access", "auth", "private", "client", "account", "service", *SECRET_STEMS]),
    re.ASCII | re.IGNORECASE,
)

Finder = Callable[[str], Iterator[Span]]


def mask_of(kind: str) -> str:
    return f"[redacted:{kind}]"


@dataclass(frozen=True, slots=True)
class Redactor:
    """Masks what its finders find. `kept_texts` are never masked, `kept_names` are members that are left alone.

    `kinds` says what it looks for, `longest_tail` how many characters a stream holds back at most.
    """

    finders: Sequence[Finder]
    kinds: tuple[str, ...] = ()
    kept_texts: frozenset[str] = frozenset()
    kept_names: frozenset[str] = frozenset()
    masks_named_secrets: bool = True
    longest_tail: int = field(default=MOST_HELD, init=False)

    def redact(self, text: str) -> str:
        """The text with everything secret masked; the same object when there is nothing."""
        spans = self.spans(text)
        return text if not spans else _masked(text, spans)

    def redact_value(self, value: Any) -> Any:
        """A JSON value with every text in it masked, names too, and every text whose name says that it is a secret."""
        return self._value(value, DEPTH)

    def stream(self) -> RedactingStream:
        """For one text that comes in pieces."""
        return RedactingStream(self)

    def spans(self, text: str) -> list[Span]:
        """What is secret, in order, without overlaps."""
        found = [span for finder in self.finders for span in finder(text)]
        if self.kept_texts:
            found = [span for span in found if text[span.start : span.end] not in self.kept_texts]
        if len(found) < 2:
            return found
        merged: list[Span] = []
        for span in sorted(found, key=lambda span: (span.start, -span.end)):
            if merged and span.start < merged[-1].end:
                last = merged[-1]
                merged[-1] = Span(last.start, max(last.end, span.end), last.kind, min(last.since, span.since))
            else:
                merged.append(span)
        return merged

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            if not depth:
                return FAILED
            return self._members(cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, (list, tuple)):
            return FAILED if not depth else [self._value(item, depth - 1) for item in cast("list[Any]", value)]
        return value

    def _members(self, members: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        masked: dict[Any, Any] = {}
        for key, item in members.items():
            name = str(key)
            shown = name if _WORDS.fullmatch(name) or name in self.kept_names else self.redact(name)
            at = key if shown == name else shown
            while at != key and at in masked:  # another name with the same mask
                at += "'"
            masked[at] = self._member(name, item, depth)
        return masked

    def _member(self, name: str, value: Any, depth: int) -> Any:
        if name in self.kept_names:
            return value
        if self.masks_named_secrets and isinstance(value, (str, list)) and names_secret(name):
            return self._named_secret(cast("str | list[Any]", value), depth)
        return self._value(value, depth - 1)

    def _named_secret(self, value: str | list[Any], depth: int) -> Any:
        if isinstance(value, list):
            return [
                self._named_secret(item, depth) if isinstance(item, str) else self._value(item, depth - 1)
                for item in value
            ]
        return value if not value or value in self.kept_texts else mask_of("secret")


class RedactingStream:
    """One text in pieces. What `feed` and, in the end, `finish` give is together what `redact` gives of the whole."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._dropping: str | None = None  # what is dropped: the rest of a "key" or of a "word"

    def feed(self, piece: str) -> str:
        """The text that may be shown now."""
        if self._dropping is not None:
            piece = self._drop(piece)
        self._held += piece
        if self._dropping is not None:
            return ""
        cut = self._cut()
        if cut:
            return self._release(cut)
        return self._give_up() if len(self._held) > MOST_HELD else ""

    def finish(self) -> str:
        """The rest. Nothing may be fed afterwards."""
        rest, self._held = ("" if self._dropping is not None else self._held), ""
        return self._redactor.redact(rest)

    def _cut(self) -> int:
        """Up to where nothing can change any more, whatever comes."""
        held = self._held
        cut = run = 1 + max(held.rfind(white) for white in _WHITE)
        key = open_private_key(held)
        if key is not None:
            cut = min(cut, _word_start(held, key))
        reaching = _MAY_REACH_OVER_WHITE.search(held, _word_start(held, max(0, run - SPACED)), run)
        if reaching is not None:
            cut = min(cut, _word_start(held, reaching.start()))
        return cut

    def _release(self, cut: int) -> str:
        spans = self._redactor.spans(self._held)
        while crossed := next((span for span in spans if span.since < cut < span.end), None):
            cut = _word_start(self._held, crossed.since)
        if not cut:
            return self._give_up() if len(self._held) > MOST_HELD else ""
        shown = _masked(self._held[:cut], [span for span in spans if span.end <= cut])
        self._held = self._held[cut:]
        return shown

    def _give_up(self) -> str:
        """More is held than may be: mask what is known, and drop what goes on with it."""
        held, self._held = self._held, ""
        if open_private_key(held) is not None:
            self._dropping = "key"
            return self._redactor.redact(held)
        spans = self._redactor.spans(held)
        if spans and spans[-1].end >= len(held) - 1:
            self._dropping = "word"
            return _masked(held, spans)
        # A word of this length that is no secret so far: its end may be the beginning of one.
        keep = len(held) - 512
        keep = next((span.since for span in spans if span.since < keep < span.end), keep)
        self._held = held[keep:]
        return _masked(held[:keep], [span for span in spans if span.end <= keep])

    def _drop(self, piece: str) -> str:
        """What of a piece is no longer part of what is dropped."""
        if self._dropping == "word":
            end = next((at for at, character in enumerate(piece) if character in _WHITE or character in "\"'<>"), None)
            if end is None:
                return ""
            self._dropping = None
            return piece[end:]
        self._held = (self._held + piece)[-2 * SPACED - len(piece) :]
        end = end_of_private_key(self._held)
        if end is None:
            return ""
        rest, self._held = self._held[end:], ""
        self._dropping = None
        return rest


def _word_start(text: str, at: int) -> int:
    return 1 + max(text.rfind(white, 0, at) for white in _WHITE)


def _masked(text: str, spans: Iterable[Span]) -> str:
    out: list[str] = []
    behind = 0
    for span in spans:
        out += (text[behind : span.start], mask_of(span.kind))
        behind = span.end
    out.append(text[behind:])
    return "".join(out)
