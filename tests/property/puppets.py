"""What the puppets of the session machine do (modules `provider-puppet`, `tool-puppet`), and where they wait.

A message is a label and a plan, `m3 [[["Hel", "lo"], ["count"]], [["done"], []]]`: model calls, each with the pieces
of its text and the tools it asks for. A message with an empty plan is a remark: it is heard. A puppet waits at every
point of its part until the test lets it go on.
"""

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import Message
from amplifier_app_api.modules.providers.anthropic_messages import translate
from histories import refused_by_anthropic

TOOLS = ("count", "look", "ask")
INPUT_TOKENS, OUTPUT_TOKENS = 10, 3

Plan = list[tuple[list[str], list[str]]]
"""The model calls of a turn: pieces of text, and names of tools."""

_MESSAGE = re.compile(r"(m\d+) (\[.*\])", re.DOTALL)

ACTOR: ContextVar[object | None] = ContextVar("ACTOR", default=None)
"""The process in which something happens."""


def message_text(label: str, plan: Plan) -> str:
    """The message that asks for a plan."""
    return f"{label} {json.dumps(plan)}"


def plan_of(text: str) -> tuple[str, Plan]:
    """The label and the plan of a message."""
    match = _MESSAGE.fullmatch(text)
    assert match is not None, text
    return match[1], json.loads(match[2])


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the model asks for. Its label names message, model call and place: it is asked for once."""

    call_id: str
    tool: str
    label: str

    @property
    def arguments(self) -> dict[str, Any]:
        return {"label": self.label}


@dataclass(eq=False, slots=True)
class Wait:
    """A puppet that waits. `actor` is the process it is in."""

    what: str
    actor: object | None
    go: asyncio.Future[None]


@dataclass
class Stage:
    """Where the puppets of one example play. `runs` counts runs by tool and label; `problems` is what they object to.

    Once it is `free` nobody waits any more.
    """

    free: bool = False
    waiting: list[Wait] = field(default_factory=list[Wait])
    runs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    problems: list[str] = field(default_factory=list[str])
    movements: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def wait(self, what: str) -> None:
        """Wait to be let go."""
        self.movements += 1
        if self.free:
            return
        waiting = Wait(what, ACTOR.get(), asyncio.get_running_loop().create_future())
        self.waiting.append(waiting)
        try:
            await waiting.go
        finally:
            self.movements += 1
            self.waiting.remove(waiting)

    def set_free(self) -> None:
        """Nobody waits from now on."""
        self.free = True
        for waiting in self.waiting:
            if not waiting.go.done():
                waiting.go.set_result(None)

    def next_part(self, messages: Sequence[Message]) -> tuple[list[str], list[Call]]:
        """What comes next in a conversation: the pieces of a text, and calls."""
        self._criticize(messages)
        said = [(index, *plan_of(str(one.content))) for index, one in enumerate(messages) if one.role == "user"]
        index, label, plan = said[-1]
        done = sum(message.role == "assistant" for message in messages[index:])
        if done < len(plan):
            pieces, tools = plan[done]
            return pieces, [self._call(tool, f"{label}.{done}.{place}") for place, tool in enumerate(tools)]
        return ["heard ", label], []

    def _call(self, tool: str, label: str) -> Call:
        return Call(f"call_{next(self._numbers)}", tool, label)

    def _criticize(self, messages: Sequence[Message]) -> None:
        conversation = translate(messages)
        self.problems += [f"a history had to be mended: {repair}" for repair in conversation.repairs]
        self.problems += refused_by_anthropic(conversation.messages)
        texts = Counter(str(message.content) for message in messages if message.role == "user")
        self.problems += [f"the model is told {text!r} {times} times" for text, times in texts.items() if times > 1]


_stage: Stage | None = None


def raise_curtain(stage: Stage) -> None:
    """Let the puppets play on this stage from now on."""
    global _stage
    _stage = stage


def on_stage() -> Stage:
    """The stage that is played on."""
    assert _stage is not None
    return _stage
