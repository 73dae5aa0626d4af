"""Reading a shell's command line for the little that can be judged without the shell.

`plain_words` knows one kind of line: a single command with its arguments written out, in which nothing means more to
a shell than it says. Everything else is no such line: operators, redirections, substitutions, variables, globs (what
they find may be an option), braces, tildes, assignments, escapes, comments, several lines. `possible_words` is for
rules that forbid: it cuts a line wherever a new command may begin and gives what each piece might be.
"""

from __future__ import annotations

import re
import string

_PLAIN = frozenset(string.ascii_letters + string.digits + "_./,:@%+=-")
_PRINTABLE = frozenset(map(chr, range(32, 127)))
_LITERAL = {"'": _PRINTABLE, '"': _PRINTABLE - frozenset('"$`\\!')}
_KEYWORDS = frozenset(
    "if then else elif fi case esac for select while until do done in function time coproc [ [[".split()  # noqa: SIM905
)
_BREAKS = re.compile(r"[\n\r;&|(){}`]|\$\(|<\(|>\(")
_UNQUOTED = str.maketrans("", "", "\"'\\")


def plain_words(line: str) -> list[str] | None:
    """The words of a line that is one plain command; None when it is anything else."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    first_is_quoted = False
    for character in line:
        if quote:
            if character == quote:
                quote = ""
            elif character < "\x80" and character not in _LITERAL[quote]:
                return None
            elif word is not None:
                word.append(character)
        elif character in "'\"":
            quote = character
            first_is_quoted = first_is_quoted or not words
            word = [] if word is None else word
        elif character in " \t":
            if word is not None:
                words.append("".join(word))
            word = None
        elif character in _PLAIN:
            word = [character] if word is None else [*word, character]
        else:
            return None
    if quote:
        return None
    if word is not None:
        words.append("".join(word))
    if not words or not _names_a_program(words[0]) or first_is_quoted:
        return None
    return words


def _names_a_program(word: str) -> bool:
    return bool(word) and "=" not in word and word[0] not in "%-+." and word not in _KEYWORDS


def possible_words(line: str) -> list[list[str]]:
    """The commands that a line may hold, as words without their quotes and without what is assigned in front."""
    found: list[list[str]] = []
    for piece in _BREAKS.split(line.replace("\\\n", "")):
        words = piece.translate(_UNQUOTED).split()
        while words and (words[0] in _KEYWORDS or "=" in words[0] or words[0] in ("!", "exec", "command", "builtin")):
            words = words[1:]
        if words:
            found.append([words[0].rpartition("/")[2], *words[1:]])
    return found
