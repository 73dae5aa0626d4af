"""Goals: going on after an answer until a condition holds.

Whoever can reach the coordinator sets one, as `coordinator.session_state["goal"] = {"condition": ..., "cap": ...}`:
a hook, a tool, a host. After each answer a model that was not part of the conversation judges whether the condition
holds. When it does not, its reason goes to the assistant as another message of the user. `orchestrator:goal_progress`
tells of every verdict: `continuing`, or how the pursuit ended: `achieved`, `stalled`, `cap_hit`, `cancelled`, `error`.

It ends for certain. `cap` bounds the answers of one goal, `goal_max_continuations` those of any, `max_iterations` the
model calls of the turn; and a pursuit that makes no progress is given one chance to try something else. Signs of that
are answers without tool calls, or reasons that repeat each other; whether they mean it the judge is asked.

The goal is a dict of the session's state that everybody may read and whoever set it may take away. What a restart
needs of it goes with the messages of the user (`metadata.goal`), so that a turn which goes on in another process
still knows what it is after.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from amplifier_app_api.modules.options import Options

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Goal = dict[str, Any]

SCHEMA_VERSION = 1
REASON_CHARS = 1_000
SUMMARY_CHARS = 120

STALLS: Mapping[str, str] = {
    "time-locked": "what is missing depends on time that has to pass",
    "structure-locked": "the surroundings do not allow the condition to hold",
    "history-locked": "something that has happened already rules the condition out",
}
"""Why a goal can be out of reach, as the judge says it."""
RESOLVABLE = "resolvable"


@dataclass(frozen=True, slots=True)
class Preference:
    """A model that may judge: the name of a provider, a model or a pattern, and arguments of its calls."""

    provider: str
    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


DEFAULT_PREFERENCES = (
    Preference("anthropic", "claude-haiku-*"),
    Preference("openai", "gpt-*-mini*"),
    Preference("gemini", "gemini-*-flash*"),
)
"""Models that judge well enough and cost little."""


@dataclass(frozen=True, slots=True)
class GoalOptions:
    """The options `goal_*` of a loop. A bound on the transcript of 0 or less is none."""

    stall_threshold: int  # answers without tool calls in a row before the judge is asked; below 1: never
    busy_stall_window: int  # reasons that must resemble each other; below 2: never
    busy_stall_min_overlap: float  # of their words, 0 to 1
    model_role: str
    provider_preferences: tuple[Preference, ...]
    max_transcript_messages: int
    tool_content_clip_chars: int
    transcript_char_budget: int
    summary_max_reasons: int
    max_continuations: int

    @classmethod
    def read(cls, module: str, values: Mapping[str, Any] | None) -> GoalOptions:
        options = Options(module, values)
        return cls(
            stall_threshold=options.integer("goal_stall_threshold", 3),
            busy_stall_window=options.integer("goal_busy_stall_window", 3),
            busy_stall_min_overlap=options.number("goal_busy_stall_min_overlap", 0.5, minimum=0, maximum=1),
            model_role=options.text("goal_model_role") or "fast",
            provider_preferences=_preferences(options, (values or {}).get("goal_provider_preferences")),
            max_transcript_messages=options.integer("goal_max_transcript_messages", 40),
            tool_content_clip_chars=options.integer("goal_tool_content_clip_chars", 2_000),
            transcript_char_budget=options.integer("goal_transcript_char_budget", 20_000),
            summary_max_reasons=options.integer("goal_summary_max_reasons", 20),
            max_continuations=options.integer("goal_max_continuations", 50, minimum=0),
        )


def _preferences(options: Options, value: Any) -> tuple[Preference, ...]:
    if value is None:
        return DEFAULT_PREFERENCES
    return tuple(
        _preference(options, entry) for entry in (cast("list[Any]", value) if isinstance(value, list) else [value])
    )


def _preference(options: Options, entry: Any) -> Preference:
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {"provider": entry}
    provider, model, config = fields.get("provider"), fields.get("model"), fields.get("config")
    if not isinstance(provider, str) or not isinstance(model, str) or not isinstance(config, Mapping | None):
        raise options.problem("goal_provider_preferences", "must be a list of mappings with `provider` and `model`")
    return Preference(provider, model, dict(cast("Mapping[str, Any]", config or {})))


class Judge(Protocol):
    """Who is asked. Each may raise: then there is no verdict."""

    async def holds(self, condition: str) -> tuple[bool, str]:
        """Whether the condition holds, and why."""
        ...

    async def stall(self, condition: str, reasons: Sequence[str], *, idle: bool) -> tuple[str, str]:
        """One of `STALLS` or `RESOLVABLE`, and why. `idle`: there were no tool calls meanwhile."""
        ...

    async def summary(self, condition: str, reasons: Sequence[str], *, state: str) -> str:
        """One line on what is in the way of the condition (`stalled`), or what is still missing (`cap_hit`)."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What follows a verdict. `prompt` is said to the assistant next; None: the pursuit is over."""

    facts: dict[str, Any]  # of `orchestrator:goal_progress`
    prompt: str | None = None


class Pursuit:
    """What one turn knows of the goal of its session."""

    def __init__(self, loop: str, options: GoalOptions, state: MutableMapping[str, Any]) -> None:
        self._loop = loop
        self._options = options
        self._state = state
        self._continued = False
        self.continuations = 0

    @property
    def goal(self) -> Goal | None:
        """The goal as it is now; read again each time, since others may take it away."""
        goal: Any = self._state.get("goal")
        if goal is None:
            return None
        condition: Any = cast("Goal", goal).get("condition") if isinstance(goal, dict) else None
        if not isinstance(condition, str) or not condition.strip():
            logger.warning("a goal without a condition is none")
            return None
        _complete(cast("Goal", goal))
        return cast("Goal", goal)

    @property
    def active(self) -> bool:
        """Whether there is a goal."""
        return self.goal is not None

    @property
    def turn(self) -> int | None:
        """Which answer to the goal is being made, from 1; None without a goal."""
        goal = self.goal
        return None if goal is None else goal["turns_used"] + 1

    def message(self, text: str) -> Row:
        """A message of the user, with what a restart needs of the goal."""
        row: Row = {"role": "user", "content": text}
        goal = self.goal
        return row if goal is None else {**row, "metadata": {"goal": {**goal, "reasons": [*goal["reasons"]]}}}

    def restore(self, rows: Sequence[Row]) -> None:
        """Take the goal up again that the messages of a turn were said for, unless there is one."""
        kept = [goal for row in rows if row.get("role") == "user" and (goal := goal_of(row)) is not None]
        if kept:
            self._continued = _count(kept[-1].get("continuations")) > 0
            if self._state.get("goal") is None:
                self._state["goal"] = {**kept[-1], "reasons": [*kept[-1].get("reasons", [])]}

    async def judged(self, judge: Judge, *, acted: bool) -> Step | None:
        """What to do after an answer, `acted` when tools were called for it. None: there is no goal any more."""
        goal = self.goal
        if goal is None:
            return None
        goal["turns_used"] += 1
        try:
            holds, reason = await judge.holds(goal["condition"])
        except Exception as error:  # a provider or a hook may raise anything; an unjudged answer is not a success
            logger.exception("an answer could not be judged")
            return self.ended("error", str(error) or type(error).__name__)
        reason = reason[:REASON_CHARS]
        goal["last_reason"] = reason
        goal["reasons"].append(reason)
        if holds:
            return self.ended("achieved", reason)
        verdict, detail, idle = await self._stall(goal, judge, acted=acted)
        used_up = self._used_up(goal)
        if verdict is not None and (goal["escalated"] or used_up):
            return self.ended(
                "stalled", reason, verdict=verdict, detail=detail, summary=await self._line(judge, "stalled")
            )
        if used_up:
            return self.ended("cap_hit", reason, summary=await self._line(judge, "cap_hit"))
        if verdict is not None:
            goal["escalated"] = True
        prompt = (
            self._continuation(goal, reason) if verdict is None else self._escalation(goal, reason, verdict, idle=idle)
        )
        return Step(self._facts(goal, "continuing", reason, verdict=verdict), prompt)

    def continuing(self) -> None:
        """The prompt of a step is said to the assistant."""
        goal = self.goal
        self._continued = True
        if goal is not None:
            goal["continuations"] += 1

    def ended(
        self,
        state: str,
        reason: str,
        *,
        verdict: str | None = None,
        detail: str | None = None,
        summary: str | None = None,
    ) -> Step | None:
        """The pursuit is over; the session has no goal any more. None: it had none."""
        goal = self.goal
        self._state["goal"] = None
        if goal is None:
            return None
        return Step(self._facts(goal, state, reason, verdict=verdict, detail=detail, summary=summary))

    def _used_up(self, goal: Goal) -> bool:
        cap = goal["cap"]
        return (cap is not None and goal["turns_used"] >= cap) or goal[
            "continuations"
        ] >= self._options.max_continuations

    async def _stall(self, goal: Goal, judge: Judge, *, acted: bool) -> tuple[str | None, str | None, bool]:
        """Which of `STALLS` it is, why, and whether nothing was done meanwhile."""
        if not self._continued:
            return None, None, False
        goal["no_tool_turns"] = 0 if acted else goal["no_tool_turns"] + 1
        idle = 1 <= self._options.stall_threshold <= goal["no_tool_turns"]
        if not idle and not self._repeats_itself(goal["reasons"]):
            return None, None, False
        window = goal["no_tool_turns"] if idle else self._options.busy_stall_window
        try:
            verdict, detail = await judge.stall(goal["condition"], goal["reasons"][-window:], idle=idle)
        except Exception:  # without a verdict it is not called a stall; the bounds end it all the same
            logger.warning("nobody could judge whether a goal is out of reach", exc_info=True)
            return None, None, idle
        return (verdict, detail, idle) if verdict in STALLS else (None, None, idle)

    def _repeats_itself(self, reasons: Sequence[str]) -> bool:
        """Whether the last reasons are about the same words as the first of them."""
        window = self._options.busy_stall_window
        if window < 2 or len(reasons) < window:
            return False
        first, *others = [_words(reason) for reason in reasons[-window:]]
        return all(_overlap(first, other) >= self._options.busy_stall_min_overlap for other in others)

    async def _line(self, judge: Judge, state: str) -> str:
        goal = self.goal
        reasons: list[str] = [] if goal is None else goal["reasons"]
        most = self._options.summary_max_reasons
        try:
            told = await judge.summary(
                "" if goal is None else goal["condition"], reasons[-most:] if most > 0 else reasons, state=state
            )
        except Exception:  # a line for people is no reason to fail
            logger.warning("the end of a goal could not be summed up", exc_info=True)
            told = ""
        return _one_line(told or (reasons[-1] if reasons else state))

    def _continuation(self, goal: Goal, reason: str) -> str:
        return (
            f"The goal is not reached yet: {reason}\n\nThe goal: {goal['condition']}\n\n"
            "Go on until it is, and show in your answer what proves it."
        )

    def _escalation(self, goal: Goal, reason: str, verdict: str, *, idle: bool) -> str:
        turns = goal["no_tool_turns"] if idle else self._options.busy_stall_window
        meanwhile = "without a single tool call" if idle else "whatever you did meanwhile"
        return (
            f"For {turns} answers the same has been in the way of the goal, {meanwhile}: {reason}\n\n"
            f"The goal: {goal['condition']}\n\n"
            f"It looks out of reach: {STALLS[verdict]}. Try something that differs from all you have tried, or say "
            "plainly that it cannot be reached as it stands, and why."
        )

    def _facts(
        self,
        goal: Goal,
        state: str,
        reason: str,
        *,
        verdict: str | None = None,
        detail: str | None = None,
        summary: str | None = None,
    ) -> dict[str, Any]:
        reasons: list[str] = goal["reasons"]
        return {
            "orchestrator": self._loop,
            "state": state,
            "turn": goal["turns_used"],
            "continuations": goal["continuations"],
            "cap": goal["cap"],
            "condition": goal["condition"],
            "reason": reason,
            "reasons": _collapsed(reasons),
            "distinct_blockers": len({_plain(each) for each in reasons}),
            "stall_verdict": verdict,
            "stall_detail": detail,
            "summary": summary,
            "schema_version": SCHEMA_VERSION,
        }


def goal_of(row: Row) -> Goal | None:
    """The goal that a message of the user was said for."""
    metadata: Any = row.get("metadata")
    goal: Any = cast("Row", metadata).get("goal") if isinstance(metadata, dict) else None
    return cast("Goal", goal) if isinstance(goal, dict) else None


def _complete(goal: Goal) -> None:
    """Give a goal what it may do without at first, and numbers where there is something else."""
    for name in ("turns_used", "continuations", "no_tool_turns"):
        goal[name] = _count(goal.get(name))
    goal["cap"] = _count(goal.get("cap")) or None
    goal.setdefault("last_reason", None)
    goal.setdefault("escalated", False)
    if not isinstance(goal.get("reasons"), list):
        goal["reasons"] = []


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _plain(reason: str) -> str:
    return " ".join(str(reason).lower().split())


def _collapsed(reasons: Sequence[str]) -> list[str]:
    """Reasons in a row that say the same, as one with how often it came."""
    runs: list[tuple[str, int]] = []
    for reason in reasons:
        if runs and _plain(runs[-1][0]) == _plain(reason):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((reason, 1))
    return [reason if times == 1 else f"{reason} ({times} times)" for reason, times in runs]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _overlap(one: set[str], other: set[str]) -> float:
    together = one | other
    return len(one & other) / len(together) if together else 1.0


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SUMMARY_CHARS else line[: SUMMARY_CHARS - 1].rstrip() + "…"
