"""A prepared bundle as a plan that can be shown: what would be mounted, where each value was written, what is wrong.

A plan holds no secret. Variables stay as they are written; whatever else stands under the name of a secret is
masked, and so are user and password in an address.
"""

import math
import os.path
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from amplifier_app_api.errors import ErrorItem
from amplifier_app_api.models.plan import Origin, Plan, PlannedModule, PlannedSource, PlanProblem
from amplifier_app_api.observability.redaction import MASK, names_secret, without_user_info

from .bundle import ModuleSpec
from .prepare import PreparedBundle
from .provenance import Places, origins
from .tracing import Trace
from .validation import problems_of_values
from .values import is_list, is_mapping, pointer
from .variable_origins import variable_origins
from .variables import VariableScope, VariablesTooLong, missing_variables

_BARE_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def plan_of(prepared: PreparedBundle, found: Trace, scope: VariableScope) -> Plan:
    """The plan of a prepared bundle; `found` is a second walk over the same document."""
    provenance = origins(prepared.mount_plan, found.plan)
    written = Places(provenance)
    lacking = _lacking(prepared.mount_plan, scope)
    return Plan(
        storable=True,
        runnable=not prepared.problems and not lacking,
        mount_plan=masked(_portable(prepared.mount_plan, prepared)),
        provenance=provenance,
        modules=[_module(spec, prepared) for spec in prepared.bundle.modules() if spec.module],
        sources=[
            PlannedSource(uri=without_user_info(met.uri), resolved=without_user_info(met.resolved), commit=met.commit)
            for met in prepared.sources
        ],
        includes=found.includes,
        variables=list(variable_origins(prepared.mount_plan, scope)),
        problems=[*_problems(prepared, found, written), *(_of_variable(item, written) for item in lacking)],
        warnings=[without_user_info(warning) for warning in prepared.warnings],
    )


def _portable(value: Any, prepared: PreparedBundle) -> Any:
    """The value with paths below fetched sources told as the source and the place in it: where they lie is nobody's."""
    if is_mapping(value):
        return {key: _portable(item, prepared) for key, item in value.items()}
    if is_list(value):
        return [_portable(item, prepared) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    for met in prepared.sources:
        inside = value.removeprefix(f"{os.path.realpath(met.source_root)}/")
        if inside != value:
            return f"{met.resolved.partition('#')[0]}#subdirectory={inside}"
    return value


def shown(item: ErrorItem, origin: Origin | None = None) -> PlanProblem:
    """A problem without what must not be seen."""
    return PlanProblem(
        code=item.code,
        detail=without_user_info(item.detail),
        pointer=item.pointer,
        line=item.line,
        column=item.column,
        origin=origin,
    )


def masked(value: Any, *, secret: bool = False) -> Any:
    """The value as JSON, with every secret in it masked; `secret` says that it stands under the name of one."""
    if is_mapping(value):
        return {str(key): masked(item, secret=secret or names_secret(str(key))) for key, item in value.items()}
    if is_list(value):
        return [masked(item, secret=secret) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if secret:
        return value if value == "" or (isinstance(value, str) and _BARE_VARIABLE.fullmatch(value)) else MASK
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    # What JSON has no place for is a problem of the document; here it is told as a text.
    return without_user_info(value if isinstance(value, str) else str(value))


def _module(spec: ModuleSpec, prepared: PreparedBundle) -> PlannedModule:
    found = prepared.activations.get(spec.module)
    source = _portable(found.origin if found and found.kind == "source" else spec.source, prepared)
    return PlannedModule(
        id=spec.module,
        kind=spec.kind,
        origin=found.kind if found else "missing",
        source=without_user_info(source) if source else None,
        commit=found.commit if found else None,
        agent=spec.agent,
        pointer=pointer(*spec.path),
    )


def _problems(prepared: PreparedBundle, found: Trace, written: Places) -> Iterator[PlanProblem]:
    places = _places_of_problems(prepared)
    for item in prepared.problems:
        origin = found.origin_of(item)
        if item.pointer is None and origin is None and places.get(item.detail):
            origin = written.at(places[item.detail].popleft())
        yield shown(item, origin if origin and origin.includes else None)


def _places_of_problems(prepared: PreparedBundle) -> dict[str, deque[str]]:
    """By their sentences, the places of the mount plan that are wrong: a problem itself has those of the document."""
    modules: dict[str, list[str]] = {}
    for spec in prepared.bundle.modules():
        modules.setdefault(spec.module, []).append(pointer(*spec.path))
    places: dict[str, deque[str]] = {}
    for problem in prepared.module_problems:
        places.setdefault(problem.item.detail, deque(modules.get(problem.module, [])))
    for item in problems_of_values(prepared.mount_plan):
        places.setdefault(item.detail, deque()).append(item.pointer or "")
    return places


def _lacking(plan: dict[str, Any], scope: VariableScope) -> tuple[ErrorItem, ...]:
    try:
        return missing_variables(plan, scope)
    except VariablesTooLong as refusal:
        return refusal.items


def _of_variable(item: ErrorItem, written: Places) -> PlanProblem:
    """A variable without a value, at the place of the document that names it."""
    origin = written.at(item.pointer or "")
    if origin is None or origin.includes:
        return shown(replace(item, pointer=None), origin)
    return shown(replace(item, pointer=origin.pointer, line=origin.line))
