"""Skills in folders: a `SKILL.md` with a name and a description in its front matter, and perhaps more files beside it.

Finding skills reads the front matter of files that are new or have changed since; the text of a skill is read when it
is loaded. All functions block; call them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from amplifier_app_api.modules.tools.sandbox import FileRefused, Sandbox, printable
from amplifier_app_api.modules.tools.text_files import decode

SKILL_FILE = "SKILL.md"
MAX_VISITED = 10_000
MAX_SKILLS = 200
MAX_FRONT_MATTER = 16_384
MAX_DEPTH = 20
MAX_NAME = 64
MAX_DESCRIPTION = 1_024
MAX_FILES = 50
_SKIPPED = frozenset((".git", "node_modules", "__pycache__", ".venv"))
_yaml: Any = yaml  # its functions are without types
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class SkillFolder:
    """A folder with skills below it. `shown` is how it is called; its files are read through `sandbox`."""

    shown: str
    path: str
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Skill:
    """`path` is the skill's own folder."""

    name: str
    description: str
    path: str
    source: SkillFolder
    facts: Mapping[str, str]


@dataclass(slots=True)
class Library:
    """The skills of some folders. Of several with one name the first counts."""

    max_file_bytes: int
    skills: dict[str, Skill] = field(default_factory=dict[str, Skill])
    problems: list[str] = field(default_factory=list[str])

    def look(self, folders: Sequence[SkillFolder]) -> None:
        """Find what is there now."""
        found: dict[str, Skill] = {}
        problems: list[str] = []
        for folder in folders:
            for path in _skill_files(folder):
                if len(found) >= MAX_SKILLS:
                    problems.append(f"only the first {MAX_SKILLS} skills are known")
                    break
                try:
                    skill = self._read(folder, path)
                except (FileRefused, NotASkill) as problem:
                    problems.append(f"{path}: {problem}")
                    continue
                found.setdefault(skill.name, skill)
        self.skills, self.problems = found, problems

    def text(self, skill: Skill) -> str:
        """What the skill says, without its front matter."""
        return _split(self._text(skill.source, f"{skill.path}/{SKILL_FILE}"))[1].strip()

    def further_file(self, skill: Skill, name: str) -> str:
        """A file of the skill, by its path below the skill's folder; `FileRefused` when that leads elsewhere."""
        sandbox = skill.source.sandbox
        place = sandbox.locate(f"{skill.path}/{name}")
        if not place.path.is_relative_to(sandbox.locate(skill.path).path):
            raise FileRefused(f"{printable(name)} is not below the skill's folder")
        return decode(sandbox.read(place, self.max_file_bytes), printable(name))

    def further_files(self, skill: Skill) -> list[str]:
        """The files beside the skill's text, as paths below its folder."""
        sandbox = skill.source.sandbox
        walked = sandbox.walk(sandbox.locate(skill.path), most=MAX_VISITED, skip=_SKIPPED)
        names = sorted(found.name for found in walked if found.is_file and found.name != SKILL_FILE)
        return [printable(name) for name in names[:MAX_FILES]]

    def _read(self, folder: SkillFolder, path: str) -> Skill:
        front, _ = _split(self._text(folder, path))
        facts = _facts(front)
        here = path.rpartition("/")[0] or "."
        name = _told(facts.get("name")) or Path(here).name
        description = _told(facts.get("description"))
        if not name or not description:
            raise NotASkill("it has no name or no description")
        if len(name) > MAX_NAME:
            raise NotASkill(f"its name has more than {MAX_NAME} characters")
        further = {key: _told(facts[key]) for key in ("version", "license") if _told(facts.get(key))}
        return Skill(name, description[:MAX_DESCRIPTION], here, folder, further)

    def _text(self, folder: SkillFolder, path: str) -> str:
        return decode(folder.sandbox.read(folder.sandbox.locate(path), self.max_file_bytes), path)


class NotASkill(Exception):
    """A file that is called like a skill and is none."""


def _skill_files(folder: SkillFolder) -> Iterator[str]:
    try:
        place = folder.sandbox.locate(folder.path)
        for found in folder.sandbox.walk(place, most=MAX_VISITED, skip=_SKIPPED):
            if found.is_file and found.name.rpartition("/")[2] == SKILL_FILE:
                yield found.name if folder.path == "." else f"{folder.path}/{found.name}"
    except FileRefused:
        return  # folders that are named and not there are nothing unusual


def _split(text: str) -> tuple[str, str]:
    """Front matter and the rest."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        raise NotASkill("it has no front matter")
    for index, line in enumerate(lines[1:], 1):
        if line.strip() == "---":
            return "".join(lines[1:index]), "".join(lines[index + 1 :])
    raise NotASkill("its front matter does not end")


def _facts(front: str) -> Mapping[str, Any]:
    if len(front) > MAX_FRONT_MATTER:
        raise NotASkill(f"its front matter has more than {MAX_FRONT_MATTER:,} characters")
    try:
        _check(_yaml.parse(front, Loader=_LOADER))
        facts: Any = _yaml.load(front, Loader=_LOADER)
    except (yaml.YAMLError, ValueError):
        raise NotASkill("its front matter is not YAML") from None
    if not isinstance(facts, dict):
        raise NotASkill("its front matter is no mapping")
    return cast("Mapping[str, Any]", facts)


def _check(events: Iterable[Any]) -> None:
    """Refuse what is small and becomes large before anything is made of it: aliases and deep nests."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise NotASkill("its front matter has aliases or is nested too deep")


def _told(value: Any) -> str:
    return " ".join(str(value).split()) if isinstance(value, (str, int, float)) else ""
