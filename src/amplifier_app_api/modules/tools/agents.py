"""What `tool-task` and `tool-delegate` share: who can be asked, and asking.

A child session is the host's to make. Its capability `session.spawn` runs one task in a new child, `session.resume`
gives a known child another; both answer with a mapping of at least `output` and `session_id`. Whatever goes wrong
there becomes a failed result for the model.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments

logger = logging.getLogger(__name__)

SPAWN_CAPABILITY = "session.spawn"
RESUME_CAPABILITY = "session.resume"
DEPTH_CAPABILITY = "self_delegation_depth"

MAX_INSTRUCTION = 100_000
MAX_NAME = 200
MAX_ID = 300
_MAX_DESCRIBED = 1_000
_MAX_REASON = 1_000
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9]+")
_FAILED = frozenset(("error", "failed", "failure", "cancelled", "timeout"))

Outcome = Mapping[str, Any]
"""What the host's capabilities answer: `output`, `session_id`, perhaps `status`, `turn_count` and `metadata`."""


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else nothing."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


class Roster:
    """The agents of a session's bundle: what each is for, and its overlay of the parent's mount plan."""

    def __init__(self, coordinator: Any) -> None:
        named = mapping(mapping(coordinator.config).get("agents"))
        self.configs: dict[str, Any] = {
            str(name): overlay for name, overlay in named.items() if isinstance(overlay, Mapping)
        }

    def find(self, name: str | None) -> str | None:
        """The whole name of an agent. The part behind its namespace is enough where only one agent has it."""
        if name is None or name in self.configs:
            return name
        short = [whole for whole in self.configs if whole.rpartition(":")[2] == name]
        return short[0] if len(short) == 1 else None

    def told(self) -> str:
        """The agents as lines for a description; empty when there are none."""
        return "\n".join(f"- {name}: {_description(self.configs[name])}" for name in sorted(self.configs))

    def names(self) -> str:
        return ", ".join(sorted(self.configs)) or "none"


def _description(overlay: Mapping[str, Any]) -> str:
    given = overlay.get("description") or mapping(overlay.get("meta")).get("description")
    text = " ".join(str(given).split()) if given else "no description"
    return text if len(text) <= _MAX_DESCRIBED else f"{text[:_MAX_DESCRIBED]} […]"


class Preference(dict[str, Any]):
    """A provider and model for a child: a mapping for some hosts, an object with attributes for others."""

    @property
    def provider(self) -> str:
        return self["provider"]

    @property
    def model(self) -> str:
        return self["model"]

    @property
    def config(self) -> dict[str, Any]:
        return self["config"]


def preferences_of(given: Arguments) -> list[Preference] | None:
    """The model's wishes, the first of them first; None when it has none."""
    value = given.value("provider_preferences")
    if not value:
        return None
    wishes: list[Preference] = []
    for entry in cast("list[Any]", value) if isinstance(value, list) else [value]:
        provider, model = mapping(entry).get("provider"), mapping(entry).get("model")
        if not isinstance(provider, str) or not provider or not isinstance(model, str) or not model:
            raise Refused("provider_preferences must be a list of {provider, model}")
        _plain(provider + model, "provider_preferences")
        wishes.append(Preference(provider=provider, model=model, config={}))
    return wishes


def inheritance(options: Options, kind: str, default: list[str] | None = None) -> dict[str, list[str]]:
    """What a child has of its parent's `tools` or `hooks`, as the host's spawn reads it: one list, or none."""
    for name in (f"inherit_{kind}", f"exclude_{kind}"):
        if options.has(name):
            return {name: options.texts(name)}
    return {f"exclude_{kind}": default} if default else {}


def instruction_of(given: Arguments) -> str:
    instruction = given.text("instruction").strip()
    if not instruction:
        raise Refused("instruction is empty: say what the agent is to do")
    if len(instruction) > MAX_INSTRUCTION:
        raise Refused(f"instruction has more than {MAX_INSTRUCTION:,} characters")
    return instruction


def name_of(given: Arguments) -> str | None:
    name = (given.optional_text("agent") or "").strip()
    if len(name) > MAX_NAME:
        raise Refused(f"agent has more than {MAX_NAME} characters")
    return _plain(name, "agent") or None


def session_of(given: Arguments) -> str | None:
    """The id of the child that shall go on, when there is one."""
    session_id = given.optional_text("session_id")
    if session_id is not None and len(session_id) > MAX_ID:
        raise Refused(f"session_id has more than {MAX_ID} characters")
    return None if session_id is None else _plain(session_id, "session_id")


def _plain(name: str, what: str) -> str:
    """A name can be told in events; half a character cannot."""
    if not name.isprintable():
        raise Refused(f"{what} holds characters that no name has")
    return name


def span() -> str:
    return secrets.token_hex(8)


def in_ids(agent: str) -> str:
    """The name of an agent as part of a session's id."""
    return _NOT_IN_IDS.sub("-", agent).strip("-") or "agent"


def loop_options(coordinator: Any) -> dict[str, Any] | None:
    """The options of this session's loop, whichever way the plan names it, for children to inherit."""
    config = mapping(coordinator.config)
    written = mapping(config.get("session")).get("orchestrator")
    holder = mapping(written) or mapping(config.get("orchestrator"))
    return dict(mapping(holder.get("config"))) or None


def offer_events(coordinator: Any, module: str, *events: str) -> None:
    """Tell those who subscribe by name which events this module emits."""
    coordinator.register_contributor("observability.events", module, lambda: list(events))


class ChildFailed(Refused):
    """A child could not do its task; the text is for the model."""


def capability(coordinator: Any, name: str) -> Callable[..., Awaitable[Outcome]]:
    found = coordinator.get_capability(name)
    if found is None:
        raise Refused(f"Agents cannot be asked here: this host does not offer {name}")
    return found


async def asked(ask: Callable[[], Awaitable[Outcome]], *, seconds: float | None, who: str) -> Outcome:
    """What a child answered; `ChildFailed` when it did not, or not within `seconds`."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await ask()
    except FileNotFoundError:
        raise ChildFailed(f"{who} is gone: there is no such session. Name an agent to start a new one") from None
    except Exception as error:
        # A host raises what it likes, and the model is told; a turn does not fail because a child did.
        if isinstance(error, TimeoutError) and limit.expired():
            raise ChildFailed(f"{who} did not finish within {seconds:g} seconds") from None
        logger.warning("a child session failed", exc_info=True)
        raise ChildFailed(f"{who} failed: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text[:_MAX_REASON]}"


def succeeded(outcome: Outcome) -> bool:
    """Whether a child that answered also did its task."""
    return str(outcome.get("status") or "success").lower() not in _FAILED
