"""Where the value of each variable would come from when a session opens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from amplifier_app_api.models.plan import PlannedVariable

from .shapes import MODULE_LISTS
from .values import is_list, is_mapping, pointer
from .variables import MissingVariables, VariableScope, VariablesTooLong, VariableUse, expand, find_variables

Path = tuple[str | int, ...]


def variable_origins(plan: Mapping[str, Any], scope: VariableScope) -> Iterator[PlannedVariable]:
    """Every use of a variable in a mount plan, in the order of the plan. Keys that a provider is given without
    naming them are among them."""
    for path, section, entry in _entries(plan):
        yield from _of_entry(path, section, entry, scope)


def _entries(plan: Mapping[str, Any], *at: str) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """The path, the section and the mapping of everything that has options."""
    session: Any = plan.get("session") or {}
    for role in ("orchestrator", "context"):
        module: Any = session.get(role)
        if is_mapping(module):
            yield (*at, "session", role), "tools", module
    for section in MODULE_LISTS:
        entries = plan.get(section)
        for index, entry in enumerate(entries if is_list(entries) else []):
            if is_mapping(entry):
                yield (*at, section, index), section, entry
    spawn = plan.get("spawn")
    if is_mapping(spawn):
        yield from _entries(spawn, *at, "spawn")
    agents: Any = {} if at else plan.get("agents") or {}
    for name, agent in agents.items():
        if is_mapping(agent):
            yield from _entries(agent, "agents", name)


@dataclass(frozen=True)
class _Watched(VariableScope):
    """A scope that remembers what it was asked, in order."""

    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]], repr=False)

    def value(self, name: str, hosts: Sequence[str] = ()) -> str | None:
        found = super().value(name, hosts)
        self.asked.append((name, found))
        return found


def _of_entry(path: Path, section: str, entry: dict[str, Any], scope: VariableScope) -> Iterator[PlannedVariable]:
    """The uses of one entry. Alone in a plan, its variables are asked for in the order they are found."""
    alone = {section: [entry]}
    uses = find_variables(alone)
    watched = _Watched(scope.given, scope.environment, scope.allowed)
    with suppress(MissingVariables, VariablesTooLong):  # told with the other problems
        expand(alone, watched)
    prefix = pointer(section, 0)
    for use, (_, value) in zip(uses, watched.asked, strict=False):
        yield PlannedVariable(
            name=use.name, pointer=pointer(*path) + use.pointer.removeprefix(prefix), origin=_origin(use, value, scope)
        )
    for name, value in watched.asked[len(uses) :]:
        if value:
            yield PlannedVariable(name=name, pointer=pointer(*path, "config", "api_key"), origin=_given(name, scope))
            break


def _origin(
    use: VariableUse, value: str | None, scope: VariableScope
) -> Literal["session", "environment", "default", "missing"]:
    if value or (value is not None and use.default is None and use.required is None):
        return _given(use.name, scope)
    return "missing" if use.default is None else "default"


def _given(name: str, scope: VariableScope) -> Literal["session", "environment"]:
    return "session" if name in scope.given else "environment"
