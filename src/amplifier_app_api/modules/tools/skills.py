"""`tool-skills`: knowledge that the model reads when it needs it.

Skills lie in folders below the session's, in others that the host lets be read, and in those of bundles, by mention
(`@namespace:skills`). They are looked for at the beginning and whenever they are listed; names and descriptions stand
in the tool's description, the text is loaded on demand.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from amplifier_app_api.modules.kernel import HookResult
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.folders import SessionFolders
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.sandbox import Sandbox
from amplifier_app_api.modules.tools.skills_files import Library, NotASkill, Skill, SkillFolder
from amplifier_app_api.modules.tools.tool import Arguments, Tool

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-skills"

DISCOVERED = "skills:discovered"
LOADED = "skill:loaded"
FOLDERS_OPTION = "skills_dirs"
DEFAULT_FOLDERS = (".amplifier/skills",)
MAX_DESCRIBED = 12_000
"""Characters of the tool's description that tell of skills."""
_MAX_LINE = 300

_events: Any = importlib.import_module("amplifier_core.events")
_BEGINNINGS: tuple[str, ...] = (_events.SESSION_START, _events.SESSION_RESUME)

_ABOUT = (
    "Skills are instructions for particular kinds of work. When a task matches the description of one, load it with "
    "skill_name before you begin, and follow it. Some have further files, which file reads."
)


@dataclass(frozen=True, slots=True)
class SkillsOptions:
    """Sizes in bytes, `max_content_size` in characters."""

    folders: list[str]
    max_file_bytes: int
    max_content_size: int

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> SkillsOptions:
        options = Options(MODULE_ID, values)
        named = [*options.texts(FOLDERS_OPTION), *options.texts("skills_dir")]
        return cls(
            folders=named or list(DEFAULT_FOLDERS),
            max_file_bytes=options.integer("max_file_bytes", 1_000_000, minimum=1_000),
            max_content_size=options.integer("max_content_size", 100_000, minimum=1_000),
        )


class Skills:
    """The skills of one session."""

    def __init__(self, coordinator: Any, options: SkillsOptions) -> None:
        self._coordinator = coordinator
        self._mentioned = [folder for folder in options.folders if folder.startswith("@")]
        self._named = [folder for folder in options.folders if not folder.startswith("@")]
        home = coordinator.get_capability("session.working_dir")
        further = [folder for folder in self._named if not _lies_in(home, folder)]
        self._folders = SessionFolders(coordinator, MODULE_ID, read={FOLDERS_OPTION: further}, write={})
        self._library = Library(options.max_file_bytes)
        self.options = options

    def check_limits(self) -> None:
        self._folders.check_limits()

    async def look(self) -> Mapping[str, Skill]:
        """Find what is there now, and say so."""
        places = self._places()
        await asyncio.to_thread(self._library.look, places)
        skills = self._library.skills
        facts = {
            "skill_count": len(skills),
            "skill_names": sorted(skills),
            "sources": [place.shown for place in places],
            "problems": self._library.problems[:20],
        }
        await self._coordinator.hooks.emit(DISCOVERED, facts)
        return skills

    @property
    def problems(self) -> list[str]:
        return self._library.problems[:20]

    async def named(self, name: str) -> Skill:
        """`Refused` when there is none; one that is new is found."""
        skill = self._library.skills.get(name) or (await self.look()).get(name)
        if skill is None:
            raise Refused(f"There is no skill {name!r}. Skills: {', '.join(sorted(self._library.skills)) or 'none'}")
        return skill

    async def load(self, skill: Skill) -> tuple[str, list[str]]:
        def work() -> tuple[str, list[str]]:
            return self._library.text(skill), self._library.further_files(skill)

        try:
            text, files = await asyncio.to_thread(work)
        except NotASkill as problem:
            raise Refused(f"The skill {skill.name!r} cannot be read any more: {problem}") from None
        facts = {"skill_name": skill.name, "source": skill.source.shown, "content_length": len(text)}
        await self._coordinator.hooks.emit(LOADED, {**facts, "version": skill.facts.get("version")})
        return text, files

    async def file(self, skill: Skill, name: str) -> str:
        return await asyncio.to_thread(self._library.further_file, skill, name)

    def _places(self) -> list[SkillFolder]:
        places = [SkillFolder(path, path, self._folders.readable()) for path in self._named]
        resolver: Any = self._coordinator.get_capability("mention_resolver")
        for mention in self._mentioned:
            path = resolver.resolve(mention) if resolver is not None else None
            if path is not None:
                places.append(SkillFolder(mention, ".", Sandbox([path])))
        return places


class LoadSkill(Tool):
    name = "load_skill"
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "skill_name": {"type": "string", "description": "The skill to load"},
            "file": {"type": "string", "description": "With skill_name: one of the skill's further files to read"},
            "list": {"type": "boolean", "description": "List all skills, new ones too"},
            "search": {"type": "string", "description": "List the skills whose name or description holds this"},
            "info": {"type": "string", "description": "Tell about this skill without loading it"},
        },
    }
    read_only = True
    idempotent = True

    def __init__(self, skills: Skills) -> None:
        self._skills = skills
        self.description = _ABOUT

    async def look(self) -> Mapping[str, Skill]:
        found = await self._skills.look()
        self.description = f"{_ABOUT}\n\nSkills:\n{_described(found)}"
        return found

    async def _run(self, given: Arguments) -> Any:
        name = given.optional_text("skill_name")
        if name is not None:
            return await self._load(await self._skills.named(name), given.optional_text("file"))
        about = given.optional_text("info")
        if about is not None:
            skill = await self._skills.named(about)
            return {"name": skill.name, "description": skill.description, **skill.facts, "source": skill.source.shown}
        searched = given.optional_text("search")
        if searched is None and not given.flag("list"):
            raise Refused("Say which skill (skill_name), or list or search them")
        return await self._listed((searched or "").lower())

    async def _listed(self, searched: str) -> dict[str, Any]:
        skills = (await self.look()).values()
        told: dict[str, Any] = {
            "skills": [
                {"name": skill.name, "description": skill.description}
                for skill in skills
                if searched in f"{skill.name} {skill.description}".lower()
            ]
        }
        if self._skills.problems:
            told["problems"] = self._skills.problems
        return told

    async def _load(self, skill: Skill, file: str | None) -> dict[str, Any]:
        most = self._skills.options.max_content_size
        if file is not None:
            return {"skill_name": skill.name, "file": file, "content": _cut(await self._skills.file(skill, file), most)}
        text, files = await self._skills.load(skill)
        return {
            "skill_name": skill.name,
            "content": _cut(text, most),
            "skill_directory": skill.path if skill.source.path != "." else f"{skill.source.shown}/{skill.path}",
            "files": files,
        }


def _lies_in(home: str | None, folder: str) -> bool:
    """Whether a folder is the session's own by its name; where its links lead is seen when it is read."""
    if not home:
        return False
    path = os.path.normpath(Path(home) / folder)
    return Path(path).is_relative_to(os.path.normpath(home))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most:,} characters left out]"


def _described(skills: Mapping[str, Skill]) -> str:
    lines: list[str] = []
    room = MAX_DESCRIBED
    for name in sorted(skills):
        line = f"- {name}: {skills[name].description}"
        line = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} […]"
        room -= len(line)
        if room < 0:
            return "\n".join([*lines, f"[{len(skills) - len(lines)} more: list shows them]"])
        lines.append(line)
    return "\n".join(lines) or "(none yet)"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], Awaitable[None]]:
    skills = Skills(coordinator, SkillsOptions.read(config))
    skills.check_limits()
    tool = LoadSkill(skills)
    coordinator.register_contributor("observability.events", MODULE_ID, lambda: [DISCOVERED, LOADED])

    async def begin(event: str, data: dict[str, Any]) -> HookResult:
        # Not at mounting: only now can mentions be resolved.
        await tool.look()
        return HookResult(action="continue")

    removers: list[Callable[[], None]] = [
        coordinator.hooks.register(event, begin, 0, f"{MODULE_ID}:{event}") for event in _BEGINNINGS
    ]
    await coordinator.mount("tools", tool, name=tool.name)

    async def close() -> None:
        for remove in removers:
            remove()

    return close
