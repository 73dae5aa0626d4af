"""Options of a plan that say nothing: the modules that came with this server ignore what they do not know."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from amplifier_app_api.bundles import PreparedBundle
from amplifier_app_api.bundles.values import is_list, is_mapping, pointer, quoted
from amplifier_app_api.modules.schemas import unknown_options

_MOST = 100
"""How many are told of: a document of nothing else would make an answer of nothing else."""


def options_without_meaning(prepared: PreparedBundle) -> Iterator[str]:
    """A sentence for every option that a built-in module of the plan does not have, agents included."""
    return islice(_sentences(prepared), _MOST)


def _sentences(prepared: PreparedBundle) -> Iterator[str]:
    for spec in prepared.bundle.modules():
        found = prepared.activations.get(spec.module)
        if found is None or found.kind != "builtin":
            continue
        at = pointer(*spec.path, "config")
        for unknown in unknown_options(spec.module, _options(prepared.mount_plan, spec.path)):
            meant = "" if unknown.near is None else f": did you mean {quoted(unknown.near)}?"
            yield f"{spec.module} has no option {quoted('.'.join(unknown.path))} ({at}){meant}"


def _options(plan: Mapping[str, Any], path: tuple[str | int, ...]) -> Mapping[str, Any]:
    """The options of the entry at a place of the plan; an entry that is a mere name has none."""
    found: object = plan
    for step in (*path, "config"):
        if is_mapping(found):
            found = found.get(str(step))
        elif is_list(found) and isinstance(step, int) and step < len(found):
            found = found[step]
        else:
            return {}
    return found if is_mapping(found) else {}
