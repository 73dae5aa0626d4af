"""From what a delegating tool asks for to the layer that a child's plan is made with."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.bundles import Sources, Unresolved, VariableScope, expand
from amplifier_app_api.bundles.preferences import Preference, choose
from amplifier_app_api.bundles.prepare import load_further
from amplifier_app_api.bundles.values import is_list, is_mapping
from amplifier_app_api.runtime.kernel.proxies import json_copy
from amplifier_app_api.runtime.kernel.spawning import models_of
from amplifier_app_api.runtime.lineage import (
    SELF,
    Layer,
    as_written,
    instruction_in,
    literal,
    overlay_of_bundle,
    with_literal_options,
)
from amplifier_app_api.runtime.opening import OpenedSession


class UnknownAgent(FileNotFoundError, ValueError):
    """There is no such agent. The sentence is for the model that delegated."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """What a tool asks of `session.spawn`, as it came. `agents` are those its session knows by now."""

    agent: str
    agents: Mapping[str, Any] | None = None
    tools: Mapping[str, Any] = field(default_factory=dict[str, Any])
    hooks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    orchestrator: Mapping[str, Any] = field(default_factory=dict[str, Any])
    preferences: Sequence[Any] = ()
    self_depth: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def layer_of(asked: Delegated, parent: OpenedSession, scope: VariableScope, sources: Sources) -> Layer:
    """The layer that a child of `parent` lays over its plan. `UnknownAgent`; `InvalidPreference`."""
    plan = await asyncio.to_thread(parent.lineage.plan, parent.prepared.plan())
    written = _agents_in(plan)
    known = json_copy(_agents_in(parent.kernel.session.config) if asked.agents is None else asked.agents)
    overlay, context = await _overlay(asked.agent, known, written, scope, parent, sources)
    access = overlay.get("agents")
    layer = Layer(
        agent=asked.agent,
        overlay=overlay,
        instruction=instruction_in(overlay),
        context=context,
        further={
            name: with_literal_options(definition)
            for name, definition in known.items()
            if name not in written and access != "none" and (not is_list(access) or name in access)
        },
        tools=json_copy(dict(asked.tools)),
        hooks=json_copy(dict(asked.hooks)),
        orchestrator=literal(json_copy(dict(asked.orchestrator))),
        self_depth=max(parent.lineage.self_depth + 1, asked.self_depth) if asked.agent == SELF else 0,
        metadata=json_copy(dict(asked.metadata)),
    )
    wanted = _preferences(asked.preferences or overlay.get("provider_preferences") or ())
    if wanted:
        layer = layer.model_copy(update={"preference": await _chosen(layer.over(plan), wanted, parent)})
    return layer


async def _overlay(
    agent: str,
    known: Mapping[str, Any],
    written: Mapping[str, Any],
    scope: VariableScope,
    parent: OpenedSession,
    sources: Sources,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An agent's definition, and the context files that come with it."""
    if agent == SELF:
        return {}, {}
    if is_mapping(known.get(agent)):
        own: Mapping[str, Any] = written[agent] if is_mapping(written.get(agent)) else {}
        filled_in = expand({"agents": {agent: own}}, scope)["agents"][agent]
        return as_written(known[agent], filled_in, own), {}
    if is_mapping(written.get(agent)):
        return dict(written[agent]), {}
    if _is_reference(agent):
        try:
            bundle = await load_further(parent.prepared, agent, sources)
        except Unresolved as problem:
            raise UnknownAgent(f"There is no agent {agent!r}: {problem.detail}") from None
        return overlay_of_bundle(bundle), dict(bundle.context)
    names = ", ".join(sorted({*known, *written})) or "none"
    raise UnknownAgent(f"There is no agent {agent!r}. Those that there are: {names}.")


def _is_reference(agent: str) -> bool:
    """Whether a name is `namespace:path`. A source is none: what a model says does not bring code in."""
    namespace, colon, path = agent.partition(":")
    return bool(colon and path) and namespace.replace("-", "_").replace(".", "_").isidentifier() and path[:2] != "//"


def _agents_in(plan: Mapping[str, Any]) -> dict[str, Any]:
    agents: Any = plan.get("agents")
    return agents if is_mapping(agents) else {}


def _preferences(given: Iterable[Any]) -> list[Preference]:
    """Preferences as mappings; modules have objects of their own for them."""
    return [json_copy(one) if is_mapping(one) else _attributes(one) for one in given]


def _attributes(preference: Any) -> Preference:
    found = {name: getattr(preference, name, None) for name in ("provider", "model", "config")}
    return json_copy({name: value for name, value in found.items() if value is not None})


async def _chosen(
    plan: Mapping[str, Any], wanted: Sequence[Preference], parent: OpenedSession
) -> dict[str, Any] | None:
    async def models(entry: Mapping[str, Any]) -> Sequence[str]:
        return await models_of(parent.kernel, entry)

    chosen = await choose(plan, wanted, models)
    return None if chosen is None else {**literal(chosen), "provider": chosen["provider"]}
