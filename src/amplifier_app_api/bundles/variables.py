"""`${NAME}` in the options of modules: found when a bundle is prepared, filled in when a session opens.

    ${NAME}             the value; a missing one stops the opening
    ${NAME:-default}    the default when the value is missing or empty
    ${NAME:default}     the default when the value is missing
    ${NAME:?message}    a missing or empty one stops the opening with this message
    $${NAME}            the text `${NAME}` itself

Only text values inside `config:` mappings are read, never keys. A value is put in as it is: it is not looked
into for further variables, and the result is always a text. Anything else that begins with `${` is no
variable and stays.

What is given with a session goes wherever the document says. What comes from the server's environment is the
operator's: only names they allow, and to a provider whose endpoint the document chooses only when they allow
that host, since whoever writes the document would otherwise read the key from their own server's log.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from amplifier_app_api.errors import ErrorItem, Unprocessable

from .values import is_list, is_mapping, pointer, texts_in

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<mark>[-?]?)(?P<rest>[^}]*))?\}")

WELL_KNOWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "provider-anthropic": ("ANTHROPIC_API_KEY",),
    "provider-openai": ("OPENAI_API_KEY",),
    "provider-azure-openai": ("AZURE_OPENAI_API_KEY",),
    "provider-gemini": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}
"""The variables a provider's key is taken from when its entry sets neither a key nor a `base_url`."""

_ENDPOINTS = ("base_url", "azure_endpoint", "endpoint", "api_base", "host", "proxy", "http_proxy", "https_proxy")
"""Options that decide where a provider sends its key."""

MAX_EXPANDED = 16 << 20
"""How many characters the values filled into one plan may have together."""

Path = tuple[str | int, ...]


class MissingVariables(Unprocessable):
    """Variables without a value; each item names one and its place in the mount plan, none holds a value."""

    code = "config_not_runnable"
    title = "The config cannot run as it stands"

    def __init__(self, items: Sequence[ErrorItem]) -> None:
        more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
        super().__init__(f"{items[0].detail}{more}", items=items)


class VariablesTooLong(Unprocessable):
    """The values, each as often as the options name it, are longer than a session may carry."""

    code = "config_not_runnable"
    title = "The config cannot run as it stands"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableUse:
    """One place that names a variable. `pointer` is a JSON pointer into the mount plan."""

    name: str
    pointer: str
    default: str | None = None
    required: str | None = None
    """The message of `${NAME:?message}`."""


@dataclass(frozen=True, slots=True)
class VariableScope:
    """Where values come from: `given` with the session first, then the `environment` as far as it is `allowed`.

    An entry of `allowed` is `NAME`, or `NAME@host` for providers whose entry sets its own endpoint.
    """

    given: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    allowed: Sequence[str] = ()

    def value(self, name: str, hosts: Sequence[str] = ()) -> str | None:
        """The value of a variable for an entry that sends it to these hosts; none are the module's own."""
        if name in self.given:
            return self.given[name]
        may_have = all(self._allows(name, host) for host in hosts) if hosts else name in self.allowed
        return self.environment.get(name) if may_have else None

    def _allows(self, name: str, host: str) -> bool:
        """Whether the operator gives the variable to a host; naming it without a port covers all of its ports."""
        without_port = host if host.endswith("]") else host.rpartition(":")[0]
        entries = {entry.partition("@")[2].lower() for entry in self.allowed if entry.startswith(f"{name}@")}
        return bool(entries & ({host, without_port} - {""}))


def find_variables(plan: Mapping[str, Any]) -> tuple[VariableUse, ...]:
    """Every variable the options in a mount plan name, in the order of the plan."""
    return tuple(
        _use(match, at)
        for place in _places(plan)
        for at, text in texts_in(place.config, *place.path)
        for match in _VARIABLE.finditer(text)
        if match["name"]
    )


def expand(plan: Mapping[str, Any], scope: VariableScope) -> dict[str, Any]:
    """A new plan with every variable replaced and well-known provider keys filled in.

    Raises `MissingVariables` naming all that have no value, and `VariablesTooLong`.
    """
    expanded: dict[str, Any] = copy.deepcopy(dict(plan))
    outcome = _Outcome()
    for place in _places(expanded):
        hosts = _hosts(place, scope)
        lookup = _Lookup(scope, hosts, outcome)
        config: dict[str, Any] = lookup.filled(place.config, place.path)
        if place.is_provider:
            _fill_in_key(str(place.entry.get("module")), config, scope, hosts)
        if config:
            place.entry["config"] = config
    if outcome.missing:
        raise MissingVariables(outcome.missing)
    return expanded


def missing_variables(plan: Mapping[str, Any], scope: VariableScope) -> tuple[ErrorItem, ...]:
    """The variables `expand` would refuse, to be listed with whatever else stands in the way."""
    try:
        expand(plan, scope)
    except MissingVariables as refusal:
        return refusal.items
    return ()


@dataclass(slots=True)
class _Outcome:
    """What came of filling in a plan so far."""

    missing: list[ErrorItem] = field(default_factory=list[ErrorItem])
    characters_left: int = MAX_EXPANDED

    def spend(self, value: str) -> str:
        """The value, counted: one long value in a thousand places would fill the memory."""
        self.characters_left -= len(value)
        if self.characters_left < 0:
            detail = f"The variables fill in more than {MAX_EXPANDED} characters."
            raise VariablesTooLong(detail, items=[ErrorItem(code="document_too_complex", detail=detail)])
        return value


@dataclass(frozen=True, slots=True)
class _Place:
    """An entry of the plan that names a module, with its options."""

    entry: dict[str, Any]
    config: dict[str, Any]
    path: Path
    is_provider: bool


def _places(plan: Mapping[str, Any], *prefix: str | int) -> Iterator[_Place]:
    session = plan.get("session")
    if is_mapping(session):
        for role in ("orchestrator", "context"):
            yield from _place(session.get(role), (*prefix, "session", role), is_provider=False)
    for section in ("providers", "tools", "hooks"):
        entries = plan.get(section)
        for index, entry in enumerate(entries if is_list(entries) else []):
            yield from _place(entry, (*prefix, section, index), is_provider=section == "providers")
    spawn = plan.get("spawn")
    if is_mapping(spawn):
        yield from _places(spawn, *prefix, "spawn")
    agents = plan.get("agents")
    if is_mapping(agents) and not prefix:
        for name, agent in agents.items():
            if is_mapping(agent):
                yield from _places(agent, "agents", name)


def _place(entry: object, path: Path, *, is_provider: bool) -> Iterator[_Place]:
    if not is_mapping(entry):
        return
    config = entry.get("config")
    if is_mapping(config):
        yield _Place(entry, config, (*path, "config"), is_provider)
    elif config is None and is_provider:
        yield _Place(entry, {}, (*path, "config"), is_provider)


def _use(match: re.Match[str], at: Path) -> VariableUse:
    return VariableUse(
        name=match["name"],
        pointer=pointer(*at),
        default=match["rest"] if match["mark"] in ("", "-") else None,
        required=match["rest"] if match["mark"] == "?" else None,
    )


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Fills in the options of one entry and notes what it cannot."""

    scope: VariableScope
    hosts: Sequence[str]
    outcome: _Outcome

    def filled(self, value: Any, at: Path) -> Any:
        """The value with every text inside it expanded."""
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: self._replacement(match, at), value)
        if is_mapping(value):
            return {key: self.filled(item, (*at, key)) for key, item in value.items()}
        if is_list(value):
            return [self.filled(item, (*at, index)) for index, item in enumerate(value)]
        return value

    def _replacement(self, match: re.Match[str], at: Path) -> str:
        if not match["name"]:
            return "${"
        use = _use(match, at)
        value = self.scope.value(use.name, self.hosts)
        if value or (value is not None and match["mark"] in (None, "")):
            return self.outcome.spend(value)
        if use.default is not None:
            return use.default
        self.outcome.missing.append(self._problem(use))
        return ""

    def _problem(self, use: VariableUse) -> ErrorItem:
        detail = f"The variable {use.name} has no value here."
        if use.required:
            detail = f"{use.name}: {use.required}"
        elif use.name in self.scope.environment and self.hosts:
            detail = (
                f"The variable {use.name} of the server's environment is not given to a provider with an endpoint of "
                f"its own, unless AMPLIFIER_ENV_ALLOW holds {use.name}@ and that host."
            )
        elif use.name in self.scope.environment:
            detail = f"The variable {use.name} of the server's environment is not in AMPLIFIER_ENV_ALLOW."
        return ErrorItem(code="missing_variable", detail=detail, pointer=use.pointer)


def _hosts(place: _Place, scope: VariableScope) -> list[str]:
    """The hosts an entry of a provider sends to by its own choice, as they are once its variables are known."""
    if not place.is_provider:
        return []
    lookup = _Lookup(VariableScope(scope.given, scope.environment, [*scope.environment]), (), _Outcome())
    chosen = [place.config[key] for key in _ENDPOINTS if place.config.get(key)]
    return [_host_of(str(lookup.filled(value, ()))) for value in chosen]


def _host_of(url: str) -> str:
    """Host and port as an entry of `allowed` writes them; an empty text, which none is, for what is no URL."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if host and port else host


def _fill_in_key(module: str, config: dict[str, Any], scope: VariableScope, hosts: Sequence[str]) -> None:
    """Give a provider that names neither a key nor a `base_url` the key its module is known for."""
    if config.get("api_key") or config.get("base_url"):
        return
    values = (scope.value(name, hosts) for name in WELL_KNOWN_KEYS.get(module, ()))
    if key := next((value for value in values if value), None):
        config["api_key"] = key


def expand_source(text: str, environment: Mapping[str, str], refuse: Callable[[str], Exception]) -> str:
    """A `source:` with its variables replaced from what the operator allows there; `refuse` makes the error."""

    def replacement(match: re.Match[str]) -> str:
        if not match["name"]:
            return "${"
        value = environment.get(match["name"])
        if value:
            return value
        if match["rest"] is not None and match["mark"] != "?":
            return match["rest"]
        raise refuse(f"The variable {match['name']} has no value that may stand in a source.")

    return _VARIABLE.sub(replacement, text)
