"""Secrets go in and never come out: what a session tells has its secrets masked.

There are two kinds. The values that a session was opened with are known, and found wherever they stand. What else is
secret says the session's redactor, where a module offers one: the capability `session.redactor`, with `redact(text)`,
`redact_value(json)` and `stream()`, the last for a text that comes in pieces.

A text in pieces is masked as its whole would be: what may still become a secret is held back until it is known.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import orjson

from amplifier_app_api.models.fields import made_storable
from amplifier_app_api.observability.redaction import MASK, names_secret

__all__ = [
    "FAILED",
    "MASK",
    "MaskingStream",
    "Redactor",
    "SecretMask",
    "names_secret",
    "secret_variables",
    "secrets_in",
]

MIN_LENGTH = 6
"""A shorter value would mask ordinary words."""
_NAMES_KEY = re.compile(r"(?:^|_)(?:keys?|pwd|pass|pin|auth|creds?|dsn)(?:$|_)", re.IGNORECASE)
KEY_LENGTH = 16
"""A shorter variable is a secret only by its name or its use."""
TELLING = 4
"""Characters of a known value at the end of a text that was cut off there: so many are masked, too."""
FAILED = "[redacted:failed]"
"""In the place of what a redactor could not look at."""

logger = logging.getLogger(__name__)


class RedactingStream(Protocol):
    """One text in pieces: what `feed` and, in the end, `finish` give is what `redact` makes of the whole."""

    def feed(self, piece: str) -> str:
        """The text that may be shown now."""
        ...

    def finish(self) -> str:
        """The rest."""
        ...


@runtime_checkable
class Redactor(Protocol):
    """Masks what a module takes for secret."""

    def redact(self, text: str) -> str:
        """The text as people may see it."""
        ...

    def redact_value(self, value: Any) -> Any:
        """A JSON value as people may see it."""
        ...

    def stream(self) -> RedactingStream:
        """For one text that comes in pieces."""
        ...


class SecretMask:
    """Masks known values, and what a redactor finds, in texts and JSON values."""

    def __init__(self, values: Iterable[str] = (), redactor: Redactor | None = None) -> None:
        found = {value for value in values if len(value) >= MIN_LENGTH}
        # Tools quote what they show, as JSON or as Python does: a key of several lines is known in these forms, too.
        found |= {orjson.dumps(made_storable(value)).decode()[1:-1] for value in found}
        found |= {repr(value)[1:-1] for value in found}
        self._known = _KnownValues(sorted(found, key=len, reverse=True)) if found else None
        self._redactor = redactor

    def with_redactor(self, redactor: Redactor | None) -> "SecretMask":
        """The same for what this redactor finds, too."""
        mask = SecretMask()
        mask._known, mask._redactor = self._known, redactor
        return mask

    def text(self, text: str) -> str:
        """`text` with everything secret replaced."""
        if self._known is not None:
            text = self._known.masked(text)
        return text if self._redactor is None else _redacted(self._redactor, text)

    def json(self, value: Any) -> Any:
        """`value` with every text in it masked, and every member whose name says that it is a secret."""
        known = self._plain(value)
        if self._redactor is None:
            return known
        try:
            return self._redactor.redact_value(known)
        except Exception:  # a module's: what it could not look at is not shown
            logger.exception("a redactor failed")
            return FAILED

    def stream(self) -> "MaskingStream | None":
        """For one text that comes in pieces. None: there is nothing to look for."""
        if self._known is None and self._redactor is None:
            return None
        return MaskingStream(self._known, self._redactor)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if self._known is None else self._known.masked(value)
        if isinstance(value, list):
            return [self._plain(item) for item in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {key: self._member(str(key), item) for key, item in cast("dict[Any, Any]", value).items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        return MASK if names_secret(name) and isinstance(value, str) else self._plain(value)


class MaskingStream:
    """A text in pieces. Together they are what `SecretMask.text` makes of the whole."""

    def __init__(self, known: "_KnownValues | None", redactor: Redactor | None) -> None:
        self._known = known
        self._held = ""
        self._redacting = _RedactingPieces(redactor) if redactor is not None else None

    def feed(self, piece: str) -> str:
        """The text that may be shown now; what may become a secret is held back."""
        if self._known is not None:
            piece, self._held = self._known.decided(self._held + piece)
        return piece if self._redacting is None else self._redacting.feed(piece)

    def finish(self, *, cut_off: bool = False) -> str:
        """The rest. `cut_off`: the text ends here only because whoever wrote it was stopped, maybe inside a secret."""
        rest, self._held = self._held, ""
        if self._known is not None and rest:
            rest = self._known.masked(rest, cut_off=cut_off)
        if self._redacting is None:
            return rest
        return self._redacting.feed(rest) + self._redacting.finish()


class _RedactingPieces:
    """A redactor's stream, until it fails: from then on nothing more of the text is shown."""

    def __init__(self, redactor: Redactor) -> None:
        self._failed = False
        self._stream = self._made(redactor)

    def _made(self, redactor: Redactor) -> RedactingStream | None:
        try:
            return redactor.stream()
        except Exception:  # a module's: told by the first piece
            logger.exception("a redactor failed")
            return None

    def feed(self, piece: str) -> str:
        if self._failed or not piece:
            return ""
        try:
            return FAILED if self._stream is None else self._stream.feed(piece)
        except Exception:  # a module's: what it could not look at is not shown
            logger.exception("a redactor failed")
            self._stream = None
            return FAILED
        finally:
            self._failed = self._stream is None

    def finish(self) -> str:
        if self._failed or self._stream is None:
            return ""
        try:
            return self._stream.finish()
        except Exception:  # a module's: what it could not look at is not shown
            logger.exception("a redactor failed")
            return FAILED


class _KnownValues:
    """Finds values in texts: from the left, and where several begin the longest. `values` come the longest first."""

    def __init__(self, values: Sequence[str]) -> None:
        self._whole = re.compile("|".join(map(re.escape, values)))
        self._by_beginning: dict[str, list[str]] = {}
        for value in values:
            self._by_beginning.setdefault(value[:MIN_LENGTH], []).append(value)
        self._values = values
        # Where a value begins or, at the end of the text, may begin: found at the speed of the engine.
        self._may_begin = re.compile("|".join(_beginning(beginning) for beginning in self._by_beginning))

    def masked(self, text: str, *, cut_off: bool = False) -> str:
        """The text with every value replaced; with `cut_off` also with what may be the beginning of one at its end."""
        if not cut_off:
            return self._whole.sub(MASK, text)
        shown, rest = self.decided(text)
        if not rest:
            return shown
        if len(rest) >= TELLING:
            return shown + MASK
        return shown + rest

    def decided(self, text: str) -> tuple[str, str]:
        """What no more text can change, masked, and the rest of `text`."""
        shown: list[str] = []
        behind = at = 0
        while (begins := self._may_begin.search(text, at)) is not None:
            start = begins.start()
            value = self._at(text, start)
            if value is None:
                at = start + 1
                continue
            shown.append(text[behind:start])
            if len(text) - start < len(value):  # it, or a longer one, may be whole when more has come
                return "".join(shown), text[start:]
            shown.append(MASK)
            behind = at = start + len(value)
        if not behind:
            return text, ""
        shown.append(text[behind:])
        return "".join(shown), ""

    def _at(self, text: str, start: int) -> str | None:
        """The longest value that stands at a place, as far as the text goes."""
        rest = len(text) - start
        if rest < MIN_LENGTH:
            ending = text[start:]
            return next(value for value in self._values if value.startswith(ending))
        for value in self._by_beginning[text[start : start + MIN_LENGTH]]:
            if text.startswith(value, start) if rest >= len(value) else value.startswith(text[start:]):
                return value
        return None


def _beginning(text: str) -> str:
    r"""A pattern for a text and, at the end, for each part that it begins with: `a(?:b(?:c|\Z)|\Z)` for `abc`."""
    pattern = re.escape(text[-1])
    for character in reversed(text[:-1]):
        pattern = rf"{re.escape(character)}(?:{pattern}|\Z)"
    return pattern


def _redacted(redactor: Redactor, text: str) -> str:
    try:
        return redactor.redact(text)
    except Exception:  # a module's: what it could not look at is not shown
        logger.exception("a redactor failed")
        return FAILED


def secret_variables(variables: Mapping[str, str]) -> set[str]:
    """The values of variables that are secrets: by their name, or because they look like a key.

    Not every variable is one: a greeting or the name of a project has to be sayable. What fills a secret option is
    found there, by `secrets_in`.
    """
    return {
        value
        for name, value in variables.items()
        if names_secret(name) or _NAMES_KEY.search(name) is not None or _looks_like_a_key(value)
    }


def _looks_like_a_key(value: str) -> bool:
    # Long, in one piece, of letters and digits; or an address with a password in it.
    if "://" in value and "@" in value:
        return True
    one_piece = len(value) >= KEY_LENGTH and not any(character.isspace() for character in value)
    return one_piece and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def secrets_in(plan: Mapping[str, Any]) -> set[str]:
    """Every text of a plan whose name says that it is a secret."""
    found: set[str] = set()
    pending: list[Any] = [plan]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            for key, value in cast("Mapping[Any, Any]", item).items():
                if isinstance(value, str) and names_secret(str(key)):
                    found.add(value)
                else:
                    pending.append(value)
        elif isinstance(item, list):
            pending.extend(cast("list[Any]", item))
    return found
