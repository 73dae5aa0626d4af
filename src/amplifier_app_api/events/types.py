"""Which types of events there are to choose from."""

from typing import get_args

from amplifier_app_api.models.event import DURABLE_EVENTS, DeltaType

DURABLE_TYPES = frozenset(str(event.model_fields["type"].default) for event in DURABLE_EVENTS)
DELTA_TYPES = frozenset(get_args(DeltaType))
EVENT_TYPES = DURABLE_TYPES | DELTA_TYPES


def types_named(name: str) -> frozenset[str]:
    """The types that a name stands for: its own, those of a family (`turn.*`), or all (`*`). Empty: it names none."""
    if name == "*":
        return EVENT_TYPES
    if name.endswith(".*"):
        return frozenset(known for known in EVENT_TYPES if known.startswith(name[:-1]))
    return EVENT_TYPES & {name}
