"""What a child session was started with, and the plan and prompt that makes of those of its root.

A child is opened again after a restart from exactly this: it is kept, sealed, in the child's row. A child of a child
carries the layers of all that are above it, so that nobody above has to be opened for it.

Options that come from a running module or from a model are no text of the document: what looks like a variable in
them is not one. They are kept with `${` escaped, and filled in, last of all, with the plan they were laid over, so
that the rule which keys go to which host sees the provider as it will be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from amplifier_app_api.bundles import Bundle
from amplifier_app_api.bundles.delegation import child_plan, inherited
from amplifier_app_api.bundles.preferences import prefer
from amplifier_app_api.bundles.prompt import SystemPrompt
from amplifier_app_api.runtime.kernel.spawning import with_orchestrator_options

SELF = "self"
"""The agent that is a session itself once more."""

_SECTIONS = ("session", "providers", "tools", "hooks", "agents", "spawn")


class Layer(BaseModel):
    """One delegation. `overlay` is the agent's definition, `further` are agents that its parent came to know later."""

    agent: str
    overlay: dict[str, Any] = Field(default_factory=dict)
    instruction: str | None = None
    context: dict[str, Path] = Field(default_factory=dict)
    further: dict[str, Any] = Field(default_factory=dict)
    tools: dict[str, Any] = Field(default_factory=dict)
    hooks: dict[str, Any] = Field(default_factory=dict)
    orchestrator: dict[str, Any] = Field(default_factory=dict)
    preference: dict[str, Any] | None = None
    self_depth: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)

    def over(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """The plan of the child of a session that has `plan`."""
        mine = {key: value for key, value in self.overlay.items() if key in _SECTIONS}
        laid = child_plan(plan, mine)
        laid = inherited(laid, "tools", self.tools, mine.get("tools") or ())
        laid = inherited(laid, "hooks", self.hooks, mine.get("hooks") or ())
        if self.further:
            laid["agents"] = {**self.further, **(laid.get("agents") or {})}
        if self.orchestrator:
            laid = with_orchestrator_options(laid, self.orchestrator)
        if self.preference is not None:
            laid = prefer(laid, [self.preference])
        if self.metadata:
            laid["session"] = {**(laid.get("session") or {}), "metadata": self.metadata}
        return laid


@dataclass(frozen=True, slots=True)
class Lineage:
    """The delegations that lead from a root to a child, the root's first. A root has none."""

    layers: tuple[Layer, ...] = ()

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> "Lineage":
        """The lineage that `as_json` gave."""
        return cls(tuple(Layer.model_validate(layer) for layer in value))

    def as_json(self) -> list[dict[str, Any]]:
        """The lineage as a row keeps it, once it is sealed."""
        return [layer.model_dump(mode="json", exclude_defaults=True) for layer in self.layers]

    def below(self, layer: Layer) -> "Lineage":
        """The lineage of a child of this one."""
        return Lineage((*self.layers, layer))

    @property
    def self_depth(self) -> int:
        """How often a session has delegated to itself without a break."""
        return self.layers[-1].self_depth if self.layers else 0

    def plan(self, root: dict[str, Any]) -> dict[str, Any]:
        """The mount plan, its variables still in it. `root` belongs to the caller."""
        plan = root
        for layer in self.layers:
            plan = layer.over(plan)
        return plan

    def prompt(self, root: SystemPrompt) -> SystemPrompt:
        """The prompt: the instruction of the nearest agent that has one, with the context of all."""
        prompt = root
        for layer in self.layers:
            context = {**prompt.context, **layer.context}
            prompt = replace(prompt, instruction=layer.instruction or prompt.instruction, context=context)
        return prompt


def overlay_of_bundle(bundle: Bundle) -> dict[str, Any]:
    """A whole bundle as the definition of an agent."""
    sections = {name: getattr(bundle, name) for name in ("session", "providers", "tools", "hooks")}
    overlay = {name: _plain(value) for name, value in sections.items() if value}
    return {**overlay, **({"instruction": bundle.instruction} if bundle.instruction else {})}


def instruction_in(overlay: Mapping[str, Any]) -> str | None:
    """What an agent's definition tells it, at the top or below `system`."""
    nested: Any = overlay.get("system")
    said = overlay.get("instruction") or (nested.get("instruction") if isinstance(nested, Mapping) else None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return said if isinstance(said, str) and said else None


def as_written(given: Mapping[str, Any], filled_in: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's definition as a running session has it, with its variables where the document has them.

    `filled_in` is what the session began with, `written` the same with its variables. What a module changed since is
    literal.
    """
    return {
        key: written[key] if key in written and filled_in.get(key) == value else with_literal_options(value)
        for key, value in given.items()
    }


def with_literal_options(value: Any) -> Any:
    """An agent's definition, or a part of it, with its options literal: those are what is filled in."""
    match value:
        case Mapping():
            return {
                key: literal(item) if key == "config" else with_literal_options(item)
                for key, item in value.items()  # pyright: ignore[reportUnknownVariableType]
            }
        case list() | tuple():
            return [with_literal_options(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def literal(value: Any) -> Any:
    """Options in which nothing is a variable once the plan they are part of is filled in."""
    return _mapped(value, lambda text: text.replace("${", "$${"))


def _plain(value: Any) -> Any:
    """Tuples as lists, and mappings of whatever kind as dicts."""
    return _mapped(value, str)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case Mapping():
            return {key: _mapped(item, change) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_mapped(item, change) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
