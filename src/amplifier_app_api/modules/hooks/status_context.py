"""`hooks-status-context`: where the model is and when, in front of each of its answers.

The working directory, the state of its repository and the time, found out once at the beginning of each turn, so that
all requests of a turn say the same. It is part of the requests only and never of the conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from amplifier_app_api.modules.hooks.git_facts import GitFacts, git_facts
from amplifier_app_api.modules.hooks.registrations import CONTINUE, Registrations
from amplifier_app_api.modules.hooks.todo_reminder import Role, role_of
from amplifier_app_api.modules.kernel import PROMPT_SUBMIT, PROVIDER_REQUEST, HookResult
from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.sandbox import printable

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-status-context"

_LINE = 200
_GIVEN_UP_AFTER = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """`git_timeout` in seconds."""

    role: Role
    git: bool
    git_max_changes: int
    git_max_commits: int
    git_timeout: float
    time: bool
    timezone: ZoneInfo
    session: bool

    @classmethod
    def read(cls, options: Options) -> StatusOptions:
        return cls(
            role=role_of(options),
            git=options.flag("include_git", True),
            git_max_changes=options.integer("git_max_changes", 20, minimum=0),
            git_max_commits=options.integer("git_max_commits", 5, minimum=1),
            git_timeout=options.number("git_timeout", 2, minimum=0.1, maximum=30),
            time=options.flag("include_datetime", True),
            timezone=_timezone(options),
            session=options.flag("include_session", False),
        )


def _timezone(options: Options) -> ZoneInfo:
    name = options.text("timezone") or "UTC"
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise options.problem("timezone", f"names no time zone: {name}") from None


class Status:
    def __init__(self, coordinator: Any, options: StatusOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._text: str | None = None
        self._slow = 0

    async def on_prompt(self, event: str, data: dict[str, Any]) -> HookResult:
        self._text = None
        return CONTINUE

    async def on_request(self, event: str, data: dict[str, Any]) -> HookResult:
        if self._text is None:
            try:
                self._text = await self._found_out()
            except OSError:
                logger.warning("the state of a session's folder could not be found out", exc_info=True)
                self._text = ""
        if not self._text:
            return CONTINUE
        return HookResult(
            action="inject_context",
            context_injection=self._text,
            context_injection_role=self._options.role,
            ephemeral=True,
        )

    async def _found_out(self) -> str:
        options = self._options
        folder = self._coordinator.get_capability("session.working_dir")
        lines: list[str] = []
        if folder:
            lines.append(f"Working directory: {_shown(str(folder))}")
        if options.session:
            lines.append(f"Session: {self._coordinator.session_id}")
        if options.time:
            now = datetime.now(options.timezone)
            lines.append(f"Time: {now:%A, %Y-%m-%d %H:%M} {options.timezone.key}")
        if folder and options.git and self._slow < _GIVEN_UP_AFTER:
            lines += await self._git(Path(str(folder)))
        if not lines:
            return ""
        return "\n".join(["<status>", *lines, "This note is not from the user and needs no answer.", "</status>"])

    async def _git(self, folder: Path) -> list[str]:
        options = self._options
        facts = await git_facts(
            folder, changes=options.git_max_changes, commits=options.git_max_commits, seconds=options.git_timeout
        )
        if facts is None:
            return ["Git: no repository"]
        self._slow = self._slow + 1 if facts.commit and facts.changes is None else 0
        return _told(facts)


def _told(facts: GitFacts) -> list[str]:
    if facts.commit is None:
        return [f"Git: branch {facts.branch}, nothing known about its commits"]
    lines = [f"Git: {f'branch {facts.branch}' if facts.branch else 'detached'} at {facts.commit}"]
    if facts.changes:
        lines += ["Changed files:", *(f"  {_shown(line)}" for line in facts.changes)]
    elif facts.changes is not None:
        lines.append("Nothing is changed.")
    if facts.commits:
        lines += ["Latest commits:", *(f"  {_shown(line)}" for line in facts.commits)]
    return lines


def _shown(line: str) -> str:
    """One line that cannot end the note it stands in."""
    plain = "".join(c if c.isprintable() else " " for c in printable(line)).replace("<", "‹")
    return plain if len(plain) <= _LINE else f"{plain[:_LINE]}…"


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    options = Options(MODULE_ID, config)
    status = Status(coordinator, StatusOptions.read(options))
    handlers = Registrations(coordinator, MODULE_ID, options.integer("priority", 0))
    handlers.on(PROMPT_SUBMIT, status.on_prompt)
    handlers.on(PROVIDER_REQUEST, status.on_request)
    return handlers.close
