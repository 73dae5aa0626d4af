"""The rules of `hooks-approval`: which calls they are about.

A rule names tools (with `*`) and may ask for more: `command`, words that a shell's command line must have; `path`,
where the files it names must lie; `arguments`, what single arguments must look like. All that a rule asks for must
hold, and every pattern is about the whole of what it is compared with.

A rule that allows is read narrowly and one that forbids or asks widely. What cannot be judged is never allowed by a
rule that looks into the call, and is asked about where a rule might have forbidden it.
"""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from amplifier_app_api.modules.hooks.shell_words import plain_words, possible_words

Action = Literal["allow", "ask", "deny"]
ACTIONS: tuple[Action, ...] = ("allow", "ask", "deny")

COMMAND_ARGUMENTS = ("command", "cmd", "script")
PATH_ARGUMENTS = (
    *("file_path", "path", "file", "filename", "directory", "folder", "dir"),
    *("source", "destination", "target", "paths", "files"),
)
MAX_PATHS = 256
MAX_DEPTH = 8


class Fit(Enum):
    """`BY_NAME`: a plain command that names none of the files, and may use one all the same."""

    NO = "no"
    YES = "yes"
    UNCLEAR = "unclear"
    BY_NAME = "by name"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. `folder` is the session's, with every link resolved; None where it has none."""

    tool: str
    arguments: Mapping[str, Any]
    folder: str | None

    def command(self) -> str | None:
        """The line that is handed to a shell, if there is exactly one argument that may be it."""
        given = [self.arguments[name] for name in COMMAND_ARGUMENTS if name in self.arguments]
        return given[0] if len(given) == 1 and isinstance(given[0], str) else None

    def has_command(self) -> bool:
        return any(name in self.arguments for name in COMMAND_ARGUMENTS)

    def paths(self) -> list[str | None]:
        """Every path it names, resolved; None for one that is none. Looks at the file system."""
        named = self._named()
        found = [None if path is None else resolved(path, self.folder) for path in named[:MAX_PATHS]]
        return found + [None] * (len(named) > MAX_PATHS)

    def paths_as_written(self) -> list[str]:
        """The same by their names alone, without following links."""
        if self.folder is None:
            return []
        named = [path for path in self._named()[:MAX_PATHS] if path is not None]
        return [os.path.normpath(os.path.join(self.folder, path)) for path in named]  # noqa: PTH118

    def _named(self) -> list[str | None]:
        return [path for name in PATH_ARGUMENTS if name in self.arguments for path in _texts(self.arguments[name])]


@dataclass(frozen=True, slots=True)
class Rule:
    """`commands` are lists of words, `paths` patterns of paths; empty where the rule does not ask for any."""

    action: Action
    tools: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    paths: tuple[str, ...] = ()
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    reason: str | None = None

    def fits(self, call: Call) -> Fit:
        if not any(fnmatchcase(call.tool, pattern) for pattern in self.tools):
            return Fit.NO
        return self._strictly(call) if self.action == "allow" else self._widely(call)

    def _strictly(self, call: Call) -> Fit:
        if self.commands and not self._allows_command(call):
            return Fit.NO
        if self.paths and not self.commands:
            paths = call.paths()
            if not paths or not all(path is not None and self._covers(path, call.folder) for path in paths):
                return Fit.NO
        for name, patterns in self.arguments.items():
            value = call.arguments.get(name)
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                return Fit.NO
            if not any(fnmatchcase(str(value), pattern) for pattern in patterns):
                return Fit.NO
        return Fit.YES

    def _allows_command(self, call: Call) -> bool:
        line = call.command()
        words = plain_words(line) if line is not None else None
        return words is not None and any(self._allows_words(pattern, words, call) for pattern in self.commands)

    def _allows_words(self, pattern: Sequence[str], words: Sequence[str], call: Call) -> bool:
        wild = wild_words(pattern, words)
        if wild is None or not self.paths:
            return wild is not None
        if any(word.startswith("-") for word in wild):
            return False  # an option may hold a path in any form
        places = [resolved(word, call.folder) for word in wild]
        return all(place is not None and self._covers(place, call.folder) for place in places)

    def _widely(self, call: Call) -> Fit:
        fits: list[Fit] = []
        if self.commands:
            fits.append(self._may_be_command(call))
        if self.paths and not self.commands:
            fits.append(self._may_be_path(call))
        for name, patterns in self.arguments.items():
            texts = list(_texts(call.arguments.get(name)))
            values = [_folded(text) for text in texts if text is not None]
            hit = any(fnmatchcase(value, _folded(pattern)) for value in values for pattern in patterns)
            fits.append(Fit.YES if hit else Fit.UNCLEAR if None in texts else Fit.NO)
        return next((fit for fit in (Fit.NO, Fit.UNCLEAR, Fit.BY_NAME) if fit in fits), Fit.YES)

    def _may_be_command(self, call: Call) -> Fit:
        line = call.command()
        if line is None:
            return Fit.UNCLEAR if call.has_command() else Fit.NO
        commands = possible_words(line)
        if any(_begins_like(pattern, words) for words in commands for pattern in self.commands):
            return Fit.YES
        # As an argument, the name may be run all the same: by env, xargs, sh -c.
        named = {word.rpartition("/")[2] for words in commands for word in words[1:]}
        handed_on = any(fnmatchcase(name, pattern[0]) for name in named for pattern in self.commands)
        return Fit.UNCLEAR if handed_on or plain_words(line) is None else Fit.NO

    def _may_be_path(self, call: Call) -> Fit:
        paths = call.paths()
        named = [path for path in paths if path is not None] + call.paths_as_written()
        if any(self._covers(path, call.folder, loosely=True) for path in named):
            return Fit.YES
        if not call.has_command():
            return Fit.UNCLEAR if None in paths else Fit.NO
        line = call.command()
        words = plain_words(line) if line is not None else None
        if words is None or None in paths or len(words) > MAX_PATHS:
            return Fit.UNCLEAR
        places = [resolved(part, call.folder) for word in words[1:] for part in {word, word.rpartition("=")[2]} if part]
        named = [place for place in places if place is not None]
        if any(self._covers(place, call.folder, loosely=True) for place in named):
            return Fit.YES
        return Fit.BY_NAME if len(named) == len(places) else Fit.UNCLEAR

    def _covers(self, path: str, folder: str | None, *, loosely: bool = False) -> bool:
        return any(covers(pattern, path, folder, loosely=loosely) for pattern in self.paths)


def wild_words(pattern: Sequence[str], words: Sequence[str]) -> list[str] | None:
    """The words that stand where a pattern has a wildcard, when it fits; else None.

    `*` alone is one word, `...` at the end any number of them, and neither is an option: a word that begins with `-`
    is only ever matched by a word of the pattern that begins so too.
    """
    wild: list[str] = []
    open_end = bool(pattern) and pattern[-1] == "..."
    fixed = pattern[:-1] if open_end else pattern
    if len(words) < len(fixed) or (len(words) > len(fixed) and not open_end):
        return None
    for wanted, word in zip(fixed, words, strict=False):
        if wanted == word:
            continue
        if not any(mark in wanted for mark in "*?") or word.startswith("-") != wanted.startswith("-"):
            return None
        if not word or not fnmatchcase(word, wanted.replace("[", "[[]")):
            return None
        if wanted != "*" and ".." in word.split("/"):
            return None  # it would lead out of what the pattern begins with
        wild.append(word)
    rest = list(words[len(fixed) :])
    if any(word.startswith("-") or not word for word in rest):
        return None
    return wild + rest


def _begins_like(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """For what is forbidden: whatever comes behind the pattern, and wherever its words stand among others."""
    fixed = [word for word in pattern if word not in ("...", "*")]
    if not fixed or not fnmatchcase(words[0], fixed[0]):
        return not fixed
    rest = list(words[1:])
    for wanted in fixed[1:]:
        at = next((index for index, word in enumerate(rest) if fnmatchcase(word, wanted)), None)
        if at is None:
            return False
        del rest[at]
    return True


def resolved(path: str, folder: str | None) -> str | None:
    """Where a path leads, from the session's folder, with every link and `..` followed.

    None when it is no path, or one that a tool may read as another: with a home, a variable, an address, or white
    space around it.
    """
    if folder is None or not path or path != path.strip() or path[0] == "~":
        return None
    if "\0" in path or "$" in path or "://" in path:
        return None
    try:
        path.encode()
        return os.path.realpath(os.path.join(folder, path))  # noqa: PTH118 - a text, as the tool will read it
    except (OSError, ValueError):
        return None


def covers(pattern: str, path: str, folder: str | None, *, loosely: bool = False) -> bool:
    """Whether a resolved path is one the pattern names: `*` within one name, `**` over any number of them.

    Relative patterns begin at the session's folder. `loosely` pays no heed to case and to forms of letters, and a
    pattern that names a folder names what is in it.
    """
    if folder is None:
        return False
    whole = pattern if os.path.isabs(pattern) else os.path.join(folder, pattern)  # noqa: PTH117, PTH118
    wanted, parts = _parts(whole), _parts(path)
    if not os.path.isabs(pattern):  # noqa: PTH117 - what the folder itself is called is no pattern
        own = _parts(folder)
        if parts[: len(own)] != own:
            return False
        wanted, parts = wanted[len(own) :], parts[len(own) :]
    if loosely:
        wanted, parts = [*map(_folded, wanted), "**"], [*map(_folded, parts)]
    return _fits_parts(wanted, parts)


def _parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path.replace(os.sep, "/")).parts if part not in ("/", ".")]


def _fits_parts(wanted: Sequence[str], parts: Sequence[str]) -> bool:
    """By the places each beginning of `wanted` can reach: no pattern makes this slow."""
    reached = {0}
    for want in wanted:
        if want == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], want)}
    return len(parts) in reached


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _texts(value: Any, depth: int = 0) -> Iterator[str | None]:
    """What an argument says: a text, or a list of texts. None stands for what is neither, beside the texts in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (int, float)):
        yield str(value)
    elif isinstance(value, (list, Mapping)):
        if depth or isinstance(value, Mapping):
            yield None
        nested = cast("Any", value)
        if depth < MAX_DEPTH:
            for item in nested.values() if isinstance(value, Mapping) else nested:
                yield from _texts(item, depth + 1)


class RuleProblem(ValueError):
    """A rule that cannot be read; the text says why."""


def read_rule(given: Any) -> Rule:
    """A rule as it is written in a bundle: `{tool, command, path, arguments, action, reason}`."""
    if not isinstance(given, Mapping):
        raise RuleProblem("is not a mapping")
    entry = cast("Mapping[str, Any]", given)
    unknown = set(entry) - {"tool", "tools", "command", "path", "arguments", "action", "reason"}
    if unknown:  # a condition that is not understood must not be passed over
        raise RuleProblem(f"has {min(map(str, unknown))!r}, which is not known")
    action = entry.get("action")
    if action not in ACTIONS:
        raise RuleProblem(f"needs an action: {', '.join(ACTIONS)}")
    tools = _patterns(entry, "tool") + _patterns(entry, "tools")
    if not tools:
        raise RuleProblem("names no tool")
    reason = entry.get("reason")
    rule = Rule(
        action=action,
        tools=tools,
        commands=tuple(_words(line) for line in _patterns(entry, "command")),
        paths=_patterns(entry, "path"),
        arguments=_argument_patterns(entry.get("arguments")),
        reason=reason if isinstance(reason, str) else None,
    )
    for words in rule.commands:
        if action == "allow" and any(mark in words[0] for mark in "*?"):
            raise RuleProblem("allows a command without naming it")
        if "..." in words[:-1]:
            raise RuleProblem("has '...' before the end of a command")
    return rule


def _patterns(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = entry.get(name)
    if value is None:
        return ()
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise RuleProblem(f"has a {name} that is no text and no list of texts")
    return tuple(map(str, items))


def _argument_patterns(given: Any) -> Mapping[str, tuple[str, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RuleProblem("has arguments that are no mapping of names to patterns")
    named = cast("Mapping[Any, Any]", given)
    return {str(name): _patterns({"argument": pattern}, "argument") for name, pattern in named.items()}


def _words(line: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise RuleProblem(f"has a command that cannot be read: {error}") from None
    if not words:
        raise RuleProblem("has an empty command")
    return words


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    reason: str | None = None


def judge(rules: Sequence[Rule], call: Call, otherwise: Action) -> Verdict:
    """What the rules say. A rule that denies wins; else the first that fits; what may be denied is asked about.

    Which files a command uses cannot be told from its words. That counts as a doubt unless a rule allows that very
    command.
    """
    fits = [(rule, rule.fits(call)) for rule in rules]
    for rule, fit in fits:
        if rule.action == "deny" and fit is Fit.YES:
            return Verdict("deny", rule.reason)
    first = next((rule for rule, fit in fits if fit is not Fit.NO and rule.action != "deny"), None)
    doubts = {Fit.UNCLEAR} if first is not None and first.commands else {Fit.UNCLEAR, Fit.BY_NAME}
    unclear = any(fit in doubts for _, fit in fits)
    verdict = Verdict(otherwise) if first is None else Verdict(first.action, first.reason)
    return Verdict("ask", "it cannot be told what it would do") if unclear and verdict.action == "allow" else verdict
